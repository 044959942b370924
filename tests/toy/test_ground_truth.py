"""Masks and motion against what was painted."""
import math
from dataclasses import replace

import torch

from shotstream.toy.ground_truth import carried, cover_of, ground_truth, visible
from shotstream.toy.render import (
    RADIUS, SHOULDER, ZOOM, background_layers, character_parts, frame_numbers, own_coordinates, paint_character, pose,
    screen)
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


def test_later_characters_hide_earlier_ones():
    covers = [torch.tensor([[row]]) for row in ([1., .5, .5, 0.], [0., 1., .5, 0.], [0., 0., .5, 1.])]
    assert visible(covers).tolist() == [[[[1., 0., .125, 0.]], [[0., 1., .25, 0.]], [[0., 0., .5, 1.]]]]


def test_a_point_goes_where_its_body_goes():
    "Moved, grown and turned by a quarter, clockwise; the arm swings about its shoulder beside that"
    def pose_of(x, y, size, tilt, arm=0.): return {k: torch.tensor([v]) for k, v in dict(
        x=x, y=y, size=size, tilt=tilt, arm=arm).items()}
    now, later = pose_of(.5, .5, .1, 0.), pose_of(.2, .6, .2, math.pi/2, .5)
    x, y = torch.tensor([[[.6, .5]]]), torch.tensor([[[.5, .4]]])             # right of the centre, above the centre
    there = carried(now, later, x, y)
    close = torch.testing.assert_close
    close(there[0], torch.tensor([[[.2, .4]]])), close(there[1], torch.tensor([[[.8, .6]]]))
    shoulder = [.5 + .1*SHOULDER[0], .5 + .1*SHOULDER[1]]
    at = [torch.tensor([[[shoulder[0], shoulder[0] + .1]]]), torch.tensor([[[shoulder[1]]*2]])]
    still = pose_of(.5, .5, .1, 0., .5)
    a, b = carried(now, still, *at, "arm")
    close(a, torch.tensor([[[shoulder[0], shoulder[0] + .1*math.cos(.5)]]]))
    close(b, torch.tensor([[[shoulder[1], shoulder[1] + .1*math.sin(.5)]]]))  # y points down: clockwise
    assert all(torch.allclose(p, q) for p, q in zip(carried(now, still, *at), at))


def test_places_and_names_are_those_of_the_poses():
    story = next(s for s in map(draw_story, range(100)) if len(s.shots[0].cast) == 2)
    story = replace(story, shots=(replace(story.shots[0], cast=(1, 0)), *story.shots[1:]))
    known = ground_truth(story, 0, frames=[4, 0])
    assert known["identity"].tolist() == [1, 0] and known["flow"].shape == (1, 64, 64, 2)
    for slot in (0, 1):
        p = pose(story.shots[0], torch.tensor([4., 0.]), slot)
        assert torch.equal(known["positions"][:, slot], torch.stack([p["x"], p["y"], p["size"]], 1))
    t = torch.tensor([4., 0.])
    cover = cover_of(story.characters[1], pose(story.shots[0], t, 0), *screen(64), 1/64)
    other = cover_of(story.characters[0], pose(story.shots[0], t, 1), *screen(64), 1/64)
    assert torch.equal(known["masks"][:, 0], cover*(1-other)) and torch.equal(known["masks"][:, 1], other)
    assert torch.equal(ground_truth(story, story.shots[0], frames=[4, 0])["masks"], known["masks"])
    small = ground_truth(story, 0, size=32, frames=[0, 1])
    assert small["masks"].shape == (2, 2, 32, 32) and small["flow"].shape == (1, 32, 32, 2)
