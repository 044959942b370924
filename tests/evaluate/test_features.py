"""The toy's extractors against the truth that only the world knows."""
import pytest
import torch
import torch.nn.functional as F

from shotstream.evaluate.features import (
    SIDE, BlockFlow, Extractors, OracleCuts, PixelCuts, Region, Subjects, TrueMasks, components, mask_pool,
    prompted_cuts, caption_attributes,
    toy_extractors)
from shotstream.evaluate.metrics import columns, cosine, shot_cut_accuracy, summary
from shotstream.model.pixels import decode_frames, to_float
from shotstream.toy.classifier import CAPTIONED, truth
from shotstream.toy.ground_truth import ground_truth
from shotstream.toy.render import StoryTable, render_frames, render_shot
from shotstream.toy.world import draw_story


@pytest.fixture(scope="module")
def eyes(): return toy_extractors()


@pytest.fixture(scope="module")
def stories(): return [draw_story(7_000 + i, n_shots=3, frames=33, held_out=True, pair=.25) for i in range(6)]


@pytest.fixture(scope="module")
def films(stories): return [torch.cat([render_shot(s, k) for k in range(3)]) for s in stories]


def test_captions_are_read_as_they_were_meant():
    n = 0
    for i in range(150):
        story = draw_story(i, held_out=bool(i % 2), pair=.4)
        for k, shot in enumerate(story.shots):
            said = caption_attributes(story.caption, shot.caption)
            if len(shot.cast) == 1:
                who, where = story.characters[shot.cast[0]], story.scenes[shot.scene]
                wanted = {a: v for a, v in truth(story, k).items() if a in CAPTIONED}
                assert said == wanted, (story.caption, shot.caption)
                assert len(said) == 7 and who and where
            else:
                assert set(said) == {"place", "time", "camera"}
                assert all(truth(story, k)[a] == v for a, v in said.items())
            n += 1
    assert n > 400


def test_captions_by_hand():
    both = "a red ball with a hat and a cube in blue with a crown in the forest by day."
    wanted = dict(body=1, colour=5, accessory=1, place=1, time=0, camera=1, action=2)
    assert caption_attributes(both, "close up: the blue cube jumps.") == wanted
    assert "body" not in caption_attributes(both, "wide shot: the ball and the cube wave.")
    assert caption_attributes("a heart in pink with a bow in the town at dusk.", "nothing known here") == dict(
        body=5, colour=7, accessory=2, place=5, time=1)


def test_masks_from_pixels_agree_with_the_painter(eyes, stories, films):
    segment, agreement = eyes.subject.segmenter, []
    for story, film in zip(stories, films):
        for k in range(3):
            true = ground_truth(story, k, SIDE, frames=[8])["masks"][0].sum(0) > .5
            seen = segment(film[[33*k + 8]])[0].any(0)
            agreement.append(((seen & true).sum()/(seen | true).sum()).item())
    assert sum(agreement)/len(agreement) > .75 and min(agreement) > .4
    assert all(not len(m) or m.any() for m in segment(torch.full((2, 64, 64, 3), 120, dtype=torch.uint8)))


def test_true_masks_know_their_own_renders_only(stories, films):
    oracle = TrueMasks(stories[0])
    masks = oracle(films[0][[40, 3]])
    wanted = ground_truth(stories[0], 1, SIDE, frames=[7])["masks"][0]
    assert torch.equal(masks[0], wanted[wanted.sum((1, 2)) >= 1])
    with pytest.raises(ValueError, match="frame 1 is no render of this story"):
        oracle(torch.stack([films[0][0], films[1][0]]))


