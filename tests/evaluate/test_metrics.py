"""The paper's columns: each against a slow second implementation, and films that must score 0, 1 and in between."""
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from shotstream.data.script import Script, ShotPrompt
from shotstream.evaluate.features import Extractors, Scale, prompted_cuts
from shotstream.evaluate.metrics import (
    COLUMNS, StoryRow, aesthetic_quality, best_match, check_film, columns, consistency_gap, dynamic_degree, inter_shot,
    intra_shot, keyframes, match_cuts, moves, pairs_of, region_pairs, semantic_pairs, shot_cut_accuracy, split_shots,
    summary,
    text_alignment, transition_deviation)
from shotstream.toy.world import draw_story


def generator(seed=0): return torch.Generator().manual_seed(seed)


def film_of(names, d=8):
    "A film whose every frame carries a number in its first pixel: `Lookup` answers with that row"
    film = torch.zeros(len(names), d, d, 3, dtype=torch.uint8)
    film[:, 0, 0, 0] = torch.tensor(names, dtype=torch.uint8)
    return film


class Lookup:
    "An extractor whose features are known: frame -> row of a table"
    def __init__(self, table): self.table = table
    def __call__(self, frames): return self.table[frames[:, 0, 0, 0].long()]
    def video(self, shot): return self(shot).mean(0)
    def alignment(self, shot, story_caption, shot_caption):
        return float(shot_caption == f"shot {int(shot[0, 0, 0, 0])}")


class Crowd(Lookup):
    "Several subjects in a frame: frame -> a list of rows"
    def __call__(self, frames): return [self.table[int(i)] for i in frames[:, 0, 0, 0]]


AXES = Lookup(torch.eye(6))                                          # frames of different names have nothing in common
HALF = Lookup(torch.tensor([[1., 0.], [.5, .75**.5], [0., 1.]]))     # neighbours are 60 and 30 degrees apart


def script(*lengths): return Script("a story", tuple(ShotPrompt(f"shot {i}", n) for i, n in enumerate(lengths)))


def cos(a, b):
    "Of two lists of numbers"
    dot = sum(x*y for x, y in zip(a, b))
    return dot/math.sqrt(sum(x*x for x in a)*sum(y*y for y in b))


def naive_intra(shots, table):
    total, n = 0., 0
    for names in shots:
        for t in range(1, len(names)):
            total += (max(0., cos(table[names[0]], table[names[t]]))
                      + max(0., cos(table[names[t-1]], table[names[t]])))/2
            n += 1
    return total/n


def naive_match(found, wanted, penalty):
    "The least cost over every way to pair them, crossing ones too"
    best = math.inf
    for n in range(min(len(found), len(wanted))+1):
        for a in itertools.combinations(found, n):
            for b in itertools.permutations(wanted, n):
                if any(abs(x-y) > penalty for x, y in zip(a, b)): continue
                best = min(best, sum(abs(x-y) for x, y in zip(a, b)) + penalty*(len(found)+len(wanted)-2*n))
    return best


def naive_gap(a, b, bins):
    p, q = (np.histogram(x, bins, (-1, 1))[0]/len(x) for x in (a, b))
    entropy = lambda x: -sum(v*math.log2(v) for v in x if v > 0)
    return math.sqrt(max(0., entropy((p+q)/2) - (entropy(p)+entropy(q))/2))


def test_intra_shot_of_known_films():
    assert intra_shot([film_of([1]*5), film_of([2]*3)], AXES) == 1.                 # a cut is no change inside a shot
    assert intra_shot([film_of([0, 1, 2, 3])], AXES) == 0.
    assert intra_shot([film_of([0, 0, 1, 1])], AXES) == pytest.approx((1 + 0 + .5)/3)
    assert intra_shot([film_of([0]), film_of([0, 1])], HALF) == pytest.approx(.5)   # a shot of one frame is left out
    opposed = Lookup(torch.tensor([[1.], [-1.]]))
    assert intra_shot([film_of([0, 1])], opposed) == 0.                             # a negative cosine is cut off


