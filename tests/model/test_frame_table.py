"""The frame table, and masks against plain loops over pairs of frames."""
import random
from dataclasses import fields, replace

import pytest
import torch

from shotstream.model.frame_table import (
    FrameTable, bidirectional_mask, causal_mask, concat_frames, first_shot_table, next_shot_table, single_shot_table,
    stack_stories)



def rows(table, story):
    return [dict(zip([f.name for f in fields(table)],
                     values)) for values in zip(*(getattr(table, f.name)[story].tolist() for f in fields(table)))]


def looks(a, b, asking, answering, window, sink):
    "May row `a` look at row `b`? Written from the sentence, one pair at a time"
    if not b["target"]: return True
    if not a["target"] or a["shot"] != b["shot"] or b["chunk"] > a["chunk"]: return False
    if window is None or a["chunk"] == b["chunk"]: return True
    end = [r["position"] for r in asking if r["target"] and r["shot"] == a["shot"] and r["chunk"] == a["chunk"]][-1]
    if end - b["position"] < window: return True
    start = [r["position"] for r in answering if r["target"] and r["shot"] == a["shot"] and r["chunk"] == 0]
    return bool(start) and b["position"] - start[0] < sink


def by_loops(q, k, window=None, sink=0):
    stories = [(rows(q, i), rows(k, i)) for i in range(len(q.shot))]
    return torch.tensor([[[looks(a, b, asking, answering, window, sink) for b in answering] for a in asking] for asking,
                         answering in stories])


def random_film(rng, frames):
    "Context of some shots, then the frames of one or two shots in chunks of any size"
    context = rng.randint(0, frames-2)
    cut = rng.randint(1, frames-context)
    film = next_shot_table(sorted(rng.choices(range(4), k=context)), cut, rng.choice([3, 4]), chunk=rng.randint(1, 4))
    if cut == frames-context: return film
    second = next_shot_table([], frames-context-cut, 5, chunk=rng.randint(1, 4))
    return concat_frames(film, replace(second, position=second.position + context + cut))


@pytest.mark.parametrize("seed", range(25))
def test_visibility_is_the_loop(seed):
    rng = random.Random(seed)
    film = stack_stories(random_film(rng, 10), random_film(rng, 10))
    window, sink = rng.choice([None, 0, 1, 2, 3, 5, 9]), rng.randint(0, 3)
    some = sorted(rng.sample(range(10), 4))
    for q, k in ((film, film), (film[some], film), (film, film[some])):
        assert torch.equal(causal_mask(q, k, window, sink), by_loops(q, k, window, sink))
    assert torch.equal(bidirectional_mask(film[some], film), torch.ones(2, 4, 10).bool())


@pytest.mark.parametrize("window, sink", [(None, 0), (12, 0), (9, 3), (3, 0), (6, 1)])
def test_chunk_by_chunk_is_the_whole_mask(window, sink):
    table = stack_stories(next_shot_table([0]*6, 21, 1), next_shot_table([0, 0, 0, 1, 1, 1], 21, 2))
    whole = causal_mask(table, table, window, sink)
    for c in range(7):
        asks = slice(6+3*c, 9+3*c)
        # with the chunk, without it, with holes
        for keys in (range(9+3*c), range(6+3*c), [*range(9), *range(max(9, 3*c), 9+3*c)]):
            assert torch.equal(causal_mask(table[asks], table[list(keys)], window, sink),
                               whole[:, asks][:, :, list(keys)])
    assert torch.equal(causal_mask(table[:6], table[:6], window, sink), torch.ones(2, 6, 6).bool())


