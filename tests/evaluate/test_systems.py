"""Every rival's mechanism against what is written out by hand: schedules, masks, texts, cache contents, positions."""
import math
from dataclasses import replace

import pytest
import torch

from shotstream.evaluate.systems import (
    SYSTEMS, TABLE_1, CacheBook, CachePolicy, Filming, Mask, Schedule, ShotRope, film_frames, film_story, film_table,
    keyframes, memory_bank, memory_table, rotated_text, route_text, same_shot, schedule_matrix, shot_or_first_frame,
    shot_or_openings)
from shotstream.model.flow import Sampling
from shotstream.model.frame_table import causal_mask
from shotstream.model.rope import rope_freqs, rotate, temporal_angles
from shotstream.toy.classifier import AttributeClassifier
from shotstream.toy.networks import ASSETS, toy_transformer
from shotstream.toy.world import draw_story
from shotstream.train.self_forcing import rollout
from shotstream.train.stages import Models


def noise(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(layers=2, seed=0):
    "A small one that answers something: no gate is closed"
    torch.manual_seed(seed)
    model = toy_transformer(latent_channels=4, text_dim=8, heads=2, layers=layers, ffn=32).eval().requires_grad_(False)
    for p in model.parameters(): p.add_(.15*torch.randn(p.shape))
    return model


SHAPE, TEXT = (4, 2, 2), noise(1, 3, 5, 8, seed=9)
CHUNKS = Schedule(4, 3.)


def filming(system, latents, model=None, text=TEXT, seed=1, **more):
    table = film_table(latents, system.rope)
    return Filming(model or network(), system, table, text[:, :max(1, len(latents))], SHAPE,
                   torch.Generator().manual_seed(seed), **more)


# Axis E

@pytest.mark.parametrize("steps,chunks,lag", [(4, 3, 0), (4, 3, 4), (4, 3, 1), (5, 7, 1), (3, 4, .5), (1, 1, 1)])
def test_schedule_entry_by_entry(steps, chunks, lag):
    matrix = schedule_matrix(steps, chunks, lag)
    assert len(matrix) == steps + int(lag*(chunks-1)) + 1
    for m, row in enumerate(matrix):
        for c, left in enumerate(row):
            begins = int(lag*c)                              # the row at which this chunk takes its first step
            assert left == (steps if m <= begins else 0 if m >= begins + steps else steps - (m - begins))


def test_schedules_of_the_papers():
    assert [len(schedule_matrix(4, 3, u)) for u in (0, 4, 1)] == [5, 13, 7]
    assert schedule_matrix(4, 3, 1)[3] == [1, 2, 3] and schedule_matrix(4, 3, 4)[5] == [0, 3, 4]
    levels = lambda *a: [round(1000*s, 1) for s in Schedule(*a).sigmas()]
    assert levels((1000, 800, 600, 400, 200), 5.) == [1000, 952.4, 882.4, 769.2, 555.6, 0]
    assert levels((1000, 750, 500, 250), 5.) == [1000, 937.5, 833.3, 625, 0]
    assert levels((1000, 740, 500, 260), 8.) == [1000, 957.9, 888.9, 737.6, 0]
    fifty = Schedule(50, 8., renoise=False).sigmas()
    assert [round(1000*fifty[i], 1) for i in (0, 13, 25, 37)] == levels((1000, 740, 500, 260), 8.)[:4]


@pytest.mark.parametrize("bad", [(0, 3, 0), (4, 0, 1), (4, 3, 5), (4, 3, -1)])
def test_a_schedule_that_is_none(bad):
    with pytest.raises(ValueError, match="a schedule has"): schedule_matrix(*bad)


def test_calls_per_film():
    "Staircase: S + C - 1 calls; one after the other: S C; all together: S, twice with guidance"
    made = {}
    for name, lag in dict(rolling=1, chunks=None, together=0).items():
        system = replace(SYSTEMS["self_forcing"], schedule=replace(CHUNKS, lag=lag),
                         cache=None if lag == 0 else CachePolicy())
        made[name] = filming(system, [9, 6])
        made[name].run()
    assert {k: v.calls for k, v in made.items()} == dict(rolling=4+5-1, chunks=4*5, together=4)
    guided = filming(replace(SYSTEMS["self_forcing"], cache=None, schedule=Schedule(4, 3., 0, False, 2.)), [6])
    guided.run()
    assert guided.calls == 8


# Axis A and D

def test_film_table_by_hand():
    t = film_table([4, 2], ShotRope(gap=.5))
    assert t.shot[0].tolist() == [0, 0, 0, 0, 1, 1] == t.caption[0].tolist()
    assert t.chunk[0].tolist() == [0, 0, 0, 1, 2, 2], "no chunk lies across a cut"
    assert t.position[0].tolist() == [0, 1, 2, 3, 4.5, 5.5]
    assert film_table([4, 2], ShotRope(gap=4.)).position[0].tolist() == [0, 1, 2, 3, 8, 9]
    with pytest.raises(ValueError, match="at least one latent"): film_table([3, 0])


@pytest.mark.parametrize("name,a,b",
                         [("multishotmaster", .5, 0), ("echoshot", 4, 0), ("longlive2", 3, 0), ("shotstream", 0, 1/6),
                                      ("holocine", 0, 0), ("mask2dit", 0, 0), ("self_forcing", 0, 0)])
def test_rope_of_every_system(name, a, b):
    "`(p + a k) w + b k`, band by band"
    rope = SYSTEMS[name].rope
    assert (rope.gap, rope.phi) == (a, b)
    t = film_table([2, 2, 1], rope)
    angles = temporal_angles(t.position, t.shot, 12, rope.phi)[0]
    for f, (p, k) in enumerate(zip(range(5), (0, 0, 1, 1, 2))):
        for j, omega in enumerate(rope_freqs(12).tolist()):
            assert math.isclose(angles[f, j].item(), (p + a*k)*omega + b*k, abs_tol=1e-9)


# Axis B

def test_masks_frame_by_frame():
    t = film_table([2, 3, 1])
    shot, first = [0, 0, 1, 1, 1, 2], {0, 2, 5}
    for rule, extra in ((shot_or_first_frame, {0}), (shot_or_openings, first), (same_shot, set())):
        assert rule(t, t)[0].tolist() == [[shot[q] == shot[k] or k in extra for k in range(6)] for q in range(6)]


@pytest.mark.parametrize("layers,masked", [(30, range(6, 28)), (6, range(1, 6)), (4, range(1, 4))])
def test_cinetrans_masks_the_middle(layers, masked):
    assert SYSTEMS["cinetrans"].mask.masked(layers) == masked
    masks = SYSTEMS["cinetrans"].mask.of(film_table([2, 2]), layers)
    assert [i for i, m in enumerate(masks) if m is not None] == list(masked)
    assert SYSTEMS["mask2dit"].mask.of(film_table([2, 2]), layers) is None


def test_a_mask_per_block():
    "What is hidden in every block is hidden; what is hidden in the last alone is not"
    model, t, x = network(), film_table([2, 2]), noise(1, 4, 4, 2, 2)
    other = x.clone()
    other[:, :, 2:] += 1
    apart = same_shot(t, t)
    def first_shot(x, mask): return model(x, None, TEXT, table=t, attention_mask=mask).sample[:, :, :2]
    assert torch.equal(first_shot(x, [apart, apart]), first_shot(x, apart))
    assert torch.allclose(first_shot(x, [apart, apart]), first_shot(other, [apart, apart]), atol=1e-6)
    for mask in ([None, apart], [apart, None]):
        assert (first_shot(x, mask) - first_shot(other, mask)).abs().max() > 1e-3, "one open block is enough"
    assert not torch.allclose(first_shot(x, [None, apart]), first_shot(x, [apart, None]))
    with pytest.raises(ValueError, match="one per block: 3 for 2"): first_shot(x, [apart]*3)


# Axis C

def test_echoshot_turns_queries_and_keys():
    "The published way, queries turned by their shot, against keys turned by the difference"
    model, heads = network(), 2
    attn, shots = model.blocks[0].attn2, 3
    raw = TEXT.clone()
    raw[:, :, 3:] = 0                                        # two silent tokens each
    text = model.condition_embedder.text_embedder(raw)
    k, v = model.encode_text_kv(raw)[0]
    turned, values = rotated_text((k, v), (raw == 0).all(-1), heads)
    freqs, d = rope_freqs(k.shape[-1]//heads), k.shape[-1]
    def turn(x, at): # (tokens, d) turned to positions
        angles = at[:, None].double()*freqs
        return rotate(x[None].unflatten(-1, (heads, -1)), angles.cos()[None, :, None].float(),
                      angles.sin()[None, :, None].float()).flatten(2)[0]
    segment = torch.tensor([0, 0, 0, 12, 12, 1, 1, 1, 12, 12, 2, 2, 2, 12, 12])       # padding: last shot + 10
    assert text.shape[-1] == d
    keys = turn(k[0].flatten(0, 1), 4*segment)
    for shot in range(shots):
        q = attn.norm_q(attn.to_q(noise(7, d, seed=shot)))
        there = turn(q, torch.full((7,), 4*shot)).unflatten(-1, (heads, -1))
        wanted = torch.einsum("qhd,khd->hqk", there, keys.unflatten(-1, (heads, -1)))
        got = torch.einsum("qhd,khd->hqk", q.unflatten(-1, (heads, -1)), turned[0, shot].unflatten(-1, (heads, -1)))
        assert torch.allclose(got, wanted, atol=1e-4)
        assert torch.equal(values[0, shot], v[0].flatten(0, 1))


def test_routes_by_hand():
    model = network()
    plain = model.encode_text_kv(TEXT)                       # three captions: two shots and a general one
    for i, (block, (k, v)) in enumerate(zip(route_text(model, TEXT, "own+general", range(1, 2)), plain)):
        for ours, whole in zip(block, (k, v)):
            assert ours.shape[:2] == (1, 2)
            for shot in range(2):
                seen = [whole[0, shot], whole[0, 2]] if i == 1 else [whole[0, j] for j in range(3)]
                assert torch.equal(ours[0, shot], torch.cat(seen))
    assert all(torch.equal(a, b) for x, y in zip(route_text(model, TEXT, "own"), plain) for a, b in zip(x, y))
    for k, _ in route_text(model, TEXT, "all"): assert k.shape == (1, 3, 15, k.shape[-1])
    with pytest.raises(ValueError, match="unknown text route"): route_text(model, TEXT, "loud")


def test_a_shot_reads_what_its_route_allows():
    "Of another shot's caption, own texts show nothing, and the first block of CineTrans shows it"
    model, other = network(layers=3), TEXT.clone()           # of three blocks CineTrans masks the last two
    other[:, 1] += 1
    alone = replace(SYSTEMS["cinetrans"], mask=Mask(same_shot), text="own")
    def caption(system, text):
        plain = replace(system, schedule=replace(system.schedule, steps=2, guidance=1.))
        film = Filming(model, plain, film_table([2, 2]), text, SHAPE, torch.Generator().manual_seed(1))
        return film.run()[:, :2]
    assert torch.equal(caption(alone, TEXT[:, :2]), caption(alone, other[:, :2]))
    assert not torch.allclose(caption(SYSTEMS["cinetrans"], TEXT), caption(SYSTEMS["cinetrans"], other))
    strict = replace(SYSTEMS["cinetrans"], mask=Mask(same_shot))                 # all blocks masked
    assert torch.equal(caption(strict, TEXT), caption(strict, other))


# Axis F, on numbers

def fill(policy, frames, chunk=3):
    book = CacheBook(policy)
    for start in range(0, frames, chunk): book.append(list(range(start, start+chunk)))
    return book


def test_infinity_rope_as_released():
    policy = CachePolicy(window=6, sink=1, places="relative")
    for how in ("keep", "flush", "cut"):
        book = fill(replace(policy, at_cut=how), 12)
        assert book.held == [0, 7, 8, 9, 10, 11]
        assert book.cut(12) == []
        asking = [12, 13, 14]
        seen = book.sight(asking)
        assert [*seen, *asking] == [0, 10, 11, 12, 13, 14], "a flush changes nothing in what is seen"
        assert book.places(seen, asking) == ([0, 1, 2], [45, 46, 47] if how == "cut" else [3, 4, 5])
        book.append(asking)
        seen = book.sight([15, 16, 17])
        assert seen == [0, 13, 14] and book.places(seen, [15, 16, 17]) == ([0, 1, 2], [3, 4, 5])
    assert SYSTEMS["infinity_rope"].cache == replace(policy, at_cut="cut")
    assert SYSTEMS["infinity_rope"].card.training.startswith("training-free")


def test_longlive_recache():
    policy = SYSTEMS["longlive"].cache
    assert (policy.window, policy.sink, policy.at_cut) == (12, 3, "recache")
    book = fill(policy, 42)
    assert book.held == [0, 1, 2, *range(33, 42)]
    assert book.cut(42) == list(range(33, 42)) and book.held == [0, 1, 2], "the sink keeps the old prompt"
    book.append(list(range(33, 42)))
    assert book.held == [0, 1, 2, *range(33, 42)]
    assert book.sight([42, 43, 44]) == [0, 1, 2, *range(36, 42)]
    book = fill(replace(policy, at_cut="recache_all"), 42)
    assert book.cut(42) == list(range(30, 42)) and book.held == []
    book.append(list(range(30, 42)))
    assert book.sinks == [30, 31, 32], "the sink moves at every switch"


def test_rolling_forcing_anchor():
    policy = SYSTEMS["rolling_forcing"].cache
    book = fill(policy, 12)
    asking = list(range(12, 27))                             # five chunks
    assert book.sight(asking) == [0, 1, 2, 9, 10, 11]
    assert book.places(book.sight(asking), asking) == ([6, 7, 8, 9, 10, 11], asking), "right before what is recent"
    book = fill(policy, 3)
    assert book.places(book.sight([3, 4, 5]), [3, 4, 5]) == ([0, 1, 2], [3, 4, 5])


def test_causvid_restarts():
    book = fill(SYSTEMS["causvid"].cache, 18)
    assert book.make_room([18, 19, 20]) == []
    book.append([18, 19, 20])
    assert book.make_room([21, 22, 23]) == [18, 19, 20] and book.held == []
    assert book.places([], [18, 19, 20]) == ([], [0, 1, 2])
    book.append([18, 19, 20])
    assert book.places(book.sight([21, 22, 23]), [21, 22, 23]) == ([0, 1, 2], [3, 4, 5])


def test_longlive2_pins():
    book = fill(SYSTEMS["longlive2"].cache, 18)
    assert book.cut(18) == []
    for start in range(18, 36, 3): book.append(list(range(start, start+3)))
    assert book.sight([36, 37, 38]) == [0, 1, 2, 18, 19, 20, 33, 34, 35]         # global, pinned, recent
    book.cut(36)
    book.append([36, 37, 38])
    assert book.pins == [36, 37, 38], "a new pin takes the old one's place"
    assert book.sight([39, 40, 41]) == [0, 1, 2, 33, 34, 35, 36, 37, 38]


def test_self_forcing_rolls():
    book = fill(SYSTEMS["self_forcing"].cache, 24)
    assert book.sight([24, 25, 26]) == list(range(6, 24))
    assert book.places(book.sight([24, 25, 26]), [24, 25, 26]) == (list(range(6, 24)), [24, 25, 26])


def test_deep_forcing_chooses():
    policy = SYSTEMS["deep_forcing"].cache
    book = fill(policy, 15)
    book.choose({f: 0. for f in range(15)})
    assert book.held == list(range(15)), "there is room: 10, and one to choose from, and 4"
    book = fill(policy, 18)
    book.choose({f: {11: 5., 13: 7.}.get(f, 0.) for f in range(18)})
    assert book.held == [*range(10), 11, 13, 14, 15, 16, 17] and len(book.held) == 16
    asking = [18, 19, 20]
    assert book.places(book.sight(asking), asking) == ([2, *range(3, 14), 14, 15, 16, 17], asking)
    book.append(asking)
    assert book.sight([21, 22, 23]) == [*range(10), 11, 13, *range(14, 21)]


@pytest.mark.parametrize("wrong,sentence",
                         [(dict(places="there"), "places is one of"), (dict(at_cut="shout"), "at_cut is one of"),
                                            (dict(top=2), "how many are recent")])
def test_a_policy_that_is_none(wrong, sentence):
    with pytest.raises(ValueError, match=sentence): CachePolicy(**wrong)


# Axis F, in the network

def test_one_shot_is_the_students_rollout():
    "Self Forcing on one shot is `rollout` without a past, to the bit"
    model, system = network(), SYSTEMS["self_forcing"]
    t = film_table([8])
    ours = filming(replace(system, rope=ShotRope(phi=1/6), schedule=CHUNKS), [8], model).run()
    theirs = rollout(model, torch.zeros(1, 0, *SHAPE), t, TEXT[:, :1], Sampling(4, 3.),
                     torch.Generator().manual_seed(1))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("policy",
                         [CachePolicy(window=6), CachePolicy(window=9, sink=3), CachePolicy(window=7, sink=1),
                          CachePolicy()])
def test_a_window_against_a_mask(policy):
    "Chunk after chunk without a cache: everything again, under a mask"
    model, system = network(), replace(SYSTEMS["self_forcing"], cache=policy, schedule=Schedule(2, 3.))
    ours = filming(system, [6, 9], model).run()
    t = film_table([6, 9])
    one = replace(t, shot=torch.zeros_like(t.shot))  # the mask's rule is for one shot; without a phase that is all
    g, made, sigmas, x0 = torch.Generator().manual_seed(1), [], system.schedule.sigmas(), None
    for c in range(5):
        x = torch.randn(1, 3, *SHAPE, generator=g)
        rows = one[:3*(c+1)]
        hidden = causal_mask(rows, rows, policy.window - policy.sink, policy.sink)
        for i in range(2):
            if i: x = (1 - sigmas[i])*x0 + sigmas[i]*torch.randn(1, 3, *SHAPE, generator=g)
            at = replace(rows, sigma=torch.where(torch.arange(len(rows)) >= 3*c, sigmas[i], 0.)[None])
            film = torch.cat([*made, x], 1).transpose(1, 2)
            v = model(film, None, TEXT[:, :2], table=at, attention_mask=hidden, phi=0.).sample.transpose(1, 2)[:, 3*c:]
            x0 = x - sigmas[i]*v
        made.append(x0)
    assert torch.allclose(ours, torch.cat(made, 1), atol=1e-4)


INFINITY = [([], [], [0, 1, 2]), ([0, 1, 2], [0, 1, 2], [3, 4, 5]), ([0, 4, 5], [0, 1, 2], [45, 46, 47]),
            ([0, 7, 8], [0, 1, 2], [3, 4, 5])]
CAUSVID = [([], [], [0, 1, 2]), ([0, 1, 2], [0, 1, 2], [3, 4, 5]), ([3, 4, 5], [0, 1, 2], [3, 4, 5]),
           ([6, 7, 8], [0, 1, 2], [3, 4, 5])]
PINNED = [([], [], [0, 1, 2]), ([0, 1, 2], [0, 1, 2], [3, 4, 5]), ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [9, 10, 11]),
          ([0, 1, 2, 6, 7, 8], [0, 1, 2, 9, 10, 11], [12, 13, 14])]


@pytest.mark.parametrize("name,policy,looks", [
    ("infinity_rope", SYSTEMS["infinity_rope"].cache, INFINITY),
    ("causvid", CachePolicy(window=6, overlap=3), CAUSVID),
    ("longlive2", CachePolicy(window=9, sink=3, at_cut="pin"), PINNED)])
def test_positions_in_the_network(name, policy, looks):
    """With one block, keys and values of a frame depend on that frame alone: every look of a film is one pass over what
    is in sight, at positions written out by hand"""
    model = network(layers=1)
    system = replace(SYSTEMS[name], cache=policy, schedule=Schedule(1, 3.))
    film = filming(system, [6, 6], model)
    ours = film.run()
    g, t = torch.Generator().manual_seed(1), film_table([6, 6], system.rope)
    clean = [ours[:, i:i+1] for i in range(12)]
    for c, (seen, keys, own) in enumerate(looks):
        asking = [3*c, 3*c+1, 3*c+2]
        x = torch.randn(1, 3, *SHAPE, generator=g)
        rows = replace(t[[*seen, *asking]], position=torch.tensor([[*keys, *own]]),
                       sigma=torch.tensor([[0.]*len(seen) + [1.]*3]))
        v = model(torch.cat([*(clean[i] for i in seen), x], 1).transpose(1, 2), None, TEXT[:, :2], table=rows,
                  phi=0.).sample
        assert torch.allclose(ours[:, 3*c:3*c+3], x - v.transpose(1, 2)[:, -3:], atol=1e-4), f"chunk {c}"


def test_recache_writes_with_the_new_prompt():
    model = network()
    def kept(how):
        system = replace(SYSTEMS["longlive"], cache=CachePolicy(window=12, sink=3, at_cut=how), schedule=CHUNKS)
        film = filming(system, [9, 6], model)
        film.run()
        return film.cache
    new, old = kept("recache"), kept("keep")
    assert new.frames == old.frames == list(range(12))
    assert torch.equal(new.keys(1)[:, :3], old.keys(1)[:, :3]), "the sink is not written again"
    for i in range(3, 9): assert not torch.allclose(new.keys(1)[:, i], old.keys(1)[:, i])
    assert torch.allclose(new.keys(0)[:, 3:9], old.keys(0)[:, 3:9], atol=1e-6), "the first block has not read yet"


def test_rolling_window_reads_captions_of_its_own_or_one():
    "With one caption per window, a switch is smeared over the chunks that are on their way"
    read = {}
    for text in ("own", "window"):
        film = filming(replace(SYSTEMS["rolling_forcing"], text=text, schedule=Schedule(3, 3., lag=1)), [6, 6])
        rows, looks = film.rows, []
        def spied(chunks, rows=rows, looks=looks):
            looks.append(rows(chunks).caption[0].tolist())
            return rows(chunks)
        film.rows = spied
        film.run()
        read[text] = looks
    assert read["own"][2] == [0]*6 + [1]*3 and read["own"][3] == [0]*3 + [1]*6
    assert read["window"][2] == [0]*9 and read["window"][3] == [0]*9 and read["window"][4] == [1]*6
    assert len(read["own"]) == 3 + 4 - 1


def test_rolling_noise_rises_to_the_right():
    film = filming(replace(SYSTEMS["rolling_forcing"], schedule=Schedule(3, 3., lag=1)), [15])
    seen, predict = [], film.predict
    film.predict = lambda rows, x, text: seen.append(rows.sigma[0, ::3].tolist()) or predict(rows, x, text)
    film.run()
    s = film.sigmas
    wanted = [[s[0]], [s[1], s[0]], [s[2], s[1], s[0]], [s[2], s[1], s[0]], [s[2], s[1], s[0]], [s[2], s[1]], [s[2]]]
    assert [len(w) for w in seen] == [len(w) for w in wanted]
    for got, want in zip(seen, wanted): assert torch.allclose(torch.tensor(got), torch.tensor(want))


def test_noise_is_asked_for_chunk_by_chunk_and_step_by_step():
    "So that a film can be repeated from its own noise: see `noise_source`"
    calls = []
    def source(shape, start, step):
        calls.append((start, step))
        return noise(*shape, seed=start+step)
    for lag, asked in ((None, [(0, 0), (0, 1), (3, 0), (3, 1)]), (1, [(0, 0), (0, 1), (3, 0), (3, 1)])):
        calls.clear()
        system = replace(SYSTEMS["self_forcing"], schedule=Schedule(2, 3., lag))
        Filming(network(), system, film_table([5]), TEXT[:, :1], SHAPE, source).run()
        assert sorted(calls) == asked
    calls.clear()
    together = replace(SYSTEMS["self_forcing"], cache=None, schedule=Schedule(2, 3., 0, False))
    Filming(network(), together, film_table([5]), TEXT[:, :1], SHAPE, source).run()
    assert calls == [(0, 0), (3, 0)], "Euler steps need no other"


def test_causvid_encodes_the_first_frame_again():
    asked = []
    def recode(film):
        asked.append(film.shape[1])
        return torch.full((1, *SHAPE), 7.)
    film = filming(replace(SYSTEMS["causvid"], cache=CachePolicy(window=6, overlap=3), schedule=Schedule(1, 3.)), [9],
                   recode=recode)
    film.run()
    assert asked == [4], "the frames up to the first of the overlap"
    assert torch.equal(film.made[1][:, 0], torch.full((1, *SHAPE), 7.))


def test_importance_is_a_sum_of_products():
    film = filming(replace(SYSTEMS["deep_forcing"],
                           cache=CachePolicy(window=21, sink=3, recent=2, top=1, places="anchor"),
                           schedule=Schedule(1, 3.)), [12])
    film.run()
    cache = film.cache
    cache.ask([12, 13, 14])
    cache.see()
    q, k = noise(2, 8, 2, 4), noise(2, 2*len(cache.in_sight()), 2, 4, seed=2)
    cache.watch(q, k)
    for i, f in enumerate(cache.in_sight()):
        assert math.isclose(cache.importance[f], sum((q[b, :, h] @ k[b, 2*i+n, h]).sum().item() for b in range(2)
                                                     for h in range(2) for n in range(2)), abs_tol=1e-3)
    assert len(cache.book.held) == 3 + 1 + 2, "sink, top and recent; nobody looks at the last chunk"


# Training

@pytest.mark.parametrize("lag", [None, 1, 0])
@pytest.mark.parametrize("exit_step", [0, 2])
def test_one_row_of_every_s_has_the_gradient(lag, exit_step):
    model = network().requires_grad_(True)
    system = replace(SYSTEMS["self_forcing"], schedule=replace(CHUNKS, steps=3, lag=lag), cache=None if lag == 0
                     else CachePolicy())
    film = filming(system, [6, 3], model)
    graphs, predict = [], film.predict
    film.predict = lambda rows, x, text: graphs.append(torch.is_grad_enabled()) or predict(rows, x, text)
    x0 = film.run(exit_step)
    assert x0.shape == (1, 9, *SHAPE) and x0.requires_grad
    x0.pow(2).mean().backward()
    assert model.proj_out.weight.grad.abs().max() > 0
    rows = {None: 3*(exit_step+1), 0: exit_step+1, 1: 5}[lag]
    assert len(graphs) == rows and sum(graphs) == {None: 3, 0: 1, 1: 2 if exit_step != 2 else 1}[lag]
    for start in range(0, 9, 3):                             # every chunk has a share in the loss
        film = filming(system, [6, 3], model)
        model.zero_grad()
        film.run(exit_step)[:, start:start+3].sum().backward()
        assert model.proj_out.weight.grad.abs().max() > 0


# StoryMem

def test_keyframes_one_by_one():
    turn = lambda degrees: torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in degrees])
    assert keyframes(turn([0, 10, 20, 30, 40, 200])) == [0, 3, 5]                # cos 30 degrees is .87
    assert keyframes(turn([0]*5)) == [0]
    many = keyframes(turn(range(0, 360, 30)))
    assert len(many) <= 3 and many[0] == 0, "stricter until there are at most three"


