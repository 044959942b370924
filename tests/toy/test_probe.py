"""Probe targets: what tokens should know, for frames of many stories at once."""
import pytest
import torch

from shotstream.toy.networks import toy_text_encoder
from shotstream.toy.probe import (
    CHARACTER, CHARACTER_FACTS, SCENE, SHOT_FACTS, POSITIONS, CaptionProbe, ProbeLoss, caption_batch, caption_facts,
    described, probe_targets, story_targets, token_grid)
from shotstream.toy.classifier import LINES, on_line
from shotstream.toy.render import StoryTable, circle, coverage, own_coordinates, pose, screen
from shotstream.model.transformer import ShotTransformer
from shotstream.model.frame_table import single_shot_table
from shotstream.toy.ground_truth import ground_truth
from shotstream.toy.vocabulary import toy_tokenizer
from shotstream.toy.world import ACTIONS, BODIES, PATTERNS, Character, Scene, Shot, Story, draw_story

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


HEROES = (Character("ball", "red", "hat", 0., "dot", 10., 190., 0.),
          Character("heart", "cyan", "hat", 180., "dot", 10., 190., 0.))
PLACES_OF_IT = (Scene("forest", "day", 0., .5, 0., .1, .8), Scene("beach", "night", 0., .5, 0., .1, .8))
TOLD = Story(HEROES, PLACES_OF_IT, (
    Shot("wide", "wave", (0, 1), 0, 9, 0., "wide shot: the sphere and the heart wave."),
    Shot("close", "spin", (1,), 1, 9, 0., "closeup: the turquoise heart spins at night on the beach.")),
    "a red ball with a hat and a heart in turquoise wearing a top hat in the forest by day.")


def test_words_know_whom_they_describe():
    words = "a red sphere and a heart in turquoise wearing a top hat of the blue cube .".split()
    assert described(words, HEROES) == [-1, 0, 0, -1, -1, 1, -1, 1, *[-1]*9]     # both wear a hat, nobody is blue
    words = "the sphere spins".split()
    names = list((CHARACTER_FACTS | SHOT_FACTS).values())
    def said(rows): return [[n[v] if v >= 0 else None for n, v in zip(names, row)] for row in rows]
    assert said(caption_facts(words, TOLD, 0))[1] == ["ball", "red", "hat", "left", "forest", "day", "wide", "wave"]
    # another shot: its own place and hour, and who is not on screen
    assert said(caption_facts(words, TOLD, 1))[1] == [
        "ball", "red", "hat", "off screen", "beach", "night", "close", "spin"]
    assert said(caption_facts(words, TOLD, 1))[2] == [None]*4 + ["beach", "night", "close", "spin"]


def test_captions_of_many_shots():
    tokenizer = toy_tokenizer()
    ids, mask, facts = caption_batch([TOLD, draw_story(5, n_shots=3)], tokenizer)
    assert facts.shape == (5, ids.shape[1], 8) and ids.shape == mask.shape
    assert (facts[mask == 0] == -1).all() and (facts[mask == 1][:, 4:] >= 0).all()
    first = tokenizer.convert_ids_to_tokens(ids[0])
    assert facts[0, first.index("ball"), :2].tolist() == [BODIES.index("ball"), 0] and (facts[0, 0, :4] == -1).all()
    where = [[facts[shot, first.index(body), 3].item() for body in ("ball", "heart")] for shot in (0, 1)]
    expected = ("left", "right"), ("off screen", "alone")
    assert where == [[POSITIONS.index(p) for p in pair] for pair in expected]


def test_whoever_is_named_first_stands_on_the_left():
    "What the captions promise, the painter keeps"
    pairs = [(s, k) for s in map(draw_story, range(200)) for k, shot in enumerate(s.shots) if len(shot.cast) == 2]
    assert len(pairs) > 20
    for story, k in pairs:
        facts = caption_facts([story.characters[i].body for i in story.shots[k].cast], story, k)
        x = ground_truth(story, k, frames=[0])["positions"][0, :, 0]
        assert [POSITIONS[f[3]] for f in facts] == ["left", "right"] and x[0] < x[1]


def test_asking_teaches_to_read():
    "A young encoder cannot say who is red; after some steps on two stories it can, and the gradient came through"
    torch.manual_seed(0)
    encoder, probe = toy_text_encoder(len(toy_tokenizer())), CaptionProbe()
    ids, mask, facts = caption_batch([draw_story(seed, n_shots=2, pair=1.) for seed in range(4)], toy_tokenizer())
    optimizer = torch.optim.AdamW([*encoder.parameters(), *probe.parameters()], 5e-3)
    def read(): return encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    before = probe.accuracy(read(), facts)
    for _ in range(60):
        probe.loss(read(), facts).backward()
        optimizer.step(); optimizer.zero_grad()
    after = probe.accuracy(read(), facts)
    assert list(after) == [*CHARACTER_FACTS, *SHOT_FACTS] and max(before.values()) < .8 and min(after.values()) > .9


def test_words_that_are_not_asked_do_not_count():
    torch.manual_seed(0)
    probe, words, facts = CaptionProbe(12), torch.randn(1, 3, 12), torch.zeros(1, 3, 8, dtype=torch.long)
    facts[:, 2] = -1
    assert torch.equal(probe.loss(words, facts), probe.loss(words[:, :2], facts[:, :2]))
    said = probe(words)
    expected = sum(-s[0, :2].log_softmax(-1)[:, 0].mean() for s in said)
    assert (probe.loss(words, facts) - expected).abs() < 1e-5
    assert [s.shape[-1] for s in said] == [6, 8, 4, 4, 6, 3, 3, 8]
