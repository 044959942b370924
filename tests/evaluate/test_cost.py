"""Counts and plans against real runs of tiny models. Times are never tested."""
from collections import Counter

import pytest
import torch

from shotstream import ShotStreamPipeline
from shotstream.evaluate.bench import CAPTION, PROMPTS, time_shot
from shotstream.evaluate.bench_gpu import DeviceTimer, watched
from shotstream.model.frame_table import next_shot_table
from shotstream.evaluate.cost import (
    CARDS, RATES, NoCache, Work, add_up, codec_steps, first_frame, frame_sizes, gantt, ideal_seconds, memory_plan,
    random_pipeline, shot_work, weight_bytes, what_fits)
from shotstream.model.flow import Sampling
from shotstream.generate.student import generate_shot

SIZE = (32, 48)


@pytest.fixture(scope="module")
def tiny(): return random_pipeline(tiny=True, device="cpu")


def test_random_pipeline_is_seeded_and_leaves_the_random_state_alone(tiny):
    before = torch.random.get_rng_state()
    again, other = random_pipeline(tiny=True, device="cpu"), random_pipeline(tiny=True, device="cpu", seed=1)
    assert torch.equal(before, torch.random.get_rng_state()) and torch.get_default_dtype() == torch.float32
    a, b, c = (p.transformer.proj_out.weight for p in (tiny, again, other))
    assert torch.equal(a, b) and not torch.equal(a, c) and tiny.random_weights


@pytest.mark.parametrize("settings, latents", [(dict(), 7), (dict(window=4, sink=1, steps=2), 8), (dict(budget=2), 2)])
def test_a_stream_does_what_was_counted(tiny, settings, latents):
    "First shots, late ones, ragged chunks, rolling windows: same calls, same frames asking and in sight"
    stream = tiny.stream(CAPTION, **settings)
    with watched(tiny, DeviceTimer("cpu")) as seen:
        for i in range(3): time_shot(stream, PROMPTS[i], latents)
    planned = [s for k in range(3) for s in shot_work(tiny, latents=latents, number=k, **settings)]
    planned += shot_work(tiny, latents=latents, number=3, **settings)[:1]
    chunk = lambda name, k: k if name in ("denoise", "append") else -1
    counted = Counter((s.name, chunk(s.name, s.chunk), s.query_frames,
                       s.key_frames) for s in planned if s.name != "text_kv")
    assert Counter((name, chunk(name, k), query_frames, key_frames) for name, k, query_frames, key_frames,
                   *_ in seen) == counted


def test_looks_of_a_chunk_come_before_its_frames_and_those_before_the_commit(tiny):
    names = [s.name for s in shot_work(tiny, latents=4)]
    assert names[:3] == ["context", "text",
                         "text_kv"] and names[3:12] == ["denoise"]*4 + ["decode"]*3 + ["append"] + ["denoise"]
    assert [s.name for s in shot_work(tiny, latents=4, number=0)][:3] == ["text", "context", "text_kv"]


def test_first_frame_needs_the_context_if_it_was_not_ready(tiny):
    work, rates = shot_work(tiny, latents=4), RATES["bf16"]
    ready, late = gantt(work, rates), gantt(work, rates, ready=False)
    context = ideal_seconds(work[0], rates)
    assert abs(first_frame(late) - first_frame(ready) - context) < 1e-12 and abs(ready[0][1] + context) < 1e-12
    assert all(a[2] == b[1] for a, b in zip(ready, ready[1:]))


def test_sums_agree(tiny):
    work = shot_work(tiny, latents=4)
    total = sum(s.total for s in work)
    assert sum(add_up(work).values()) == sum(add_up(work, "part").values()) == total
    assert add_up(work)["denoise"] == sum(s.total for s in work if s.name == "denoise")


def test_bytes_of_the_toy_pipeline_are_real():
    pipe = ShotStreamPipeline.from_pretrained("toy")
    plan = memory_plan(pipe, size=(64, 64), window=9)
    held = [sum(t.numel()*t.element_size() for t in [*m.parameters(), *m.buffers()])
            for m in (pipe.transformer, pipe.vae, pipe.text_encoder)]
    assert [plan.parts[n] for n in ("transformer", "codec", "text encoder")] == held
    cache = plan.parts["global cache, the context"] + plan.parts["local cache, this shot"]
    assert cache == pipe.new_cache((64, 64), window=9).bytes