def test_published_window_changes_from_the_fifth_chunk():
    table = next_shot_table([0]*6, 21, 1)
    full, windowed = causal_mask(table, table), causal_mask(table, table, 12)
    assert table.chunk[0, (full != windowed)[0].any(1)].unique().tolist() == [4, 5, 6]
    assert windowed[0, 6:].sum(1).tolist() == [6 + min(12, 3 + 3*(i//3)) for i in range(21)]
    # LongLive's 12 = 3 + 9
    assert causal_mask(table, table, 9, 3)[0, 6:].sum(1).tolist() == windowed[0, 6:].sum(1).tolist()


def test_noise_belongs_to_frames():
    table = stack_stories(next_shot_table([0, 1], 3, 2), next_shot_table([0, 0], 3, 1))
    assert table.at(.25).sigma.tolist() == [[0, 0, .25, .25, .25]]*2
    assert table.at(torch.tensor([.25, .75])).sigma[:, 2:].tolist() == [[.25]*3, [.75]*3]
    each = torch.tensor([[.5, .5, .25, .5, .75]]*2)
    assert table.at(each).sigma.tolist() == [[0, 0, .25, .5, .75]]*2
    assert table.at(.25).at(1.) == table and table.at(.25) != table


def test_tables_cut_and_join():
    table = next_shot_table([4, 7], 4, shot=9, captions=[0, 1, 2])
    assert (table.shot.tolist(), table.caption.tolist()) == ([[4, 7, 9, 9, 9, 9]], [[0, 1, 2, 2, 2, 2]])
    assert (table.position.tolist(), table.chunk.tolist()) == ([[0, 1, 2, 3, 4, 5]], [[-1, -1, 0, 0, 0, 1]])
    assert concat_frames(table[:2], table[2:5], table[-1]) == table and len(table[[0, 3]]) == 2
    assert stack_stories(table, table).shape == (2, 6) and "1 more in this batch" in repr(stack_stories(table, table))
    assert single_shot_table(1, 3, .5) == next_shot_table([], 3, 0, .5)
    assert next_shot_table([0], 5, 1, chunk=2).chunk.tolist() == [[-1, 0, 0, 1, 1, 2]]


@pytest.mark.parametrize("make, message", [
    (lambda: next_shot_table([0, 1], 3, 2, captions=[0, 1]), "2 context frames and a target need 3 captions, got 2"),
    (lambda: next_shot_table([0], 0, 1), "at least one latent frame"),
    (lambda: next_shot_table([0], 3, 1, chunk=0), "chunk=0"),
    (lambda: stack_stories(next_shot_table([], 3, 0), next_shot_table([], 5, 0)), r"equal length, got \[3, 5\] frames"),
    (lambda: concat_frames(single_shot_table(2, 3), single_shot_table(1, 3)), r"\[2, 1\] stories"),
    (lambda: FrameTable(*[torch.zeros(3)]*6), r"one shape \(b, f\)"),
    (lambda: replace(single_shot_table(1, 3), shot=torch.zeros(1, 2)), r"'shot': \(1, 2\)")])
def test_table_says_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message): make()


def test_the_first_shot_has_an_empty_past():
    table = first_shot_table(4, budget=2)
    assert (table.shot.tolist(), table.caption.tolist()) == ([[0, 0, 1, 1, 1, 1]], [[0]*6])
    assert table.target.tolist() == [[False]*2 + [True]*4] and table.sigma.tolist() == [[0.]*2 + [1.]*4]
    assert table.chunk.tolist() == [[-1, -1, 0, 0, 0, 1]] and len(first_shot_table(3)) == 9


def test_columns_move_together_and_keep_their_types():
    for table in (next_shot_table([0], 2, 1, device="meta"), next_shot_table([0], 2, 1).to("meta"),
                  first_shot_table(2, device="meta"), single_shot_table(1, 3, device="meta")):
        assert {getattr(table, f.name).device.type for f in fields(table)} == {"meta"}
        assert ([getattr(table, f.name).dtype for f in fields(table)]
                == [torch.int64]*3 + [torch.float32, torch.bool, torch.int64])
    table = next_shot_table([0], 2, 1)
    assert table.to(None) is table and table.to("cpu") == table != "a table"


def test_noise_everywhere_and_for_each_story():
    table = stack_stories(next_shot_table([0, 1], 2, 2), next_shot_table([0, 0], 2, 1))
    assert table.at(torch.tensor([.25, .75], dtype=torch.float64), everywhere=True).sigma.tolist() == [[.25]*4, [.75]*4]
    assert single_shot_table(2, 3, torch.tensor([.5, .25])).sigma.tolist() == [[.5]*3, [.25]*3]
    assert single_shot_table(2, 3).position.tolist() == [[0, 1, 2]]*2
    assert table.at(.25).sigma.dtype == torch.float32


def test_a_table_can_be_read():
    lines = repr(next_shot_table([3], 1, 4, sigma=.5)).splitlines()
    assert [line.split() for line in lines] == [
        ["shot", "position", "caption", "sigma", "target", "chunk"], ["3", "0", "3", "0.00", "context", "-1"],
        ["4", "1", "4", "0.50", "target", "0"]]
