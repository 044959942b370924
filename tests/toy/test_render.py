"""The renderer: the same pixels on every machine, one shot or frames of many stories, because models are trained on
them."""
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shotstream.toy.render import StoryTable, concat_stories, render_frames, render_shot
from shotstream.toy.world import draw_story


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
            render_frames(table, rows)
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


if __name__ == "__main__":  # store the pictures again, after a wanted change of the world
    Image.fromarray(contact_sheet()).save(SHEET, optimize=True)
