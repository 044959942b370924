"""What cannot be filmed is refused where it is asked for, not when the frames are fetched; and the same at every door.
"""
import math
import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from shotstream import ShotStreamPipeline
from shotstream.app.director import Director
from shotstream.generate.stream import Settings, ShotRequest
from shotstream.model.files import InputError
from shotstream.model.transformer import ShotTransformer

CAPTION, PROMPT = "a red ball with a hat in the forest by day.", "wide shot: the ball waves."
SHOTS = [dict(latents=2.5), dict(latents=0), dict(latents=22), dict(latents=True), dict(latents="9"),
         dict(latents=math.nan),
         dict(seed=-1), dict(seed=1.), dict(seed="x"), dict(seed=2**63), dict(when="later"), dict(when=None),
         dict(when=["now"]),
         dict(prompt=""), dict(prompt=" "), dict(prompt=None), dict(prompt=b"the ball"),
         dict(prompt="\ud83e the ball waves."),
         dict(prompt="the dragon jumps.")]
STORIES = [dict(size=(70, 100)), dict(size=64), dict(size=(64,)), dict(size=(64., 64)), dict(size=(0, 64)),
           dict(size="64"),
           dict(seed=-1), dict(seed=None), dict(seed=1.5), dict(caption=3), dict(caption="\ud83e"), dict(caption=None)]
SETTINGS = [dict(budget=0), dict(budget=2.5), dict(budget=22), dict(window=2), dict(window=math.inf), dict(sink=19),
            dict(sink=-1),
            dict(phi=math.nan), dict(phi=math.inf), dict(phi="1/6"), dict(phi=None), dict(steps=0), dict(steps=51),
            dict(steps=2.5), dict(steps=True), dict(steps=("x",)), dict(steps=(1001,)), dict(rule="newest"),
            dict(rule=None),
            dict(phi=1e300), dict(steps=(100, 900)), dict(steps=(900, 900)),
            dict(rule=["first"]), dict(pinned=3), dict(pinned=[0]), dict(pinned=[(0, -1)]), dict(pinned=[(0, .5)]),
            dict(pinned=[(k, 0) for k in range(7)]), dict(fi=1)]


@pytest.fixture(scope="module")
def doors(pipe):
    with Director(pipe, CAPTION) as d: yield pipe.stream(CAPTION), d


@pytest.mark.parametrize("bad", SHOTS, ids=repr)
def test_shots(doors, bad):
    for door in doors:
        with pytest.raises(ValueError): door.next_shot(**{"prompt": PROMPT, **bad})
    assert not doors[0].queue and not doors[1].timeline.queue and not doors[0].cutting


@pytest.mark.parametrize("bad", STORIES, ids=repr)
def test_stories(pipe, bad):
    wish = {"caption": CAPTION, **bad}
    with pytest.raises(InputError): pipe.stream(**wish)
    with pytest.raises(InputError): Director(pipe, **wish)
    if "size" in bad:
        with pytest.raises(InputError): pipe(PROMPT, caption=CAPTION, **bad)


@pytest.mark.parametrize("bad", SETTINGS, ids=repr)
def test_settings(pipe, doors, bad):
    before = [door.settings for door in doors]
    for door in (*(d.change for d in doors), lambda **s: pipe.stream(CAPTION, **s),
                 lambda **s: Director(pipe, CAPTION, **s)):
        with pytest.raises((InputError, TypeError) if "fi" in bad else InputError): door(**bad)
    assert [door.settings for door in doors] == before


def test_noise(pipe):
    stream = pipe.stream(CAPTION)
    whole = torch.randn(1, 2, *pipe.latent_shape((64, 64)))
    for bad in (whole[:, :1], whole[0], whole.int(), whole[:, :, 1:], whole.numpy(), 3, [whole]):
        with pytest.raises(InputError, match="noise"): stream.next_shot(PROMPT, latents=2, noise=bad)
    with pytest.raises(InputError, match="not finite"): stream.next_shot(PROMPT, latents=2, noise=whole*torch.inf)
    for good in (whole, torch.Generator().manual_seed(3), lambda shape, start, step: torch.zeros(shape)):
        stream.next_shot(PROMPT, latents=2, noise=good)
    assert sum(len(f.video) for f in stream) == 3*5


def test_what_is_set_later_is_checked_before_it_films(pipe):
    for bad in (dict(preview=3), dict(keep_films=True, preview="x")):
        with pytest.raises(InputError, match="preview"): pipe.stream(CAPTION, **bad)
    stream = pipe.stream(CAPTION)
    stream.next_shot(PROMPT, latents=1)
    stream.caption = "a dragon."
    with pytest.raises(InputError, match="dragon"): next(stream)
    stream.caption = CAPTION
    stream.next_shot(PROMPT, latents=1, noise=lambda *a: torch.zeros(3))
    with pytest.raises(InputError, match="a source draws"): next(stream)


def test_numbers_of_numpy_are_numbers():
    assert ShotRequest(PROMPT, np.int64(9), np.int32(7)).latents == 9
    assert Settings(budget=np.int64(3), phi=np.float32(.25)).budget == 3
    assert Settings(steps=[1000, 500]).steps == (1000, 500)


