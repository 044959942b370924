"""What the benchmark counts, on the toy. Times are never tested."""
import mmap
from types import SimpleNamespace

import pytest
import torch
from tiny import network, tiny_pipe, tiny_shot

from shotstream.evaluate import bench
from shotstream.evaluate.bench import (
    CAPTION, PROMPTS, counted, cpu_suite, memory_mib, summary, time_shot, time_teacher)


def test_long_story_costs_nothing_more():
    "Counts of shots 8 to 20, and of what is kept"
    stream, rows = tiny_pipe().stream(CAPTION, size=(16, 32)), []
    for k in range(20):
        rows.append(time_shot(stream, PROMPTS[k % 3], 2))
        rows[-1]["stills"] = sum(len(s.latents) for s in stream.history.shots)
    counts = {(r["passes"], r["passed_frames"], r["cache_bytes"], r["frames"]) for r in rows[8:]}
    assert len(counts) == 1 and len({r["stills"] for r in rows[12:]}) == 1


def test_bench_writes_what_it_says():
    result = cpu_suite(tiny_pipe(), shots=16, latents=2, rounds=1, steps=2, progress=lambda *_: None)
    # the next context, four looks at one chunk of two
    assert result["ratios"]["counted_frame_passes"] == 2*2*(6+2)/(6 + 4*2)
    assert result["long_story"]["same_counts"] and "FPS" in summary(result)


def test_passes_are_counted_and_captions_are_none():
    "A pass through all frames it is shown; reading captions is no pass; hooks go, also after an error"
    model, (_, table, text) = network(0), tiny_shot()
    x = torch.randn(1, 4, len(table), 4, 4)
    with torch.no_grad(), counted(model) as seen:
        model(x, None, text, table=table)
        model.encode_text_kv(text)
        model(x[:, :, :6], None, text, table=table[:6])
    assert (seen["passes"], seen["frames"]) == (2, len(table) + 6) and seen["seconds"] > 0
    with pytest.raises(ZeroDivisionError), counted(model): 1/0                # noqa: B018
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_what_a_shot_took():
    pipe = tiny_pipe()
    stream = pipe.stream(CAPTION, size=(16, 32))
    row = time_shot(stream, PROMPTS[0], 4)
    # the empty context, two chunks, and already the context of the next shot
    assert (row["frames"], row["passes"]) == (13, 1 + 4+1 + 4 + 1) and row["passed_frames"] == 6 + 4*3+3 + 4*1 + 6
    assert 0 < row["first"] < row["seconds"] > row["transformer"] > 0 and row["cache_bytes"] == stream.cache.bytes


def test_the_teacher_films_as_much_from_as_long_a_past():
    "Every guided step passes context and shot twice"
    pipe = tiny_pipe(size=(64, 64))
    row = time_teacher(pipe, CAPTION, PROMPTS[0], 3, 2)
    assert row["passed_frames"] == 2*2*(6+3) and row["seconds"] > row["transformer"] > 0


def test_memory_is_counted_in_mebibytes():
    before = memory_mib()
    with mmap.mmap(-1, 2**26) as held:                                        # of the system: nobody had kept it
        held.write(bytes(2**26))
        assert 50 < memory_mib() - before < 150


def test_ratios_are_teacher_over_student(monkeypatch):
    "From rows that are made up: medians, later half over earlier, equal counts from shot 8 on"
    made = []
    def shot(stream, prompt, latents):
        made.append((prompt, latents))
        k = len(made)
        late = k > 4 + 14                                                     # the last four of the long story
        return dict(seconds=2. if late else 1., first=.25, frames=10, passes=5, passed_frames=20, transformer=.5,
                    cache_bytes=7 if k > 10 else k)
    def teacher(pipe, caption, prompt, latents, steps, guidance=5.):
        return dict(seconds=30., passed_frames=200, transformer=20.)
    monkeypatch.setattr(bench, "time_shot", shot)
    monkeypatch.setattr(bench, "time_teacher", teacher)
    memory = iter((100., 103.))
    monkeypatch.setattr(bench, "memory_mib", lambda: next(memory))
    pipe, said = SimpleNamespace(encode=lambda frames: None, stream=lambda caption: None,
                                 transformer=SimpleNamespace(dtype="float")), []
    r = cpu_suite(pipe, shots=18, latents=3, rounds=3, steps=7, progress=said.append)
    assert r["ratios"] == dict(all_in=30., transformer=40., counted_frame_passes=10.)
    assert r["student"] == dict(fps_all_in=10., fps_transformer=20., first_frame_s=.25)
    assert r["teacher"]["fps_all_in"] == 10/30 and r["config"]["teacher_steps"] == 7
    story = r["long_story"]
    assert (story["later_half_over_earlier"], story["same_counts"], story["host_growth_mib"]) == (2., True, 3.)
    assert len(story["seconds"]) == story["shots"] == 18 and len(said) == 3
    assert [p for p, _ in made[4:8]] == [*PROMPTS, PROMPTS[0]] and {n for _, n in made} == {3}
    text = summary(r)
    assert "10 FPS all in, 20 FPS transformer" in text and "250 ms" in text and "30.0 all in, 40.0 trans" in text
    assert "7 guided steps: 0.3 FPS" in text and "2.000 of the earlier" in text and "3 MiB" in text
