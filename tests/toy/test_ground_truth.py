"""Masks and motion against what was painted."""
import torch

from shotstream.toy.ground_truth import ground_truth
from shotstream.toy.render import (
    RADIUS, ZOOM, background_layers, character_parts, frame_numbers, own_coordinates, paint_character, pose, screen)
from shotstream.toy.world import draw_story



def moving_parts(story, shot, t, x, y):
    "Distance of every layer, back to front; those of characters in units that do not change when they grow"
    layers = [d.expand(x.shape) for d, _, _ in background_layers(story.scenes[shot.scene], shot, t, x, y)]
    for slot, who in enumerate(shot.cast):
        p = pose(shot, t, slot)
        layers += [(d - (outline or 0))*RADIUS[shot.camera] for d, _, outline,
                   _ in character_parts(story.characters[who], p, *own_coordinates(p, x, y))]
    return layers


def drift(story, shot, frame, sign=1., size=48):
    "How far, in pixels, the distance to the owner of a pixel changes along the flow; 0 for true flow"
    flow = sign*ground_truth(story, shot, size, [frame, frame+1])["flow"]
    x, y = (o.expand(1, size, size) for o in screen(size))
    before = moving_parts(story, shot, torch.tensor([float(frame)]), x, y)
    after = moving_parts(story, shot, torch.tensor([frame+1.]), x + flow[..., 0]/size, y + flow[..., 1]/size)
    taken, worst = torch.zeros(1, size, size, dtype=bool), 0.
    for old, new in zip(reversed(before), reversed(after)):
        mine = (old < 0) & ~taken
        if mine.any(): worst = max(worst, (new - old)[mine].abs().max().item()*size)
        taken |= mine
    return worst


def test_flow_is_exact(monkeypatch):
    stories = [draw_story(seed, pair=.5) for seed in range(5)]
    for story in stories:
        for shot in story.shots: assert drift(story, shot, shot.frames//2) < .002, (shot.camera, shot.action)
    moving = [(story, s) for story in stories for s in story.shots if s.camera == "pan" or s.action in ("left",
                                                                                                        "right")]
    assert len(moving) > 3 and all(drift(*m, 4, sign=-1.) > .2 for m in moving)
    monkeypatch.setitem(ZOOM, "pan", 1.25)        # no camera of ours pans and zooms: the formula must hold all the same
    assert all(drift(*m, 4) < .002 for m in moving)


def test_masks_are_what_was_painted():
    story = next(s for s in map(draw_story, range(100)) if len(s.shots[0].cast) == 2)
    shot, (x, y) = story.shots[0], screen(64)
    truth, t = ground_truth(story, 0), frame_numbers(shot)
    covers = [paint_character(torch.zeros(3, shot.frames, 64, 64), story.characters[who], pose(shot, t, slot), x, y,
                              1/64) for slot, who in enumerate(shot.cast)]
    assert torch.equal(truth["masks"][:, 1], covers[1])
    assert torch.equal(truth["masks"][:, 0], covers[0]*(1-covers[1]))
    assert truth["identity"].tolist() == list(shot.cast)
    assert truth["positions"].shape == (shot.frames, 2, 3) and truth["flow"].shape == (shot.frames-1, 64, 64, 2)
