"""Which frames stand for the past: published numbers, and what holds of any film."""
import random

import pytest

from shotstream.model.context import RULES, context_counts, context_frames, shot_frames, uniform_frames



@pytest.mark.parametrize("shots, published, paper", [
    (1, [6], [6]), (2, [3, 3], [3, 3]), (3, [2, 2, 2], [2, 2, 2]), (4, [1, 1, 2, 2], [1, 1, 1, 3]),
    (5, [1, 1, 1, 1, 2], [1, 1, 1, 1, 2]),
    (6, [1]*6, [1]*6), (7, [0]+[1]*6, [0]+[1]*6), (8, [0, 0]+[1]*6, [0, 0]+[1]*6)])
def test_context_counts(shots, published, paper):
    assert context_counts(shots) == published
    assert context_counts(shots, rule="paper") == paper


@pytest.mark.parametrize("frames",
                         [[0, 16, 32, 48, 64, 80], [0, 40, 80, 81, 121, 161], [0, 80, 81, 161, 162, 242],
                          [0, 81, 162, 242, 243, 323],
                                    [0, 81, 162, 243, 324, 404], [0, 81, 162, 243, 324, 405],
                                    [81, 162, 243, 324, 405, 486], [162, 243, 324, 405, 486, 567]])
def test_context_frames_of_81_frame_shots(frames, request):
    shots = request.node.callspec.indices["frames"] + 1
    picks = context_frames([(81*k, 81*(k+1)) for k in range(shots)])
    assert picks == [(f//81, f) for f in frames]
    assert context_frames([(0, 81)]*shots) == [(f//81, f % 81) for f in frames]    # every shot may count its own frames


def test_short_shots_repeat_frames():
    assert context_frames([(0, 1)]) == [(0, 0)]*6
    assert context_frames([(0, 3)]) == [(0, 0), (0, 0), (0, 1), (0, 1), (0, 2), (0, 2)]
    assert uniform_frames(0, 80, 6) == [0, 16, 32, 47, 63, 79]
    assert uniform_frames(0, 6, 3) == [0, 2, 5]                                      # torch rounds a half to even


@pytest.mark.parametrize("seed", range(20))
def test_context_of_any_film(seed):
    rng = random.Random(seed)
    shots, budget = rng.randint(1, 10), rng.randint(1, 12)
    cuts = sorted(rng.sample(range(400), shots+1))
    spans = list(zip(cuts, cuts[1:]))
    shot = rng.randrange(shots)
    pinned = [(shot, rng.randrange(*spans[shot]))]
    for rule in RULES:
        for keep in ([], pinned):
            picks = context_frames(spans, budget, rule, keep)
            assert len(picks) == budget and picks == sorted(picks) and set(keep) <= set(picks)
            assert all(spans[k][0] <= f < spans[k][1] for k, f in picks)
            if not keep: assert {k for k, _ in picks} == set(range(max(0, shots-budget), shots))


@pytest.mark.parametrize("arguments, message", [
    (dict(spans=[]), "the first shot has none"),
    (dict(spans=[(0, 9)], rule="best"), "unknown context rule 'best'; use one of published"),
    (dict(spans=[(0, 9), (9, 9)]), "shot 1 has no frames"), (dict(spans=[(0, 9)], budget=-1), "got -1"),
    (dict(spans=[(0, 9)], pinned=[(0, 9)]), "pinned frame 9 is not in shot 0"),
    (dict(spans=[(0, 9)], pinned=[(1, 0)]), "pinned frame 0 is not in shot 1"),
    (dict(spans=[(0, 9)], budget=2, pinned=[(0, 1), (0, 2), (0, 3)]),
     "3 pinned frames do not fit a budget of 2; unpin 1")])
def test_context_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message): context_frames(**arguments)


def test_first_and_last_frames():
    assert shot_frames(3, 9, 3, "first") == [3, 3, 3]
    assert [shot_frames(3, 9, n, "first_last") for n in (0, 1, 2, 3, 4)] == [[], [3], [3, 8], [3, 3, 8], [3, 3, 8, 8]]
    assert shot_frames(3, 9, 3) == uniform_frames(3, 9, 3) == [3, 6, 8]                # 5.5 of a half goes to 6
    assert shot_frames(3, 9, 1) == [3]
    assert context_frames([(0, 5), (5, 9)], 5, "first") == [(0, 0)]*2 + [(1, 5)]*3


def test_pins_use_up_the_budget_first():
    spans = [(0, 9), (0, 9)]
    assert context_frames(spans, 4, pinned=[(0, 5)]) == [(0, 0), (0, 5), (1, 0), (1, 8)]
    assert context_frames(spans, 4, pinned=[(0, 5), (0, 5)]) == context_frames(spans, 4, pinned=[(0, 5)])
    assert context_frames(spans, 2, pinned=[(1, 3), (0, 8)]) == [(0, 8), (1, 3)]
    assert context_frames(spans, 6, "paper", [(0, 4)]) == [(0, 0), (0, 4), (0, 8), (1, 0), (1, 4), (1, 8)]
    assert context_frames([(0, 9)], 0) == []


@pytest.mark.parametrize("rule", ["published", "paper"])
@pytest.mark.parametrize("lengths", [(81,), (9, 33), (5, 5, 5), (1, 4), (2,), (33,)*8])
def test_a_pinned_frame_is_not_picked_again(rule, lengths):
    "While a shot has other frames; what was picked without it stays as it was"
    spans = [(0, n) for n in lengths]
    plain = context_frames(spans, 5, rule)
    for shot in range(len(lengths)):
        for frame in {0, lengths[shot]//2, lengths[shot]-1}:
            picks = context_frames(spans, 6, rule, [(shot, frame)])
            assert len(picks) == 6 and (shot, frame) in picks
            share = [f for s, f in plain if s == shot]
            if lengths[shot] > len(share): assert picks.count((shot, frame)) == 1
            if (shot, frame) not in plain: assert sorted([*plain, (shot, frame)]) == picks
