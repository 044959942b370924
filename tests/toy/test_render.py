"""The renderer: the same pixels on every machine, one shot or frames of many stories, because models are trained on
them."""
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shotstream.toy.render import (
    StoryTable, box, camera_offset, capsule, choose, circle, concat_stories, coverage, frame_numbers, hsv,
    over_pixels, own_coordinates, pick, pose, render_frames, render_shot, screen, triangle, turn)
from shotstream.toy.world import Shot, draw_story


SHEET = Path(__file__).parent/"renders.png"
# one row each; together they show every body, accessory, pattern, place, time, camera and action
SHEET_SEEDS = (96, 224, 160, 31, 403, 7)


def contact_sheet():
    "(rows*64, 4*64, 3): two frames of the first and of the last shot of every story"
    def row(story):
        shots = [(k, story.shots[k].frames) for k in (0, len(story.shots)-1)]
        return torch.cat([f for k, n in shots for f in render_shot(story, k, frames=[3, n-2])], 1)
    return torch.cat([row(draw_story(seed, held_out=seed % 2 == 0)) for seed in SHEET_SEEDS]).numpy()


def test_the_same_pixels_everywhere():
    stored = np.asarray(Image.open(SHEET)).astype(int)
    drawn = contact_sheet().astype(int)
    assert drawn.shape == stored.shape
    assert np.abs(drawn - stored).max() <= 1


def test_some_frames_are_a_slice_of_all_frames():
    for seed in (5, 7):
        story = draw_story(seed)
        for k, shot in enumerate(story.shots):
            picks = [shot.frames-1, 0, shot.frames//2]
            film = render_shot(story, k)
            assert film.dtype == torch.uint8 and film.shape == (shot.frames, 64, 64, 3)
            assert torch.equal(render_shot(story, shot, frames=picks), film[picks])


def some_rows(stories, each, seed=0):
    "(n, 3) story, shot, frame: `each` frames of every shot, in no order"
    g = torch.Generator().manual_seed(seed)
    rows = [(i, k, f) for i, o in enumerate(stories) for k,
            s in enumerate(o.shots) for f in torch.randint(s.frames, (each,), generator=g).tolist()]
    return torch.tensor(rows)[torch.randperm(len(rows), generator=g)]


def test_frames_of_many_stories_equal_shots():
    stories = [draw_story(seed, pair=.5, switch=.5) for seed in range(90)]
    kinds = {(c.body, c.accessory) for o in stories for s in o.shots for c in (o.characters[i] for i in s.cast)}
    assert len(kinds) == 24 and {len(s.cast) for o in stories for s in o.shots} == {1, 2}
    assert len({(s.camera, s.action) for o in stories for s in o.shots}) == 24
    rows = some_rows(stories, 1)
    film = render_frames(StoryTable.from_stories(stories), rows)
    shots = torch.stack([render_shot(stories[i], k, frames=[f])[0] for i, k, f in rows.tolist()])
    assert film.dtype == torch.uint8 and torch.equal(film, shots)


@pytest.mark.parametrize("size", (32, 96))
def test_frames_of_many_stories_at_other_sizes(size):
    stories = [draw_story(seed) for seed in range(8)]
    rows = some_rows(stories, 1)
    film = render_frames(StoryTable.from_stories(stories), rows, size)
    assert torch.equal(film, torch.stack([render_shot(stories[i], k, size, [f])[0] for i, k, f in rows.tolist()]))


def test_many_frames_share_every_operation():
    "An operation must touch frames of many stories: with ten times the frames there may not be many more operations"
    from torch.utils._python_dispatch import TorchDispatchMode
    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.n += 1
            return func(*args, **(kwargs or {}))
    def operations(rows):
        with Count() as count:
            count.n = 0
            render_frames(table, rows, 16)                                                    # of any size
        return count.n
    import shotstream.toy.render as render
    stories = [draw_story(seed, pair=.5, switch=.5) for seed in range(60)]
    table, block = StoryTable.from_stories(stories), dict(render.BLOCK)
    render.BLOCK["cpu"] = 8192                                                            # as on a GPU
    try: few, many = operations(some_rows(stories, 1)), operations(some_rows(stories, 6))
    finally: render.BLOCK.update(block)
    assert many < 1.2*few and many < 40_000


def test_tables_lie_end_to_end():
    stories = [draw_story(seed, pair=.5, switch=.5) for seed in range(9)]
    whole, parts = StoryTable.from_stories(stories), concat_stories(*(StoryTable.from_stories(stories[i:i+3])
                                                                      for i in (0, 3, 6)))
    for a, b in zip((whole.characters, whole.scenes, whole.shots), (parts.characters, parts.scenes, parts.shots)):
        assert all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values()) if torch.is_tensor(x))
    assert torch.equal(whole.first_shot, parts.first_shot) and len(parts) == 9