def test_components_by_flood_fill():
    masks = torch.rand(6, 9, 11, generator=torch.Generator().manual_seed(0)) < .35
    for mask, found in zip(masks, components(masks, 3)):
        left, parts = {tuple(p) for p in mask.nonzero().tolist()}, []
        while left:
            part, todo = set(), [left.pop()]
            while todo:
                y, x = todo.pop()
                part.add((y, x))
                near = {(y+a, x+b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
                left -= near
                todo += near
            parts.append(part)
        parts = sorted((p for p in parts if len(p) >= 3), key=len, reverse=True)
        assert [int(f.sum()) for f in found] == [len(p) for p in parts]
        assert {frozenset(map(tuple, f.nonzero().tolist())) for f in found} == {frozenset(p) for p in parts}


def test_mask_pool_by_hand():
    g = torch.Generator().manual_seed(1)
    patches, mask = torch.randn(4, 6, 5, generator=g), torch.rand(8, 12, generator=g)
    total, weight = torch.zeros(5), 0.
    for y in range(4):
        for x in range(6):
            share = mask[2*y:2*y+2, 2*x:2*x+2].mean()
            total, weight = total + share*patches[y, x], weight + share
    assert torch.allclose(mask_pool(patches, mask), total/weight, atol=1e-6)
    assert mask_pool(patches, mask*0).isnan().all()


def test_hero_and_place_are_told_apart(eyes):
    "The same hero in two shots against strangers: features know who it is, and neither looks at the other's pixels"
    n = 16
    options = dict(n_shots=2, frames=33, held_out=True, pair=0., switch=0.)
    table = StoryTable.from_stories([draw_story(3_000 + i, **options) for i in range(n)])
    a, b = (render_frames(table, [(i, k, 16) for i in range(n)]) for k in (0, 1))
    for eye in (eyes.subject, eyes.background):
        alike = cosine(eye(a)[:, None], eye(b)[None])
        same, other = alike.diagonal(), alike[~torch.eye(n, dtype=torch.bool)]
        assert same.mean() > .45 and abs(other.mean()) < .15, (same.mean(), other.mean())
        assert (same[:, None] > other[None]).float().mean() > .9
    assert torch.allclose(torch.cat(eyes.inter_subject(a[:1])).mean(0), eyes.subject(a[:1])[0], atol=.6)
    patches, all_of_it = (lambda f: torch.rand(len(f), 4, 4, 3)), (lambda f: [torch.ones(1, 4, 4)]*len(f))
    assert Region(patches, all_of_it, subject=False)(a[:2]).isnan().all()                # no background left
    assert Subjects(patches, lambda f: [torch.zeros(0, 4, 4)]*len(f))(a[:1])[0].shape == (0, 3)


def test_cuts_are_seen_in_renders_and_through_the_codec(pipe, stories, films):
    def sca(some): return [shot_cut_accuracy(PixelCuts()(f), prompted_cuts(s), len(f)) for f, s in zip(some, stories)]
    assert sca(films) == [1.]*6
    video = torch.cat([to_float(x) for x in torch.cat(films[:3]).split(33)])
    with torch.no_grad(): z = pipe.vae.encode(video).latent_dist.mode()
    decoded = decode_frames(pipe.vae, z.transpose(1, 2)).unflatten(0, (3, 3)).flatten(1, 2)
    assert sum(sca(decoded))/3 > .8
    assert PixelCuts()(films[0][:33]) == PixelCuts()(films[0][:1]) == []
    assert OracleCuts(stories[0])(films[0][:50]) == [33]


def test_block_flow_against_the_exact_one(stories):
    still = render_shot(stories[0], 0, frames=[4, 4])
    assert BlockFlow()(still).abs().max() == 0.
    shifted = torch.stack([still[0], still[0].roll((-1, 3), (0, 1))])
    middle = BlockFlow()(shifted)[0, 8:-8, 8:-8].flatten(0, 1).median(0).values
    assert torch.allclose(middle, torch.tensor([3., -1.]), atol=.2)
    drawn = (draw_story(i, n_shots=1, frames=33, pair=0.) for i in range(99))
    walk = next(s for s in drawn if s.shots[0].action == "left")
    exact = ground_truth(walk, 0, frames=[10, 12])
    seen, mask = BlockFlow()(render_shot(walk, 0, frames=[10, 12]))[0], exact["masks"][0, 0] > .9
    assert seen.shape == exact["flow"][0].shape
    assert (seen - exact["flow"][0])[mask].median(0).values.abs().max() < .35 < exact["flow"][0][mask].abs().max()


def test_all_columns_of_renders_and_of_worse_films(eyes, stories, films):
    names = ["intra_subject", "inter_semantic", "shot_cut_accuracy", "text_alignment", "flat_share"]
    good = summary(columns(films[:3], stories[:3], eyes, names=names))
    assert good["shot_cut_accuracy"][0] == 1. and good["text_alignment"][0] > .9 and good["intra_subject"][0] > .8
    noise = torch.Generator().manual_seed(2)
    boiling = [(f.float() + 40*torch.randn(f.shape, generator=noise)).clamp(0, 255).to(torch.uint8) for f in films[:3]]
    bad = summary(columns(boiling, stories[:3], eyes, names=names, shots="prompted"))
    assert bad["intra_subject"][0] < good["intra_subject"][0] - .02
    assert bad["flat_share"][0] < .05 < good["flat_share"][0]
    others = summary(columns(films[1:4], stories[:3], eyes, names=names))              # other people's films
    assert others["text_alignment"][0] < .6


def test_what_cannot_be_seen_is_said(eyes):
    with pytest.raises(ValueError, match="reads frames .f, 64, 64, 3."):
        eyes.subject(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="nothing in 'Hello.' can be judged"):
        eyes.video_text.alignment(torch.zeros(5, 64, 64, 3, dtype=torch.uint8), "Dear all", "Hello.")
    with pytest.raises(ValueError, match="no extractor is called 'taste'"): Extractors().need("taste", "x")
    assert F.normalize(eyes.video_text.video(torch.zeros(5, 64, 64, 3, dtype=torch.uint8)), dim=0).isfinite().all()
