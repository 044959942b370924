"""What the suite for any device says about a tiny model on a CPU. Times are never tested."""
import json

import pytest
import torch

from shotstream.evaluate.bench import CAPTION, PROMPTS, time_shot
from shotstream.evaluate.bench_gpu import Clock, compare, compare_diffusers, gpu_suite, gpu_summary
from shotstream.evaluate.cost import random_pipeline


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
    monkeypatch.setattr(Clock, "ms", lambda self, a, b: 1.)
    found = compare(tiny, SIZE, latents=3, rounds=2, teacher_steps=60, progress=lambda line: None)
    assert calls == [3, 3, 3] and found["ms"]["teacher"] == [20., 20.] and found["ms"]["cached"] == [1., 1.]


def test_diffusers_time_is_scaled(tiny, monkeypatch):
    """Two steps are run, four denoising steps of one millisecond; 50 steps would be 100 looks, and the rest of the
    call is not scaled"""
    monkeypatch.setattr(Clock, "ms", lambda self, a, b: 1.)
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