@pytest.mark.parametrize("row", [(9, 0, 0), (-1, 0, 0), (0, 9, 0), (0, -1, 0), (0, 0, 81), (0, 0, -1)])
def test_a_frame_that_is_not_there(row):
    with pytest.raises(IndexError):
        render_frames(StoryTable.from_stories([draw_story(0, n_shots=2, frames=33)]), [(0, 0, 0), row])


def at(*points):
    "(1, 1, n) coordinates of points"
    x, y = zip(*points)
    return torch.tensor([[x]]), torch.tensor([[y]])


@pytest.mark.parametrize("shape, points, distances", [
    (lambda x, y: circle(x, y, .5), [(0., 0.), (.3, .4), (0., -1.)], [-.5, 0., .5]),
    (lambda x, y: box(x, y, .5, .25), [(0., 0.), (.5, 0.), (0., .35), (.8, .65)], [-.25, 0., .1, .5]),
    (lambda x, y: box(x, y, .5, .5, .5), [(.6, .8), (0., 0.)], [.5, -.5]),                     # round corners: a disc
    (lambda x, y: capsule(x, y, 0., 0., 1., 0., .2), [(.5, .2), (2., 0.), (-.3, .4)], [0., .8, .3]),
    (lambda x, y: triangle(x, y, 1., .5), [(0., .5), (0., -.5), (0., 1.), (1., .5)], [0., 0., .5, 0.])])
def test_distances_by_hand(shape, points, distances):
    torch.testing.assert_close(shape(*at(*points))[0, 0], torch.tensor(distances), atol=1e-6, rtol=0)


def test_half_covered_on_the_edge():
    distance = torch.tensor([-1., -.05, 0., .025, .05, 1.])
    assert coverage(distance, .1).tolist() == pytest.approx([1, 1, .5, .25, 0, 0])


def test_pixels_are_asked_at_their_centres():
    x, y = screen(4)
    assert x.flatten().tolist() == y.flatten().tolist() == [.125, .375, .625, .875]
    assert (x.shape, y.shape) == ((1, 1, 4), (1, 4, 1))


@pytest.mark.parametrize("h, rgb", [(0, (1, 0, 0)), (60, (1, 1, 0)), (120, (0, 1, 0)), (240, (0, 0, 1)),
                                    (360, (1, 0, 0)), (30, (1, .5, 0)), (-60, (1, 0, 1))])
def test_hues(h, rgb):
    assert hsv(h, 1., 1.) == pytest.approx(rgb)
    assert hsv(h, .5, .8) == pytest.approx([.8*(.5 + .5*c) for c in rgb])
    columns = hsv(torch.tensor([h, h]).double(), torch.tensor([1., .5]), torch.tensor([1., .8]))
    assert [c[0].item() for c in columns] == pytest.approx(rgb)


def test_names_and_columns_of_names():
    numbers, tuples = dict(a=1., b=2.), dict(a=((1., 2.), (3., 4.)), b=((5., 6.), (7., 8.)))
    assert pick(numbers, ("b", "a"), "a") == 1. and pick(tuples, ("b", "a"), "b") == tuples["b"]
    key = torch.tensor([0, 1, 1])
    assert pick(numbers, ("b", "a"), key).tolist() == [2., 1., 1.]
    found = [[column.tolist() for column in part] for part in pick(tuples, ("b", "a"), key)]
    assert found == [[[5., 1., 1.], [6., 2., 2.]], [[7., 3., 3.], [8., 4., 4.]]]
    made = dict(a=lambda: torch.zeros(3, 1, 1), b=lambda: torch.ones(3, 1, 1))
    assert choose(made, ("b", "a"), key).flatten().tolist() == [1., 0., 0.] and choose(made, ("b", "a"), "b").all()
    assert over_pixels(3) == 3 and over_pixels(key).shape == (3, 1, 1) and over_pixels(key).dtype == torch.float32


