"""Flow, clocks, context and frame table against published numbers, diffusers and plain loops."""
import math
import random
from dataclasses import fields, replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from shotstream.model.context import RULES, context_counts, context_frames, uniform_frames
from shotstream.model.frame_table import (
    FrameTable, concat_frames, next_shot_table, bidirectional_mask, causal_mask, single_shot_table, stack_stories)
from shotstream.model.flow import (
    add_noise, draw_sigma, euler, guided, schedule, shift_sigma, to_noise, to_x0, velocity)
from shotstream.model.pixels import decode_frames
from shotstream.model.rope import rope_similarity, rope_freqs, rotate, split_axes, temporal_angles, video_angles
from shotstream.toy.vae import ToyVAE


def close(a, b, tolerance=1e-6):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=tolerance, rtol=0, check_dtype=False)


# Flow

def test_published_student_steps():
    close([1000*shift_sigma(t/1000, 8) for t in (1000, 740, 500, 260)], [1000., 957.93, 888.89, 737.59], .006)
    close(1000*schedule(50, 8)[[0, 13, 25, 37]], [1000., 957.93, 888.89, 737.59], .006)


def test_same_convention_as_diffusers():
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=8.)
    scheduler.set_timesteps(sigmas=torch.linspace(1, .25, 4).tolist())
    close(scheduler.sigmas, schedule(4, 8))
    close(scheduler.scale_noise(x0, scheduler.timesteps[2:3], noise), add_noise(x0, noise, schedule(4, 8)[2]))
    field = lambda x, sigma: x*sigma - x0
    theirs = noise
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas):
        theirs = scheduler.step(field(theirs, sigma), t, theirs).prev_sample
    close(euler(field, noise, schedule(4, 8)), theirs, 1e-5)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_line_and_its_two_ends(shape):
    torch.manual_seed(1)
    x0, noise, sigma = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5), torch.rand(shape)
    xt, v = add_noise(x0, noise, sigma), velocity(x0, noise)
    each = sigma.reshape(*shape, *[1]*(2-len(shape))).expand(2, 3)
    for i in range(2):
        for j in range(3): close(xt[i, j], x0[i, j] + each[i, j]*(noise[i, j] - x0[i, j]))
    close(to_x0(xt, v, sigma), x0, 1e-5)
    close(to_noise(xt, v, sigma), noise, 1e-5)


def test_draws_and_guidance():
    seed = lambda: torch.Generator().manual_seed(3)
    for normal in (False, True):
        even = draw_sigma(1000, normal=normal, generator=seed())
        close(draw_sigma(1000, 5, normal, generator=seed()), 5*even/(1 + 4*even))
        assert even.min() >= 0 and even.max() <= 1 and abs(even.mean() - .5) < .05
    text, blank = torch.randn(3), torch.randn(3)
    close(guided(text, blank, 4), text + 3*(text - blank), 1e-5)        # published: c + 3(c - u)
    with pytest.raises(ValueError, match="at least one step, got steps=0"): schedule(0)


# Clocks

@pytest.mark.parametrize("head_dim, axes", [(128, (44, 42, 42)), (32, (12, 10, 10)), (16, (8, 4, 4))])
def test_plain_positions_are_wans(head_dim, axes):
    assert split_axes(head_dim) == axes
    f, h, w = 7, 4, 5
    theirs = WanRotaryPosEmbed(head_dim, (1, 2, 2), 64)(torch.zeros(1, 16, f, 2*h, 2*w))
    table = single_shot_table(2, f)
    for ours, their in zip(video_angles(table.position, table.shot, h, w, head_dim), theirs):
        assert ours.shape == (2, f*h*w, 1, head_dim//2)
        close(ours, their[..., ::2].expand_as(ours))


def test_phase_formula_on_every_token():
    position, shot = torch.tensor([[0, 1, 5], [3, 4, 9]]), torch.tensor([[0, 0, 2], [1, 3, 3]])
    h, w, phi, gap = 2, 3, .4, 1.5
    cos, sin = video_angles(position, shot, h, w, 32, phi, gap)
    for b in range(2):
        for f in range(3):
            for y in range(h):
                for x in range(w):
                    p, k = position[b, f].item(), shot[b, f].item()
                    angle = [(p + gap*k)*10_000**(-2*j/12) + k*phi for j in range(6)]
                    angle += [place*10_000**(-2*j/10) for place in (y, x) for j in range(5)]
                    token = f*h*w + y*w + x
                    close(cos[b, token, 0], [math.cos(a) for a in angle])
                    close(sin[b, token, 0], [math.sin(a) for a in angle])


def test_published_jump_is_a_sixth_on_22_clocks():
    table = next_shot_table([0, 0, 1, 1, 2, 2], 21, shot=3)
    jump = temporal_angles(table.position, table.shot, 44) - temporal_angles(table.position, table.shot, 44, phi=0)
    assert jump.shape == (1, 27, 22)
    close(jump, (table.shot.double()/6)[..., None].expand_as(jump), 1e-12)
    close((1/6)/rope_freqs(44)[[0, -1]], [.1667, 1097], .5)
    with pytest.raises(ValueError, match="even number"): rope_freqs(5)


def test_scores_see_only_differences():
    torch.manual_seed(2)
    q, k = torch.randn(1, 9, 2, 12), torch.randn(1, 9, 2, 12)
    position, shot = torch.arange(9), torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2])
    def scores(position, shot, phi=1/6):
        angles = temporal_angles(position, shot, 12, phi)[None, :, None].float()
        q_, k_ = (rotate(x, angles.cos(), angles.sin()) for x in (q, k))
        return torch.einsum("bqhd,bkhd->bhqk", q_, k_)
    plain = scores(position, shot)
    close(scores(position+5, shot+2), plain, 1e-4)
    close(scores(position, shot, 2*math.pi), scores(position, shot, 0), 1e-4)
    assert (plain - scores(position, shot, 0)).abs().max() > .1
    ones = torch.ones(1, 9, 1, 44)
    angles = temporal_angles(position, shot, 44)[None, :, None]
    hands = rotate(ones, angles.cos(), angles.sin())[0, :, 0]
    close(hands @ hands.T/44, rope_similarity(position, shot), 1e-5)


def test_rotation_keeps_length_and_type():
    x, angle = torch.randn(2, 5, 3, 8), torch.randn(1, 5, 1, 4)
    close(rotate(x, angle.cos(), angle.sin()).norm(dim=-1), x.norm(dim=-1), 1e-5)
    assert rotate(x.bfloat16(), angle.cos(), angle.sin()).dtype == torch.bfloat16
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())*torch.polar(torch.ones_like(angle), angle)
    close(rotate(x, angle.cos(), angle.sin()), torch.view_as_real(z).flatten(-2), 1e-5)


# Context

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


# Frame table

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


# Pixels

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_shots_become_bytes(dtype):
    "Frames in front, colours behind, clamped and rounded; whatever number type the codec has, and without a graph"
    torch.manual_seed(0)
    vae, z = ToyVAE(z_dim=4, dims=(8, 8, 8)).to(dtype), 99*torch.randn(2, 3, 4, 2, 2)
    frames, video = decode_frames(vae, z), vae.decode(z.to(dtype).permute(0, 2, 1, 3, 4)).sample
    assert frames.shape == (2, 9, 16, 16, 3) and frames.dtype == torch.uint8 and video.requires_grad
    expected = ((video.detach().clamp(-1, 1) + 1)*127.5).round().permute(0, 2, 3, 4, 1)
    assert torch.equal(frames, expected.to(torch.uint8)) and 0 < (frames == 255).float().mean() < .9