def test_other_number_types():
    "bfloat16 halves everything but what Wan keeps in float32; fp8 is one byte per weight and a scale per row"
    tiny, half = random_pipeline(tiny=True, device="cpu"), random_pipeline(tiny=True, device="cpu",
                                                                           dtype=torch.bfloat16)
    m = tiny.transformer
    assert weight_bytes(half.transformer) == weight_bytes(m, torch.bfloat16) < weight_bytes(m)
    assert weight_bytes(half.vae) == weight_bytes(tiny.vae, torch.bfloat16) == weight_bytes(tiny.vae)//2
    linear = [p for n, p in m.named_parameters() if n.startswith("blocks.") and p.ndim == 2]
    assert weight_bytes(m, fp8=True) == weight_bytes(m) - sum(3*p.numel() - 4*len(p) for p in linear)
    assert len(linear) == 10*3
    assert frame_sizes(tiny, SIZE, torch.bfloat16)[1]*2 == frame_sizes(tiny, SIZE)[1]


def test_text_encoder_at_home_away_or_gone(tiny):
    gpu, cpu, gone = (memory_plan(tiny, text=t) for t in ("gpu", "cpu", "released"))
    words = weight_bytes(tiny.text_encoder)
    assert gpu.total - cpu.total == gpu.total - gone.total == words and (gpu.host, cpu.host, gone.host) == (0, words, 0)
    assert "on the CPU" in str(cpu) and "released" in str(gone)
    with pytest.raises(ValueError, match="text is"): memory_plan(tiny, text="disk")


def test_a_card_needs_room_to_spare(tiny):
    plan = memory_plan(tiny)
    assert plan.fits(plan.total/2**30,
                     reserve=0) and not plan.fits(plan.total/2**30) and plan.fits(plan.total/2**30 + 1)
    visits, away = memory_plan(tiny, text="visits"), memory_plan(tiny, text="cpu")
    assert (visits.parts == away.parts and visits.host == away.host
            and visits.total == sum(away.parts.values()) + max(visits.host, *away.working.values()))
    assert all(fit == list(CARDS) for _, _, fit in what_fits(tiny, ways=dict(plain={}, shorter=dict(window=6))))


def test_codec_steps_know_size_and_type(tiny):
    small, wide, half = codec_steps(tiny.vae, SIZE), codec_steps(tiny.vae, (32, 96)), codec_steps(tiny.vae, SIZE,
                                                                                                  torch.bfloat16)
    assert (wide["next"].kept == 2*small["next"].kept == 4*half["next"].kept
            and small["encode"].kept == 0 < small["first"].flops < small["next"].flops)


def test_roofline_takes_the_slower_of_two():
    rates = dict(linear=10., attention=1., convolution=2., bytes=4.)
    assert ideal_seconds(Work("denoise", {"feed-forward": 20, "caption attention": 3}, 4), rates) == 5
    assert ideal_seconds(Work("decode", {"codec": 2}, 40), rates) == 10


@pytest.mark.parametrize("context", (0, 6))
@torch.no_grad()
def test_without_memory_the_same_film(tiny, context):
    "Two shots in a row, so that nothing of the first may stay"
    model, no, cache = tiny.transformer, NoCache(tiny.transformer), tiny.new_cache(SIZE)
    for shot in (1, 2):
        table = next_shot_table([0]*context, 5, shot, captions=[0]*context + [1])
        latents, text = torch.randn(1, context, 16, 4, 6), torch.randn(1, 2, 5, 20)
        noises = (torch.Generator().manual_seed(shot) for _ in range(2))
        a, b = (torch.cat(list(generate_shot(*pair, latents, table, text, Sampling(4, 8.), noise)), 1)
                for pair, noise in zip(((model, cache), (no, no)), noises))
        assert (a - b).abs().max() < 1e-4 and a.std() > .1