def test_a_character_turns_clockwise():
    "A quarter: what was to its right is below"
    p = dict(x=torch.tensor([.5]), y=torch.tensor([.4]), size=torch.tensor([.1]), tilt=torch.tensor([math.pi/2]))
    u, v = own_coordinates(p, *at((.5, .5), (.6, .4)))
    torch.testing.assert_close(torch.stack([u, v]).flatten(), torch.tensor([1., 0., 0., -1.]), atol=1e-6, rtol=0)
    x, y = turn(*at((1., 0.)), torch.tensor(.3))
    assert (x.item(), y.item()) == pytest.approx((math.cos(.3), -math.sin(.3)))


def shot_of(camera="wide", action="wait", frames=33, **more):
    return Shot(camera=camera, action=action, cast=(0,), scene=0, frames=frames, start=0., caption="", **more)


def test_a_camera_sweeps_evenly_and_slowly():
    t = torch.arange(33.)
    assert not camera_offset(shot_of(), t).any() and not camera_offset(shot_of("close"), t).any()
    pan = camera_offset(shot_of("pan"), t)
    assert (pan[0], pan[16], pan[-1]) == pytest.approx((-.12, 0., .12), abs=1e-6)
    assert pan.diff().max() - pan.diff().min() < 1e-6 and pan.diff().max() < .01
    short = camera_offset(shot_of("pan", frames=9), torch.arange(9.))
    assert short[-1] - short[0] == pytest.approx(.008*8)
    assert camera_offset(shot_of("pan", frames=1), torch.zeros(1)).isfinite().all()


@pytest.mark.parametrize("action, what, sign", [("left", "x", -1), ("right", "x", 1), ("grow", "size", 1),
                                                ("shrink", "size", -1), ("spin", "tilt", 1)])
def test_what_an_action_moves(action, what, sign):
    p, still = (pose(shot_of(action=a), torch.arange(33.)) for a in (action, "wait"))
    assert (sign*p[what].diff() > 0).all() and not still[what].diff().any()
    assert all(p["look"] == dict(left=-1, right=1).get(action, 0))
    feet = p["y"] + 1.2*p["size"]
    if action in ("grow", "shrink"): assert feet.std() < 1e-6                 # feet stay on the floor


def test_jumps_and_waves():
    jump, wave = (pose(shot_of(action=a), torch.arange(33.)) for a in ("jump", "wave"))
    still = pose(shot_of(), torch.arange(33.))
    assert (jump["y"] <= still["y"] + 1e-6).all() and (still["y"] - jump["y"]).max() > .5*still["size"][0]
    assert wave["arm"].std() > .2 and torch.equal(wave["x"], still["x"]) and still["arm"].unique().numel() == 1


def test_two_stand_apart_and_never_move_in_step():
    shot = replace(shot_of(action="wave"), cast=(0, 1))
    a, b = (pose(shot, torch.arange(33.), slot) for slot in (0, 1))
    assert (a["x"] < .4).all() and (b["x"] > .6).all() and (a["arm"] - b["arm"]).abs().max() > .1
    assert torch.allclose(b["arm"][:-6], a["arm"][6:], atol=1e-5)
    assert (a["size"] < pose(shot_of(), torch.zeros(1))["size"]).all()


def test_numbers_of_frames():
    assert frame_numbers(shot_of(frames=3)).tolist() == [0., 1., 2.]
    assert frame_numbers(shot_of(), [5, 2]).tolist() == [5., 2.]


def test_a_table_counts_through_all_stories():
    stories = [draw_story(seed, pair=.5, switch=.5) for seed in range(3)]
    table = StoryTable.from_stories(stories)
    lengths = [len(s.shots) for s in stories]
    assert len(table) == 3 and table.first_shot.tolist() == [0, lengths[0], sum(lengths[:2]), sum(lengths)]
    assert table.shot_numbers([(1, 1, 0), (0, 0, 5)]).tolist() == [lengths[0] + 1, 0]
    k = table.first_shot[2]
    people, places = (sum(len(getattr(s, n)) for s in stories[:2]) for n in ("characters", "scenes"))
    shot = stories[2].shots[0]
    assert table.shots.scene[k] == places + shot.scene and table.shots.cast[k, 0] == people + shot.cast[0]
    assert table.shots.frames[k] == shot.frames and table.characters.hue[people] == stories[2].characters[0].hue
    three = replace(stories[0], shots=(replace(stories[0].shots[0], cast=(0, 0, 0)),))
    with pytest.raises(ValueError, match="at most two"): StoryTable.from_stories([three])


if __name__ == "__main__":  # store the pictures again, after a wanted change of the world
    Image.fromarray(contact_sheet()).save(SHEET, optimize=True)
