"""What the benchmark counts, on the toy. Times are never tested."""

from shotstream.evaluate.bench import CAPTION, PROMPTS, cpu_suite, summary, time_shot



def test_long_story_costs_nothing_more(pipe):
    "Counts of shots 8 to 20, and of what is kept"
    stream, rows = pipe.stream(CAPTION), []
    for k in range(20):
        rows.append(time_shot(stream, PROMPTS[k % 3], 2))
        rows[-1]["stills"] = sum(len(s.latents) for s in stream.history.shots)
    counts = {(r["passes"], r["passed_frames"], r["cache_bytes"], r["frames"]) for r in rows[8:]}
    assert len(counts) == 1 and len({r["stills"] for r in rows[12:]}) == 1


def test_bench_writes_what_it_says(pipe):
    result = cpu_suite(pipe, shots=16, latents=2, rounds=1, steps=2, progress=lambda *_: None)
    # the next context, four looks at one chunk of two
    assert result["ratios"]["counted_frame_passes"] == 2*2*(6+2)/(6 + 4*2)
    assert result["long_story"]["same_counts"] and "FPS" in summary(result)