often = examples(max_examples=int(os.environ.get("SHOTSTREAM_FUZZ", 100)), deadline=None,
                 suppress_health_check=[HealthCheck.too_slow])     # drawing is slow on a busy machine
anything = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=3),
                     st.lists(st.integers(-2, 9), max_size=3),
                     st.lists(st.tuples(st.integers(), st.integers()), max_size=3))


@often
@given(st.dictionaries(st.sampled_from(["prompt", "latents", "seed", "caption"]), anything))
def test_any_request_is_one_or_is_refused(wish):
    try: r = ShotRequest(**{"prompt": PROMPT, **wish})
    except InputError as e: assert 0 < len(str(e)) < 999 and "\n" not in str(e)
    else: assert 1 <= r.latents <= 21 and r.prompt.strip() and (r.seed is None or 0 <= r.seed < 2**63)


@often
@given(st.dictionaries(st.sampled_from(["rule", "budget", "window", "sink", "phi", "steps", "pinned"]), anything))
def test_any_settings_are_some_or_are_refused(wish):
    try: s = Settings(**wish)
    except InputError as e: assert 0 < len(str(e)) < 999
    else: assert math.isfinite(s.phi) and 1 <= s.budget <= 21 and len(s.pinned) <= s.budget and hash(s)


def test_prepared_context_is_made_again_for_other_weights():
    "Exchanged, changed in place, under a LoRA: keys and values of a network that is gone would film something else"
    def second(change, prepared):
        pipe = ShotStreamPipeline.from_pretrained("toy")
        stream = pipe.stream(CAPTION, steps=1)
        stream.next_shot(PROMPT, latents=1)
        frames = list(stream)                                     # ... and the next shot's context is in the cache
        change(pipe)
        if not prepared: stream.ready = None
        stream.next_shot(PROMPT, latents=1)
        return torch.cat([f.video for f in [*frames, *stream]])
    def fused(pipe):
        with torch.no_grad():
            for block in pipe.transformer.blocks: block.attn1.to_k.weight.data = block.attn1.to_k.weight.data*1.5
    def lora(pipe):
        torch.manual_seed(0)
        c = pipe.transformer.config
        width = c.num_attention_heads*c.attention_head_dim
        pipe.transformer.load_lora_adapter({f"transformer.blocks.{i}.attn1.to_k.lora_{x}.weight": .2*torch.randn(shape)
                                            for i in range(c.num_layers)
                                            for x, shape in (("A", (4, width)), ("B", (width, 4)))})
    def exchanged(pipe):
        other = ShotTransformer.from_config(pipe.transformer.config).eval()
        other.load_state_dict({n: 1.1*t for n, t in pipe.transformer.state_dict().items()})
        pipe.register_modules(transformer=other)
    plain = second(lambda pipe: None, True)
    for change in (fused, lora, exchanged):
        film = second(change, True)
        assert torch.equal(film, second(change, False)) and not torch.equal(film, plain), change.__name__
    assert torch.equal(plain, second(lambda pipe: None, False))


def test_context_is_prepared_once_for_the_same_weights(pipe, monkeypatch):
    from shotstream.generate import stream as module
    count, open_shot = [], module.open_shot
    monkeypatch.setattr(module, "open_shot", lambda *args: count.append(1) or open_shot(*args))
    stream = pipe.stream(CAPTION)
    for _ in range(3):
        stream.next_shot(PROMPT, latents=1)
        list(stream)
    assert len(count) == 1 + 3                                    # a first shot's, and one before each other


def test_many_pins_are_counted_first():
    with pytest.raises(InputError, match="100000 pinned"): Settings(pinned=[(0, i) for i in range(10**5)])


def test_a_size_that_no_memory_holds(pipe):
    with pytest.raises(InputError, match="8192 x 8192.*memory"): pipe.stream(CAPTION, size=(8192, 8192))


# what changes while a shot runs

PICTURE = torch.full((64, 64, 3), 90, dtype=torch.uint8)


def film_with(pipe, act, **request):
    "One shot, in whose middle `act(stream)` is called"
    stream = pipe.stream(CAPTION, seed=3, keep_films=True)
    stream.next_shot(PROMPT, latents=4, **request)
    videos = []
    for frames in stream:
        videos.append(frames.video)
        if frames.latent == (0 if request else 2): act(stream)
    return torch.cat(videos)


@pytest.mark.parametrize("change", [dict(window=9), dict(budget=3), dict(sink=1), dict(phi=1.), dict(steps=2)])
@pytest.mark.parametrize("request_", [dict(), dict(image=PICTURE)], ids=["plain", "picture"])
def test_settings_change_from_the_next_shot_on(pipe, change, request_):
    def unchanged(s): pass
    def changed(s): s.change(**change)
    assert torch.equal(film_with(pipe, unchanged, **request_), film_with(pipe, changed, **request_))
    def switch(s): s.switch_prompt("wide shot: the ball jumps.")
    def both(s):
        changed(s)
        switch(s)
    assert torch.equal(film_with(pipe, switch, **request_), film_with(pipe, both, **request_))


