"""Probe targets: what tokens should know, for frames of many stories at once."""
import pytest
import torch

from shotstream.toy.probe import CHARACTER, SCENE, ProbeLoss, probe_targets, story_targets, token_grid
from shotstream.toy.classifier import LINES, on_line
from shotstream.toy.render import StoryTable, circle, coverage, own_coordinates, pose, screen
from shotstream.model.transformer import ShotTransformer
from shotstream.model.frame_table import single_shot_table
from shotstream.toy.world import ACTIONS, BODIES, PATTERNS, draw_story

SMALL = dict(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=12, freq_dim=16,
             ffn_dim=40, num_layers=4)


def on_circle(degrees, period=360.):
    a = torch.tensor(2*torch.pi*degrees/period)
    return [a.cos().item(), a.sin().item()]


def one_by_one(story, frames, size):
    "The plain version: one story, one shot, one character at a time"
    x, y = screen(size)
    goal, weight = torch.zeros(2, len(frames), size*size, CHARACTER+SCENE)
    for i, (s, f) in enumerate(frames):
        shot = story.shots[s]
        scene = story.scenes[shot.scene]
        goal[i, :,
             CHARACTER:] = torch.tensor([*on_circle(scene.hills, 1.), *(on_line(n, getattr(scene, n)) for n in LINES)])
        weight[i, :, CHARACTER:] = 1.
        for slot, who in enumerate(shot.cast):
            c, p = story.characters[who], pose(shot, torch.tensor([float(f)]), slot)
            known = [float(c.body == b) for b in BODIES]
            known += [float(shot.action == a) for a in ACTIONS] + [float(c.pattern == n) for n in PATTERNS]
            known += on_circle(c.hue) + on_circle(c.hue_a) + on_circle(c.hue_b)
            for name, period in (("half", 360.), ("band", 180.)):
                known += on_circle(c.angle, period) if c.pattern == name else [0., 0.]
            cover = coverage(circle(*own_coordinates(p, x, y), 1.1), 1/size/p["size"][:, None, None]).flatten()
            goal[i, cover > .3, :CHARACTER] = torch.tensor(known)
            weight[i, cover > .3, :CHARACTER] = cover[cover > .3][:, None]
    return goal, weight


@pytest.mark.parametrize("size", (4, 8))
def test_many_stories_at_once_equal_one_by_one(size):
    stories = [draw_story(seed, pair=.5, switch=.5) for seed in range(12)]
    table, g = StoryTable.from_stories(stories), torch.Generator().manual_seed(0)
    frames = [[(k, int(torch.randint(s.frames, (), generator=g))) for k, s in enumerate(o.shots)] for o in stories]
    rows = torch.tensor([(i, k, f) for i, picks in enumerate(frames) for k, f in picks])
    mixed = torch.randperm(len(rows), generator=g)
    goal, weight = probe_targets(table, table.shot_numbers(rows[mixed]), rows[mixed, 2], size)
    expected = [torch.cat(t)[mixed] for t in zip(*(one_by_one(o, picks, size) for o, picks in zip(stories, frames)))]
    assert goal.shape == (len(rows), size*size, CHARACTER+SCENE)
    assert (goal - expected[0]).abs().max() < 1e-6 and (weight - expected[1]).abs().max() < 1e-6
    assert (weight[..., 0] > 0).any() and (weight[..., 0] == 0).any()
    for mine, theirs in zip(story_targets(stories[3], frames[3], size), one_by_one(stories[3], frames[3], size)):
        assert (mine - theirs).abs().max() < 1e-6


@pytest.mark.parametrize("patch, grid", ((1, 8), (2, 4)))
def test_the_grid_follows_the_model(patch, grid):
    model = ShotTransformer(**SMALL, patch_size=(1, patch, patch))
    assert token_grid(model) == grid
    examiner, story = ProbeLoss(model), draw_story(0)
    model(torch.randn(1, 4, 3, 8, 8), None, torch.randn(1, 1, 5, 12), table=single_shot_table(1, 3))
    goal, weight = (t[None] for t in story_targets(story, [(0, 0), (0, 4), (0, 8)], grid))
    assert all(torch.isfinite(e) and e > 0 for e in examiner(goal, weight, 1))
    other = (t[None] for t in story_targets(story, [(0, 0), (0, 4), (0, 8)], 12 - grid))
    with pytest.raises(ValueError, match="token_grid"): examiner(*other, 1)


def test_a_frame_that_does_not_split_is_an_error():
    with pytest.raises(ValueError, match="square patches"):
        token_grid(ShotTransformer(**SMALL, patch_size=(1, 2, 2)), 7)