def test_intra_shot_by_hand():
    table, names = torch.randn(6, 5, generator=generator()), [[0, 3, 2, 5], [1, 4], [5, 5, 0]]
    assert intra_shot([film_of(n) for n in names], Lookup(table)) == pytest.approx(naive_intra(names, table.tolist()),
        abs=1e-6)


def test_inter_shot_of_known_films():
    same, other = [film_of([1]*4), film_of([1]*3)], [film_of([1]*4), film_of([2]*3)]
    every = pairs_of(2)
    for shots, value in ((same, 1.), (other, 0.), ([film_of([0]*3), film_of([1]*3)], None)):
        eye = AXES if value is not None else HALF
        value = .5 if value is None else value
        assert inter_shot(semantic_pairs(shots, eye, every)) == pytest.approx(value, abs=1e-6)
        assert inter_shot(region_pairs(shots, eye, every)) == pytest.approx(value, abs=1e-6)
    three = [film_of([0]*3), film_of([0]*3), film_of([1]*3)]
    assert inter_shot(semantic_pairs(three, AXES, pairs_of(3))) == pytest.approx(1/3)


def test_inter_shot_by_hand():
    table = torch.randn(9, 5, generator=generator(1))
    names = [[0, 1, 2, 3, 4], [5, 6], [7, 8, 7]]
    shots, rows, pairs = [film_of(n) for n in names], table.tolist(), [(0, 1), (0, 2), (1, 2)]
    key = [[0, 2, 4], [5, 6], [7, 8, 7]]                                            # of two frames there is no third
    key = [k if len(k) < 3 else [k[0], k[1], k[2]] for k in key]
    wanted = [np.mean([cos(rows[a], rows[b]) for a in key[i] for b in key[j]]) for i, j in pairs]
    assert pairs_of(3) == pairs
    assert region_pairs(shots, Lookup(table), pairs) == pytest.approx(wanted, abs=1e-6)
    means = [[sum(rows[n][k] for n in shot)/len(shot) for k in range(5)] for shot in names]
    assert semantic_pairs(shots, Lookup(table), pairs) == pytest.approx([cos(means[i], means[j]) for i, j in pairs],
        abs=1e-6)


def test_keyframes():
    assert [int(f[0, 0, 0]) for f in keyframes(film_of(range(33)))] == [0, 16, 32]
    assert [len(keyframes(film_of(range(n)))) for n in (1, 2, 3, 4)] == [1, 2, 3, 3]


def test_several_subjects_find_each_other():
    x = torch.eye(4)
    assert best_match(x[:2], x[[1, 0]]) == 1.                                       # in any order
    assert best_match(x[:2], x[[3, 0]]) == .5
    assert best_match(x[:1], x) == best_match(x, x[:1]) == 1.                       # one of four is enough
    assert math.isnan(best_match(x[:0], x))
    crowd = Crowd([x[:2], x[[1]], x[:0], x[[3]]])
    assert region_pairs([film_of([0]*3), film_of([1]*3)], crowd, pairs_of(2)) == [1.]
    half_hidden = region_pairs([film_of([2, 0, 2]), film_of([1, 1, 3])], crowd, pairs_of(2))
    assert half_hidden == pytest.approx([2/3])  # frames that show nobody do not count
    assert math.isnan(region_pairs([film_of([2]*3), film_of([1]*3)], crowd, pairs_of(2))[0])


def test_backgrounds_that_cannot_be_seen():
    hidden = Lookup(torch.tensor([[1., 0.], [math.nan, math.nan], [0., 1.]]))
    assert region_pairs([film_of([0, 1, 0]), film_of([0, 1, 2])], hidden, pairs_of(2)) == pytest.approx([.5])
    assert intra_shot([film_of([0, 1, 0, 2])], hidden) == pytest.approx(.5)


@pytest.mark.parametrize("found, value",
                         [((20, 40, 60, 80), 1.), ((), math.exp(-.8)), ((22, 40, 61, 80), math.exp(-.03)),
                                          ((20, 40, 60, 80, 90), math.exp(-.2)), ((80, 20, 60, 40), 1.)])