def test_the_next_shot_has_the_new_settings(pipe):
    def two(early):
        stream = pipe.stream(CAPTION, seed=3, keep_films=True)
        stream.next_shot(PROMPT, latents=4)
        for frames in stream:
            if early and frames.latent == 1: stream.change(budget=3, window=9)
        if not early: stream.change(budget=3, window=9)
        stream.next_shot(PROMPT, latents=4)
        return torch.cat([f.video for f in stream])
    assert torch.equal(two(True), two(False))


def test_another_past_only_between_shots(pipe):
    stream = pipe.stream(CAPTION)
    stream.next_shot(PROMPT, latents=3)
    next(stream)
    with pytest.raises(RuntimeError, match="cut"): stream.restore([])
    stream.cut()
    stream.restore([])                                   # as the message says
    assert stream.history.count == 0 and stream.running is None
    stream.next_shot(PROMPT, latents=1)
    assert [f.shot for f in stream] == [0]
    for wrong in (None, [1], "past"):
        with pytest.raises(InputError, match="a list of ContextFrames"): stream.restore(wrong)
    with pytest.raises(InputError, match="begin: a ShotRequest"): stream.begin(PROMPT)


def test_a_stream_goes_on_in_another_type():
    pipe = ShotStreamPipeline.from_pretrained("toy")
    stream = pipe.stream(CAPTION)
    pipe.to(torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float32):
        pipe.to(dtype)
        stream.next_shot(PROMPT, latents=2)
        assert sum(len(f.video) for f in stream) == 5 and stream.cache.store.dtype == dtype


def test_lengths_in_frames_and_in_latents(pipe):
    def frames(**length):
        stream = pipe.stream(CAPTION)
        stream.next_shot(PROMPT, **length)
        return sum(len(f.video) for f in stream)
    assert frames(num_frames=5) == frames(latents=2) == 5 and frames() == 33
    for wrong, says in ((dict(num_frames=5, latents=2), "one of them"), (dict(num_frames=6), "1 \\+ 4k"),
                        (dict(num_frames="5"), "whole number")):
        with pytest.raises(InputError, match=says): frames(**wrong)


def test_names_of_diffusers_lead_to_ours(pipe):
    for name, ours in (("num_inference_steps", "steps"), ("generator", "seed"), ("height", "size")):
        with pytest.raises(InputError, match=f"unknown setting '{name}': say {ours}"): pipe.stream(CAPTION, **{name: 1})


def test_a_pinned_first_frame_takes_no_second_place(pipe):
    stream = pipe.stream(CAPTION, pinned=((0, 0),))
    for prompt in (PROMPT, PROMPT):
        stream.next_shot(prompt, latents=4)
        for _ in stream: pass
        latents = stream.history.context()[0][0]
        assert len(latents.flatten(1).unique(dim=0)) == len(latents)


def told(pipe, changes, **settings):
    "A story of nine short shots whose settings change before some of them; the last shot"
    stream = pipe.stream(CAPTION, seed=3, keep_films=True, **settings)
    for k in range(9):
        if k in changes: stream.change(**changes[k])
        stream.next_shot(PROMPT, latents=1)
        film = torch.cat([f.video for f in stream])
    return film


def test_kept_films_may_be_pinned_later(pipe):
    "However many shots came since: a director can, and so can the program that it exports"
    plain, late = told(pipe, {}), told(pipe, {8: dict(pinned=((0, 0),))})
    assert not torch.equal(plain, late)
    director = Director(pipe, CAPTION, seed=3)
    for _ in range(8): director.next_shot(PROMPT, latents=1)
    director.wait()
    director.change(pinned=((0, 0),))
    director.next_shot(PROMPT, latents=1)
    director.wait()
    assert torch.equal(director.shots[-1].video, late)
    director.close()


@pytest.mark.parametrize("pin, says", [((6, 77), "the shot has 1"), ((0, 1), "the shot has 1")])
def test_pins_that_cannot_be(pipe, pin, says):
    stream, director = pipe.stream(CAPTION, keep_films=True), Director(pipe, CAPTION)
    for _ in range(7):
        stream.next_shot(PROMPT, latents=1)
        director.next_shot(PROMPT, latents=1)
    for _ in stream: pass
    director.wait()
    for who in (stream, director):
        with pytest.raises(InputError, match=says): who.change(pinned=(pin,))
        who.change(pinned=((7, 0),))                     # not made yet
    director.close()


def test_one_thread_takes_a_stream_s_frames(pipe):
    stream, inside, go, said = pipe.stream(CAPTION), threading.Event(), threading.Event(), []
    def wait(i, sigma, x0):
        inside.set()
        go.wait(20)
        return x0
    stream.on_step = wait
    stream.next_shot(PROMPT, latents=1)
    def take(): said.append(len(next(stream).video))
    thread = threading.Thread(target=take)
    thread.start()
    inside.wait(20)
    with pytest.raises(RuntimeError, match="another thread takes this stream's frames"): next(stream)
    go.set()
    thread.join()
    assert said == [1]
