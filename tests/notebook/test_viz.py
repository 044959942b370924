"""Pictures: what is drawn, where, and under which name."""
import matplotlib
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from shotstream.data.script import as_strip
from shotstream.model.frame_table import next_shot_table, stack_stories
from shotstream.notebook.viz import show_curves, show_maps, show_strips, show_table


@pytest.fixture
def figure(monkeypatch):
    "The one figure that a call leaves"
    plt.close("all")
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    def draw(function, *args, **options):
        shown.clear()
        function(*args, **options)
        assert len(shown) == 1
        return shown[0]
    yield draw
    plt.close("all")


def test_one_row_for_each_shot(figure):
    shots = [torch.randint(256, (f, 8, 8, 3), dtype=torch.uint8) for f in (5, 12)]
    fig = figure(show_strips, shots, ["one", "two"], count=4)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["one", "two"]
    for ax, shot in zip(fig.axes, shots):
        assert (ax.images[0].get_array() == as_strip(shot, 4)).all() and not ax.axison
    alone = figure(show_strips, shots[:1])
    assert len(alone.axes) == 1 and alone.get_figheight() < fig.get_figheight()


def test_maps_side_by_side(figure):
    maps = [torch.rand(2, 3), torch.rand(3, 2)]
    fig = figure(show_maps, maps, ["a", "b"], ("row", "column"), vmin=0., vmax=2.)
    for ax, m, title in zip(fig.axes, maps, "ab"):
        assert (ax.images[0].get_array() == m.numpy()).all() and ax.images[0].get_clim() == (0., 2.)
        assert (ax.get_title(), ax.get_ylabel(), ax.get_xlabel()) == (title, "row", "column")
    assert fig.axes[0].get_position().x1 < fig.axes[1].get_position().x0


def test_a_table_as_a_tape(figure):
    "Of the first story: a bar for each frame at its place, noise as its height, colours by shot, texts"
    first = next_shot_table([0, 1], 2, 2, sigma=.75, captions=[5, 6, 7])
    table = stack_stories(first, next_shot_table([0, 0], 2, 1))
    (ax,) = figure(show_table, table, "tape").axes
    whole, noise = ax.patches[:4], ax.patches[4:]
    assert [p.get_x() + p.get_width()/2 for p in whole] == pytest.approx([0, 1, 2, 3])
    assert [p.get_height() for p in whole] == [1]*4 and [p.get_height() for p in noise] == [0, 0, .75, .75]
    colours = [p.get_facecolor()[:3] for p in whole]
    assert colours[2] == colours[3] and len(set(colours)) == 3
    assert [t.get_text() for t in ax.texts] == ["shot 0\ntext 5\npast", "shot 1\ntext 6\npast"] + [
        "shot 2\ntext 7\nnew"]*2
    assert ax.get_title(loc="left") == "tape"


@pytest.mark.parametrize("log", ["", "x", "y"])
def test_curves_by_name(figure, log):
    (ax,) = figure(show_curves, {"a": [3., 1.], "b": ([5., 6.], [7., 8.])}, "title", "x", "y", log=log).axes
    a, b = ax.lines
    assert (list(a.get_xdata()), list(a.get_ydata())) == ([0, 1], [3., 1.])
    assert (list(b.get_xdata()), list(b.get_ydata())) == ([5., 6.], [7., 8.])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("title", "x", "y")
    assert (ax.get_xscale(), ax.get_yscale()) == tuple("log" if log == n else "linear" for n in "xy")
