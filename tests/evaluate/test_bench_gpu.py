"""What the suite for any device says about a tiny model on a CPU. Times are never tested."""
import json

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from shotstream.evaluate.bench import CAPTION, PROMPTS, time_shot
from shotstream.evaluate.bench_gpu import (
    DeviceTimer, attending, attention_used, compare, compare_diffusers, diffusers_pipeline, gpu_suite, gpu_summary,
    machine, measured_rates, quantiles, stage_report, story_report, watched)
from shotstream.evaluate.cost import random_pipeline, shot_work
from shotstream.model.transformer import ShotTransformer
from shotstream.model.wan_vae import WanVAE

SIZE = (32, 48)


@pytest.fixture(scope="module")
def tiny(): return random_pipeline(tiny=True, device="cpu")


@pytest.fixture(scope="module")
def result(tiny): return gpu_suite(tiny, latents=4, shots=2, rounds=2, options=["fp8"], progress=lambda line: None)


def test_suite_says_what_it_measured(result):
    saved = json.loads(json.dumps(result))
    assert {"schema", "commit", "when", "host", "ceilings", "config", "runs", "ratios",
            "random_weights"} <= saved.keys()
    assert saved["random_weights"] and saved["host"]["gpu"] is None
    run = saved["runs"][0]
    assert {"stages_ms", "shot_ms", "fps_e2e", "fps_dit", "ttff_ms", "tflops", "jitter", "gpu_mem_MiB", "curve",
            "check", "cold_start_s"} <= run.keys()
    assert run["counts"] == dict(passes=[10], frames_asked=[25],
                                 kv_bytes=[tiny_bytes()]) and [r["shot"] for r in run["curve"]] == [2, 3]
    ms = run["stages_ms"]
    assert [(d["k"], d["kv"], d["n"]) for d in ms["denoise"]] == [(1, 9, 8), (2, 10, 8)]
    assert [(d["k"], d["n"]) for d in ms["clean"]] == [(1, 2)]
    assert (ms["text"]["n"], ms["ctx_prefill"]["n"], ms["vae_latent"]["n"]) == (2, 2, 8)
    assert run["check"]["rel_l2_chunk1"] < 1e-4 and run["check"]["rel_l2_last"] < 1e-4
    assert [r["a"] for r in saved["ratios"]] == ["ours:recompute", "ours:teacher",
                                                 "ours:fp8"] + 2*["diffusers:WanPipeline"]
    assert all(r["steps_timed"] == 3 for r in saved["ratios"] if r["a"] in ("ours:teacher", "diffusers:WanPipeline"))
    assert .001 < saved["ratios"][2]["films_apart"] < .5 and "with fp8" in gpu_summary(result)
    assert "no GPU" in gpu_summary(result) and "RANDOM" in gpu_summary(result)


def tiny_bytes(): return 27*6*48*2*3*4


def test_teacher_time_is_scaled(tiny, monkeypatch):
    "Three steps are run, six passes with guidance, and their time is multiplied"
    calls = []
    monkeypatch.setattr("shotstream.evaluate.bench_gpu.sample_shot", lambda model, context, table, text, sampling,
                        *_: calls.append(sampling.steps) or context)
    monkeypatch.setattr(DeviceTimer, "ms", lambda self, a, b: 1.)
    found = compare(tiny, SIZE, latents=3, rounds=2, teacher_steps=60, progress=lambda line: None)
    assert calls == [3, 3, 3] and found["ms"]["teacher"] == [20., 20.] and found["ms"]["cached"] == [1., 1.]


def test_diffusers_time_is_scaled(tiny, monkeypatch):
    """Two steps are run, four denoising steps of one millisecond; 50 steps would be 100 looks, and the rest of the
    call is not scaled"""
    monkeypatch.setattr(DeviceTimer, "ms", lambda self, a, b: 1.)
    found = compare_diffusers(tiny, SIZE, latents=2, rounds=1, timed_steps=2)
    assert found == dict(transformer=100., all_in=1 + 100 - 4)
    assert not tiny.transformer._forward_hooks


@torch.no_grad()
def test_half_precision_without_memory():
    "As on a GPU: the fast way and the plain one agree as far as bfloat16 can"
    half = random_pipeline(tiny=True, device="cpu", dtype=torch.bfloat16)
    assert time_shot(half.stream(CAPTION), PROMPTS[0], 2)["frames"] == 5
    check = compare(half, SIZE, latents=4, rounds=0, progress=lambda line: None)["check"]
    assert check["rel_l2_chunk1"] < .05 and check["rel_l2_last"] < .05


def test_shapes_cannot_be_measured():
    with pytest.raises(ValueError, match="give random_pipeline a device"): gpu_suite(random_pipeline(tiny=True))


def test_a_clock_of_the_host_counts_milliseconds(monkeypatch):
    clock = DeviceTimer("cpu")
    assert clock.ms(1.5, 1.75) == 250. and clock.mark() <= clock.mark() and not clock.cuda
    clock.wait()


def test_every_call_is_noted_and_nobody_listens_afterwards(tiny):
    stream = tiny.stream(CAPTION)
    with watched(tiny, DeviceTimer("cpu")) as seen: time_shot(stream, PROMPTS[0], 4)
    calls = [s[:4] for s in seen if s[0] in ("context", "denoise", "append")]
    # frames asked and in sight, themselves included; the next shot's context is part of this one
    assert calls == [("context", -1, 6, 6)] + [("denoise", 0, 3, 9)]*4 + [("append", 0, 3, 9)] + [
        ("denoise", 1, 1, 10)]*4 + [("context", -1, 6, 6)]
    assert [s[0] for s in seen].count("decode") == 4 and all(s[5] >= s[4] for s in seen)
    with pytest.raises(ZeroDivisionError), watched(tiny, DeviceTimer("cpu")): 1/0   # noqa: B018
    parts = (tiny.transformer, tiny.text_encoder, tiny.vae.decoder, tiny.vae.encoder)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in parts)