def test_shot_cut_accuracy_of_known_cuts(found, value):
    assert shot_cut_accuracy(found, (20, 40, 60, 80), 100) == pytest.approx(value, abs=1e-9)


def test_cuts_are_matched_at_the_least_cost():
    g = generator(2)
    for _ in range(120):
        found, wanted = (sorted({int(x)
                                 for x in torch.randint(1, 60, (int(torch.randint(5, (), generator=g)),), generator=g)})
                         for _ in range(2))
        for penalty in (3., 11., 40.):
            pairs, cost = match_cuts(found, wanted, penalty)
            assert cost == pytest.approx(naive_match(found, wanted, penalty), abs=1e-6), (found, wanted, penalty)
            assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
            spent = sum(abs(a-b) for a, b in pairs) + penalty*(len(found)+len(wanted)-2*len(pairs))
            assert spent == pytest.approx(cost) and all(abs(a-b) <= penalty for a, b in pairs)


def test_transition_deviation():
    assert transition_deviation([22, 40, 61], [20, 40, 60, 80], 100) == 1.
    assert math.isnan(transition_deviation([], [20], 40))


def test_text_alignment_of_known_films():
    asked, shots = script(2, 3, 1, 1), [film_of([k]*3) for k in range(4)]
    assert text_alignment(shots, asked, AXES) == 1.
    assert text_alignment(shots[1:] + shots[:1], asked, AXES) == 0.
    assert text_alignment([shots[0], shots[2], shots[1], shots[3]], asked, AXES) == .5
    with pytest.raises(ValueError, match="3 shots, but the story has 4 captions"):
        text_alignment(shots[:3], asked, AXES)


def steady(*speeds):
    "Flow as fast as each pair's entry says, for a twentieth of the pixels and a little more"
    def flow(frames):
        out = torch.zeros(len(frames)-1, 32, 32, 2)
        for t, speed in enumerate(speeds[:len(out)]): out[t, :2, :, 0] = speed
        return out
    return flow


def test_dynamic_degree_of_known_films():
    frames, fast = torch.zeros(33, 256, 300, 3, dtype=torch.uint8), 6.1             # the threshold is 6 at 256 pixels
    assert moves(frames, steady(*[fast]*16)) and not moves(frames, steady(*[5.9]*16))
    # 17 frames at 8 per second: 4 pairs
    assert moves(frames, steady(*[fast]*4)) and not moves(frames, steady(*[fast]*3))
    assert not moves(frames[:2], steady(99.)) and moves(frames[:3], steady(99.))    # two frames at 8 per second
    assert moves(frames[:, :64, :64], steady(*[1.6]*16)) and not moves(frames[:, :64, :64], steady(*[1.4]*16))
    by_name = lambda shot: steady(*[9.*(int(shot[0, 0, 0, 0]) == 1)]*16)(shot)
    shots = [torch.full((33, 256, 256, 3), k, dtype=torch.uint8) for k in (1, 0, 1, 0)]
    assert dynamic_degree(shots, by_name) == .5
    assert dynamic_degree(shots[::2], by_name) == 1. and dynamic_degree(shots[1::2], by_name) == 0.


def test_dynamic_degree_by_hand():
    g, seen = generator(3), set()
    for side in range(140, 172):                                                    # a taller frame asks for more
        speed = 3*torch.rand(8, 10, 12, 2, generator=g)
        fastest = [np.sort(x)[::-1][:6].mean() for x in np.sqrt((speed.numpy()**2).sum(-1)).reshape(8, -1)]
        wanted = sum(x > 6*side/256 for x in fastest) >= 2                           # of 9 frames: round(9/4)
        assert moves(torch.zeros(17, side, side+5, 3, dtype=torch.uint8), lambda f, speed=speed: speed) == wanted
        seen.add(bool(wanted))
    assert seen == {True, False}