def test_memory_bank_and_positions():
    assert memory_bank(list(range(8))) == list(range(8))
    assert memory_bank(list(range(20))) == [0, 1, 2, *range(13, 20)]
    t = memory_table(2, 3)
    assert t.position[0].tolist() == [-6, -3, 0, 1, 2]
    assert t.caption[0].tolist() == [0]*5 and t.target[0].tolist() == [False]*2 + [True]*3
    assert memory_table(0, 2).position[0].tolist() == [0, 1]


# All of them

def test_all_rows_are_there():
    assert len(SYSTEMS) == 14 and len(TABLE_1) == 8 and set(TABLE_1) <= set(SYSTEMS)
    free = {n for n, s in SYSTEMS.items() if s.card.training.startswith("training-free")}
    assert free == {"cinetrans", "infinity_rope", "deep_forcing"} == {n for n, s in SYSTEMS.items()
        if s.objective == "none"}
    for s in SYSTEMS.values(): assert s.axes()["training"] == s.card.training


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_films(pipe, name):
    classifier = AttributeClassifier.from_pretrained(ASSETS/"classifier").float().eval()
    models = Models(pipe.vae, pipe.text_encoder, pipe.tokenizer, classifier=classifier)
    model = toy_transformer(heads=1, layers=2, ffn=32).eval().requires_grad_(False)
    for p in model.parameters(): p.add_(.05*torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    system, stories = SYSTEMS[name], [draw_story(s, n_shots=2, frames=13, pair=0.) for s in (0, 1)]
    if system.schedule.lag == 0: system = replace(system, schedule=replace(system.schedule, steps=2))
    films = film_story(model, system, models, stories, [4, 3], torch.Generator().manual_seed(0))
    again = film_story(model, system, models, stories, [4, 3], torch.Generator().manual_seed(0))
    lengths = film_frames(system, [4, 3])
    assert lengths == ([13, 12] if system.cache else [13, 9])
    assert [f.shape for f in films] == [(sum(lengths), 64, 64, 3)]*2 and films[0].dtype == torch.uint8
    assert all(torch.equal(a, b) for a, b in zip(films, again)) and not torch.equal(*films)
    with pytest.raises(ValueError, match="3 lengths for stories of"):
        film_story(model, system, models, stories, [4, 3, 3])
