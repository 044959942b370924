"""The classifier and its scores, by hand: what is true, what can be seen, and how far a reading is off."""
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from shotstream.toy.classifier import (
    CIRCLES, CLASSES, LINES, MOVING, UNCAPTIONED, AttributeClassifier, changed, classifier_loss, errors, flat_pixels,
    on_line, one_frame_per_latent, truth, visible)
from shotstream.toy.render import render_shot
from shotstream.toy.world import Character, Scene, Shot, Story

HERO = Character(body="cube", colour="green", accessory="crown", pattern="band", hue=120., hue_a=30., hue_b=200.,
                 angle=200.)
SCENE = Scene(place="beach", time="night", sky=-.5, sun=.3, hills=.25, prop_1=.1, prop_2=.8)
SHOT = Shot(camera="pan", action="wave", cast=(0,), scene=0, frames=9, start=0., caption="")
STORY = Story(caption="", characters=(HERO,), scenes=(SCENE,), shots=(SHOT,))


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return AttributeClassifier(width=8, features=12).eval()


def film(n=2, frames=3, seed=0):
    return torch.randint(256, (n, frames, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_what_is_true():
    t = truth(STORY, 0)
    assert {k: CLASSES[k][t[k]] for k in CLASSES} == dict(
        body="cube", colour="green", accessory="crown", place="beach", time="night", camera="pan", action="wave",
        pattern="band")
    assert {k: t[k] for k in ("hue", "hue_a", "hue_b", "sky", "sun", "hills", "prop_1", "prop_2")} == dict(
        hue=120., hue_a=30., hue_b=200., sky=-.5, sun=.3, hills=.25, prop_1=.1, prop_2=.8)
    assert t["band_angle"] == 20. and "half_angle" not in t                   # a band has no direction: 200 is 20
    half = replace(STORY, characters=(replace(HERO, pattern="half"),))
    assert truth(half, 0)["half_angle"] == 200. and "band_angle" not in truth(half, 0)
    dot = replace(STORY, characters=(replace(HERO, pattern="dot"),))
    assert not {"half_angle", "band_angle"} & truth(dot, 0).keys()


def test_the_hero_of_this_shot_and_its_scene():
    other = replace(STORY, characters=(HERO, replace(HERO, body="star")), scenes=(SCENE, replace(SCENE, place="city")),
                    shots=(SHOT, replace(SHOT, cast=(1,), scene=1)))
    assert (CLASSES["body"][truth(other, 1)["body"]], CLASSES["place"][truth(other, 1)["place"]]) == ("star", "city")


@pytest.mark.parametrize("name", UNCAPTIONED)
def test_one_thing_is_changed(name):
    "And nothing else"
    pattern = dict(half_angle="half").get(name, "band")
    story = replace(STORY, characters=(replace(HERO, pattern=pattern),))
    a, b = truth(story, 0), truth(changed(story, name), 0)
    differs = {k for k in a.keys() | b.keys() if a.get(k) != b.get(k)}
    assert differs == ({"pattern", "band_angle"} if name == "pattern" else {name})


def test_hues_turn_by_a_third_and_an_angle_by_80_degrees():
    for name in ("hue", "hue_a", "hue_b"):
        assert getattr(changed(STORY, name).characters[0], name) == getattr(HERO, name) + 120
    assert changed(STORY, "band_angle").characters[0].angle == HERO.angle + 80


def test_what_can_be_seen():
    assert visible(STORY, 0, "hue") and visible(STORY, 0, "pattern") and visible(STORY, 0, "sky")
    away = replace(STORY, scenes=(replace(SCENE, sun=5.),))                   # off the screen already
    assert visible(STORY, 0, "sun") and not visible(away, 0, "sun")
    a, b = (render_shot(s, 0, frames=[0]).float() for s in (STORY, changed(STORY, "hue_b")))
    n = int(((a - b).abs().amax(-1) > 20).sum())
    assert n > 0 and visible(STORY, 0, "hue_b", pixels=n) and not visible(STORY, 0, "hue_b", pixels=n+1)


@torch.no_grad()
def test_every_answer_has_its_place(classifier):
    "Names share the numbers of two linear maps without overlap; stills know nothing of the order of frames"
    out = classifier(film())
    assert out.keys() == {*CLASSES, *CIRCLES, *LINES}
    for name, names in CLASSES.items(): assert out[name].shape == (2, len(names))
    assert all(out[k].shape == (2, 2) for k in CIRCLES) and all(out[k].shape == (2,) for k in LINES)
    still, moving = classifier.hidden(film())
    maps = classifier.still[-1](still).mean(1), classifier.moving(moving)
    for names, numbers in (([*(k for k in CLASSES if k not in MOVING), *CIRCLES, *LINES], maps[0]), (MOVING, maps[1])):
        assert torch.equal(torch.cat([out[k].reshape(2, -1) for k in names], 1), numbers)
    backwards = classifier(film().flip(1))
    torch.testing.assert_close(backwards["hue"], out["hue"], atol=1e-5, rtol=0)
    assert (backwards["action"] - out["action"]).abs().max() > 1e-5
    assert classifier.features(film()).shape == (2, 24)
    torch.testing.assert_close(classifier.features(film()), torch.cat([still.mean(1), moving], 1))


@torch.no_grad()
def test_shots_are_read_alone_and_films_that_stand_still_do_not_move(classifier):
    both = classifier(film())
    for i in range(2):
        alone = classifier(film()[i:i+1])
        for k in both: torch.testing.assert_close(alone[k][0], both[k][i], atol=1e-4, rtol=1e-4)
    seen = []
    hook = classifier.move.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    classifier(film()[:, :1].expand(-1, 3, -1, -1, -1))
    hook.remove()
    assert seen[0].shape == (2, 24, 3) and not seen[0][:, 12:].any() and seen[0][:, :12].any()


def test_places_in_their_range():
    assert [on_line("sun", x) for x in (.15, .5, .85)] == pytest.approx([-1, 0, 1])
    assert one_frame_per_latent(torch.arange(9)).tolist() == [0, 4, 8]


def answers(n=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {k: torch.randn(n, len(v), generator=g) for k, v in CLASSES.items()} | {
        k: torch.randn(n, 2, generator=g) for k in CIRCLES} | {k: torch.randn(n, generator=g) for k in LINES}


def test_a_loss_by_hand():
    "A missing attribute counts nothing; entropy, 2x and 3x squares"
    predicted, t = answers(), [truth(STORY, 0), truth(changed(STORY, "pattern"), 0)]
    total = 0.
    for k in CLASSES: total += F.cross_entropy(predicted[k], torch.tensor([x[k] for x in t]))
    for k, period in CIRCLES.items():
        who = [i for i in (0, 1) if k in t[i]]
        squares = [(predicted[k][i, j] - f(2*math.pi*t[i][k]/period))**2 for i in who
                   for j, f in enumerate((math.cos, math.sin))]
        total += 2*sum(squares)/max(1, len(squares))
    for k in LINES: total += 3*sum((predicted[k][i] - on_line(k, t[i][k]))**2 for i in (0, 1))/2
    assert "half_angle" not in t[0] and classifier_loss(predicted, t).item() == pytest.approx(float(total), rel=1e-5)


def test_errors_by_hand():
    "0 or 1; part of half a turn, the shorter way round; part of the range"
    t = truth(STORY, 0)
    def point(turns): return torch.tensor([[math.cos(2*math.pi*turns), math.sin(2*math.pi*turns)]])*3
    predicted = answers(1) | dict(
        body=F.one_hot(torch.tensor([t["body"]]), len(CLASSES["body"])).float(),
        colour=-F.one_hot(torch.tensor([t["colour"]]), len(CLASSES["colour"])).float(),
        hue=point((120 + 90)/360), hue_a=point((30 - 60)/360), band_angle=point((20 - 45)/180), hills=point(.25),
        sun=torch.tensor([on_line("sun", .3 + .35)]), prop_1=torch.tensor([on_line("prop_1", .1)]))
    e = errors(predicted, [t])
    found = {k: e[k].item() for k in ("body", "colour", "hue", "hue_a", "band_angle", "hills", "sun", "prop_1")}
    assert found == pytest.approx(dict(body=0, colour=1, hue=.5, hue_a=1/3, band_angle=.5, hills=0, sun=.5, prop_1=0),
                                  abs=1e-5)
    assert e["half_angle"].isnan().all() and all(v.shape == (1,) for v in e.values())
    opposite = errors(predicted | dict(hue=point(300/360)), [t])["hue"].item()
    assert opposite == pytest.approx(1)                                       # nothing is further away


def test_flat_pixels_pixel_by_pixel():
    g = torch.Generator().manual_seed(0)
    video = torch.randint(100, 112, (2, 2, 5, 6, 3), dtype=torch.uint8, generator=g)
    video[0, 0, :, :3] = 100
    video[0, 0, 2, 0, 1] = 108                                                # just as much as is allowed
    got = flat_pixels(video)
    assert got.shape == (2, 2, 5, 6) and got.any() and not got.all()
    for b in range(2):
        for f in range(2):
            for y in range(5):
                for x in range(6):
                    around = video[b, f, max(0, y-1):y+2, max(0, x-1):x+2].flatten(0, 1).int()
                    assert got[b, f, y, x] == ((around.amax(0) - around.amin(0)) <= 8).all()
    assert not flat_pixels(video, levels=7.)[0, 0, 2, 0]
    assert torch.equal(flat_pixels(video[0]), got[0])
    with pytest.raises(ValueError, match="films are"): flat_pixels(video[..., :2])
    with pytest.raises(TypeError, match="uint8"): flat_pixels(video.float())


def test_the_configs_sizes_and_a_whole_number_type(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    again = AttributeClassifier.from_pretrained(tmp_path, torch_dtype=torch.float16)
    assert again.dtype == torch.float16 and (again.config.width, again.config.features) == (8, 12)
    assert again.float()(film(1))["hue"].shape == (1, 2)