def test_aesthetic_quality():
    head = lambda frames: frames[:, 0, 0, 0].float()/4
    assert aesthetic_quality(film_of([0, 0]), head) == 0. and aesthetic_quality(film_of([4]), head) == 1.
    assert aesthetic_quality(film_of([0, 4, 2]), head) == pytest.approx(.5, abs=1e-6)


def test_consistency_gap_of_known_films():
    a = [.05, .5, .9, -.3]
    assert consistency_gap(a, a[::-1]) == 0.
    assert consistency_gap([.9]*5, [-.9]*3) == pytest.approx(1.)                    # they never meet
    assert 0 < consistency_gap([.9, .9, -.9], [.9, -.9, -.9]) < .5
    x, y = (torch.rand(n, generator=generator(n))*2-1 for n in (40, 23))
    for bins in (4, 10):
        assert consistency_gap(x.tolist(), y.tolist(), bins=bins) == pytest.approx(naive_gap(x, y, bins), abs=1e-6)
    rows = [StoryRow({}, {}, dict(inter_semantic=[.9, math.nan]), []), StoryRow({}, {}, dict(inter_semantic=[]), [])]
    assert consistency_gap(rows, [.9]) == 0.
    with pytest.raises(ValueError, match="no pairs"): consistency_gap(rows, rows, column="inter_subject")


def everything(cuts):
    return Extractors(AXES, AXES, AXES, AXES, AXES, cuts, steady(*[99.]*40), lambda frames: frames[:, 0, 0, 0].float())


def test_all_columns_of_a_film_that_is_perfect():
    asked, film = script(5, 9), torch.cat([film_of([0]*5), film_of([1]*9)])
    row, = columns([film], [asked], everything(lambda film: [5]))
    assert set(row.values) == {*COLUMNS, "flat_share", "motion"} and not row.notes
    assert row.values | dict(flat_share=0, motion=0) == dict(
        intra_subject=1., intra_background=1., inter_semantic=0., inter_subject=0., inter_background=0.,
        shot_cut_accuracy=1.,
        text_alignment=1., aesthetic=pytest.approx(9/14), dynamic_degree=1., flat_share=0, motion=0)
    assert row.pairs == dict(inter_semantic=[0.], inter_subject=[0.], inter_background=[0.]) and row.cuts == [5]
    json.dumps(row.plain(), allow_nan=False)


def test_shots_are_those_that_were_found():
    asked, film = script(5, 9), film_of([0]*7 + [1]*7)
    found, = columns([film], [asked], everything(lambda film: [7]))
    told, = columns([film], [asked], everything(lambda film: [7]), shots="prompted")
    assert found.values["intra_subject"] == 1. > told.values["intra_subject"] == pytest.approx(naive_intra(
        [[0]*5, [0, 0] + [1]*7], torch.eye(6).tolist()))
    assert found.values["shot_cut_accuracy"] == told.values["shot_cut_accuracy"] == pytest.approx(math.exp(-2/14))
    one, = columns([film], [asked], everything(lambda film: []))
    assert math.isnan(one.values["inter_subject"]) and "film of one shot" in one.notes["inter_subject"]
    assert one.plain()["values"]["inter_subject"] is None and one.values["text_alignment"] == .5


def test_a_story_says_who_may_be_compared():
    story = next(s for s in (draw_story(i, n_shots=3, frames=9) for i in range(200))
                 if len({x.scene for x in s.shots}) == 2 and len({x.cast for x in s.shots}) == 3)
    film = torch.cat([film_of([k]*9) for k in range(3)])
    row, = columns([film], [story], everything(lambda f: prompted_cuts(story)))
    pairs = [(i, j) for i in range(3) for j in range(i+1, 3)]
    cast, scene = ([getattr(x, n) for x in story.shots] for n in ("cast", "scene"))
    assert len(row.pairs["inter_semantic"]) == 3
    assert len(row.pairs["inter_subject"]) == sum(bool(set(cast[i]) & set(cast[j])) for i, j in pairs) < 3
    assert len(row.pairs["inter_background"]) == sum(scene[i] == scene[j] for i, j in pairs) == 1