def test_a_kernel_for_a_while(tiny):
    before = tiny.transformer.attention
    with pytest.raises(ZeroDivisionError), attending(tiny, "math"):
        assert tiny.transformer.attention == "math"
        1/0                                                                   # noqa: B018
    assert tiny.transformer.attention == before
    assert attention_used(tiny, "math").endswith("math") and attention_used(tiny)
    with pytest.raises(ValueError, match="cudnn.*does not run here"): attention_used(tiny, "cudnn")


def test_rates_are_work_over_time(monkeypatch):
    "With a clock that says one millisecond: operations of each kind, multiplication and addition counted"
    monkeypatch.setattr(DeviceTimer, "ms", lambda self, a, b: 1.)
    r = measured_rates("cpu", torch.float32, n=8, heads=(2, 4), tokens=5, area=(3, 4), channels=2, repeats=1)
    assert r["linear"] == 1000*2*8**3 and r["bytes"] == 1000*2*4*8*8
    assert r["attention_by_frames"] == {f: 1000*4*2*4*(3*5)*(f*5) for f in (9, 18, 27)}
    assert r["attention"] == r["attention_by_frames"][18]
    assert r["convolution"] == 1000*2*27*2*2*(2*3*4)                         # two of four frames have all neighbours


def test_quantiles_by_hand():
    q = quantiles(range(101))
    assert q == dict(p10=10., p50=50., p90=90., p95=95., p99=99., n=101)


def rows():
    "Two shots of two chunks, made up: chunk k takes 10 (k+1) ms in the first, twice that in the second"
    def shot(times):
        stages = [("text", -1, 0, 0, 1.), ("context", -1, 6, 0, 5.), ("encode", -1, 1, 0, 3.)]
        for k in (0, 1):
            stages += [("denoise", k, 3, 9 + 3*k, times*4.*(k+1)), ("append", k, 3, 6 + 3*k, times*6.*(k+1)),
                       ("decode", -1, 1, 0, 2.)]
        return dict(stages=stages, seconds=times*.1, first=.01, frames=21, passes=9, passed_frames=30, cache_bytes=64,
                    gpu_mib=None, host_mib=1.)
    return [shot(1), shot(2)]


def test_stages_by_chunk():
    report = stage_report(rows())
    assert [(d["k"], d["kv"], d["p50"], d["n"]) for d in report["denoise"]] == [(1, 9, 6., 2), (2, 12, 12., 2)]
    assert [(d["k"], d["p50"]) for d in report["clean"]] == [(1, 9.), (2, 18.)]
    assert (report["text"]["p50"], report["ctx_prefill"]["p50"], report["vae_latent"]["n"]) == (1., 5., 4)


def test_a_report_says_frames_per_second(tiny):
    r = story_report(tiny, SIZE, 6, 3., rows())
    assert r["cold_start_s"] == 3. and r["n"] == 2
    assert r["fps_e2e"] == pytest.approx(21/.15) and r["fps_dit"] == pytest.approx(21/((.035 + .065)/2))
    assert [c["p50"] for c in r["chunk_ms"]] == pytest.approx([15., 30.]) and r["shot_ms"]["p50"] == pytest.approx(150)
    assert r["ttff_ms"]["p50"] == 10. and r["gpu_mem_MiB"]["kv"] == 64/2**20
    assert [(c["shot"], c["shot_ms"]) for c in r["curve"]] == [(2, 100.), (3, 200.)]
    assert r["counts"] == dict(passes=[9], frames_asked=[30], kv_bytes=[64])
    work = shot_work(tiny, SIZE, 6, number=8)
    dit = sum(s.total for s in work if s.name in ("context", "denoise", "append"))
    assert r["tflops"]["dit"] == pytest.approx(dit/.05/1e12)
    assert r["tflops"]["vae"] == pytest.approx(sum(s.total for s in work if s.name == "decode")/.004/1e12)


@torch.no_grad()
def test_stock_classes_around_the_same_weights(tiny):
    wan = diffusers_pipeline(tiny)
    assert type(wan.transformer) is WanTransformer3DModel and type(wan.vae) is AutoencoderKLWan
    assert type(tiny.transformer) is ShotTransformer and type(tiny.vae) is WanVAE
    assert wan.transformer.proj_out.weight.data_ptr() == tiny.transformer.proj_out.weight.data_ptr()
    assert wan.vae.decoder is tiny.vae.decoder and wan.scheduler.config.shift == tiny.config.shift
    m = tiny.transformer
    x, text = torch.randn(1, 16, 2, 4, 6), torch.randn(1, 5, m.config.text_dim)
    t = torch.tensor([500.])
    torch.testing.assert_close(wan.transformer(x, t, text).sample, m(x, t, text).sample, atol=1e-5, rtol=0)


def test_an_option_that_is_none(tiny):
    with pytest.raises(ValueError, match="unknown option 'fast'; there are fp8"): compare(tiny, SIZE, options=["fast"])


def test_a_machine_says_what_it_is():
    said = machine("cpu")
    assert said["gpu"] is None and said["torch"] == torch.__version__ and said["cpu_threads"] == torch.get_num_threads()