def test_summary_counts_only_what_is_there():
    rows = [StoryRow(dict(a=v, b=math.nan), {}, {}, None) for v in (0., .5, math.nan, 1.)]
    mean, low, high, n = summary(rows)["a"]
    assert (mean, n) == (.5, 3) and 0 <= low < .5 < high <= 1 and "b" not in summary(rows)
    with pytest.raises(ValueError, match="no rows"): summary([])


GOOD, ASKED = film_of([0]*5 + [1]*9), script(5, 9)


@pytest.mark.parametrize("wrong, says", [
    (lambda e: columns([GOOD], [ASKED, ASKED], e), "1 films for 2 stories"),
    (lambda e: columns([GOOD], [ASKED], replace(e, flow=None), names=["dynamic_degree"]),
     "dynamic_degree needs an extractor 'flow'"),
    (lambda e: columns([GOOD], [ASKED], replace(e, cuts=None)), "finding shots needs an extractor 'cuts'"),
    (lambda e: columns([GOOD], [ASKED], e, names=["beauty"]), "no column is called 'beauty'"),
    (lambda e: columns([GOOD], [ASKED], e, shots="all"), "\"detected\" or \"prompted\", got 'all'"),
    (lambda e: columns([GOOD[:13]], [ASKED], e), "film 1: 13 frames, but its story asks for 14"),
    (lambda e: columns([GOOD, film_of([0]*14, 6)], [ASKED]*2, e), "unequal sizes cannot be compared: 6 x 6 and 8 x 8"),
    (lambda e: columns([[GOOD[:5], film_of([0]*9, 6)]], [ASKED], e), "film 1: shots of unequal sizes, 6 x 6 and 8 x 8"),
    (lambda e: columns([[]], [ASKED], e), "film 1: no shots"),
    (lambda e: check_film(GOOD[0]), "a film is (f, h, w, 3)"),
    (lambda e: split_shots(GOOD, [9, 5]), "cuts grow and lie inside a film of 14 frames, got [9, 5]"),
    (lambda e: shot_cut_accuracy([14], [5], 14), "cuts lie inside a film of 14 frames"),
    (lambda e: inter_shot(region_pairs([GOOD], AXES, pairs_of(1)), "inter_subject"),
     "inter_subject: no two shots to compare"),
    (lambda e: intra_shot([GOOD[:1]], AXES, "intra_subject"), "intra_subject: no shot has two frames"),
    (lambda e: intra_shot([film_of([0, 1])], Lookup(torch.tensor([[1., 0.], [math.nan, 1.]])), "intra_subject"),
     "intra_subject: its extractor answers with NaN"),
    (lambda e: aesthetic_quality(GOOD, lambda f: torch.full((len(f),), math.nan)),
     "aesthetic: its extractor answers with NaN"),
    (lambda e: dynamic_degree([], e.flow), "no shots")])
def test_bad_input_gets_one_sentence(wrong, says):
    with pytest.raises(ValueError) as e: wrong(everything(lambda film: [5]))
    assert says in str(e.value) and "\n" not in str(e.value)


def test_frames_are_bytes():
    with pytest.raises(TypeError, match="film 1: frames are uint8, got torch.float32"):
        columns([GOOD.float()], [ASKED], everything(lambda film: [5]))


def test_one_film_that_cannot_be_judged_does_not_stop_the_others():
    blind = replace(everything(lambda film: [5]), inter_subject=Crowd([torch.zeros(0, 2)]*2))
    rows = columns([GOOD, GOOD], [ASKED]*2, blind)
    assert all(math.isnan(r.values["inter_subject"]) and "nothing found in any of 1 pairs" in r.notes["inter_subject"]
               for r in rows)
    assert all(r.values["intra_subject"] == 1. for r in rows) and "inter_subject" not in summary(rows)


def test_scale():
    x = torch.randn(50, 4, generator=generator(5))*3 + 1
    s = Scale.fit(torch.cat([x, torch.full((1, 4), math.nan)]))
    assert s(x).mean(0).abs().max() < 1e-5 and (s(x).std(0) - 1).abs().max() < 1e-5 and torch.equal(Scale()(x), x)
