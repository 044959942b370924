"""The student, its stages and its memory, beyond what the lessons show."""
import itertools
from dataclasses import replace

import pytest
import torch
from tiny import SMALL

from shotstream.evaluate.bench import CAPTION, PROMPTS
from shotstream.model.kv_cache import KVCache, StaticKVCache
from shotstream.model.pixels import to_uint8
from shotstream.model.frame_table import next_shot_table, stack_stories
from shotstream.generate.pipeline import toy_student
from shotstream.train.self_forcing import rollout
from shotstream.train.stages import sharpness_and_motion, own_history
from shotstream.generate.student import (
    denoise_chunk, generate_chunks, generate_shot, noise_source, open_shot, student_sigmas)
from shotstream.generate.teacher import TOY_SAMPLING, TOY_TRAINING
from shotstream.toy.networks import toy_transformer
from shotstream.model.transformer import ShotTransformer

SAMPLING = TOY_TRAINING.sampling


@pytest.fixture
def small():
    torch.manual_seed(0)
    return ShotTransformer(**SMALL).eval()


@pytest.mark.parametrize("window, sink, relative, latents", itertools.product((21, 4), (0, 2), (False, True), (1, 8)))
@torch.no_grad()
def test_memories_film_the_same(small, window, sink, relative, latents):
    "Three shots of a batch of two, at another size, with both memories"
    text = torch.randn(2, 3, 5, 12)
    def film(cache):
        g, shots = torch.Generator().manual_seed(1), []
        for k in range(3):
            table = stack_stories(next_shot_table([0]*6, latents, k+1, captions=[0]*6 + [k % 3]),
                                  next_shot_table([0, 0, 1, 1, 1, 1], latents, k+2, captions=[0]*6 + [1]))
            shots.append(torch.cat(list(generate_shot(small, cache, torch.randn(2, 6, 4, 2, 6, generator=g), table,
                                                      text, SAMPLING, g)), 1))
        return torch.cat(shots, 1)
    a, b = film(KVCache(2, window, sink, relative)), film(StaticKVCache(2, 2, 3, 2, 16, window=window, sink=sink,
                                                                        relative=relative))
    assert a.shape == (2, 3*latents, 4, 2, 6) and (a - b).abs().max() < 1e-4


@torch.no_grad()
def test_a_shot_does_not_know_the_one_before(small):
    "Nothing but its context reaches a new shot"
    text, table, context = torch.randn(1, 2, 5, 12), next_shot_table([0]*6, 5, 1), torch.randn(1, 6, 4, 4, 4)
    def last(cache, before):
        for _ in range(before): list(generate_shot(small, cache, torch.randn(1, 6, 4, 4, 4), table, text, SAMPLING))
        return torch.cat(list(generate_shot(small, cache, context, table, text, SAMPLING,
                                            torch.Generator().manual_seed(2))), 1)
    for new in (lambda: KVCache(2), lambda: StaticKVCache(2, 1, 4, 2, 16)):
        assert torch.equal(last(new(), 0), last(new(), 2))


@torch.no_grad()
def test_a_noisy_look_leaves_nothing(small):
    text, table = torch.randn(1, 2, 5, 12), next_shot_table([0]*6, 9, 1)
    for cache in (KVCache(2), StaticKVCache(2, 1, 4, 2, 16)):
        cache.reset()
        x = torch.randn(1, 4, 15, 4, 4)
        def look(rows, at=0., x=x, cache=cache):
            return small(x[:, :, rows], None, text, table=table[rows].at(at), cache=cache).sample
        look(slice(0, 6))
        cache.append()
        clean = look(slice(6, 9))
        look(slice(6, 9), .9)
        assert torch.equal(look(slice(6, 9)), clean)


def test_stages(pipe):
    "Three different students with one set of names; the last is the pipeline's"
    ode, one, two = (toy_student(s).state_dict() for s in ("ode", "stage1", "stage2"))
    assert list(ode) == list(one) == list(two)
    assert all(torch.equal(v, two[k]) for k, v in pipe.transformer.state_dict().items())
    moved = [k for k in two if not torch.equal(one[k], two[k])]
    assert moved and all(k.endswith("weight") and "blocks." in k for k in moved)
    with pytest.raises(ValueError, match="ode"): toy_student("stage3")


@torch.no_grad()
def test_training_made_films_sharp(pipe):
    """First shots: four denoising steps of the trained student are clearly sharper than those of the teacher's weights
    in its place"""
    text = torch.stack([pipe.caption_features(CAPTION, p) for p in PROMPTS])
    context, table = own_history(pipe.vae, [], 9, 3)
    def sharpness(m):
        x0 = rollout(m, context, table, text, SAMPLING, torch.Generator().manual_seed(0))
        return sharpness_and_motion(to_uint8(pipe.vae.decode(x0.transpose(1, 2)).sample))["sharp"]
    teacher, student = sharpness(pipe.teacher), sharpness(pipe.transformer)
    assert student > 1.15*teacher


def test_sigmas():
    assert student_sigmas(8.) == pytest.approx([1, .95793, .88889, .73759], abs=1e-5)
    toy = student_sigmas(TOY_SAMPLING.shift)
    assert toy[0] == 1 and toy == sorted(toy, reverse=True)


@torch.no_grad()
def test_nothing_waits_for_the_device():
    """Tensors on `meta` have no values: whoever wants to read one inside a shot fails here, and would make the host
    wait on a GPU"""
    model = toy_transformer().to("meta")
    cache, past = StaticKVCache(6, 1, 64, 4, 32, device="meta"), next_shot_table([0]*6, 1, 1)[slice(0, 6)].to("meta")
    shot = next_shot_table([], 7, 1, captions=[0])
    read = model.encode_text_kv(torch.zeros(1, 2, 8, 96, device="meta"))
    open_shot(model, cache, torch.zeros(1, 6, 32, 8, 8, device="meta"), past, read)
    films = list(generate_chunks(model, cache, shot, model.encode_text_kv(torch.zeros(1, 1, 8, 96, device="meta")),
                                 (32, 8, 8), SAMPLING))
    assert [f.shape[1] for f in films] == [3, 3, 1] and films[0].is_meta


@pytest.mark.parametrize("pinned, cut", [(((1, 8),), False), (((0, 16),), True), (((0, 8), (1, 4)), True)])
def test_pins_that_do_not_apply(pipe, pinned, cut):
    "Of a shot that is not there yet, or of a frame that was cut off: the story goes on"
    stream = pipe.stream(CAPTION, pinned=pinned)
    stream.next_shot(PROMPTS[0], latents=9)
    for _ in range(3): next(stream)
    if cut: stream.cut()
    list(stream)
    for prompt in PROMPTS[1:]:
        stream.next_shot(prompt, latents=2)
        list(stream)
    assert stream.history.count == 3 and stream.history.shots[0].frames == (9 if cut else 33)


def test_noise_of_the_wrong_length():
    with pytest.raises(ValueError, match="latents 3 to 5"):
        noise_source(torch.zeros(1, 4, 2, 2, 2))((1, 3, 2, 2, 2), 3, 0)


@pytest.mark.parametrize("exit_step", [None, 0, 2])
def test_one_denoising_step_carries_the_gradient(small, exit_step):
    "And none where nobody asks for one"
    shot, text, seen = next_shot_table([], 3, 1, captions=[0]), torch.randn(1, 1, 5, 12), []
    small.proj_out.register_forward_hook(lambda module, args, out: seen.append(out.requires_grad))
    def chunk(): return denoise_chunk(small, KVCache(2), shot, text, replace(SAMPLING, exit_step=exit_step),
                                      lambda step: torch.ones(1, 3, 4, 4, 4)*(step+1))
    last = 3 if exit_step is None else exit_step
    with_graph = chunk()
    assert seen == [False]*last + [True] and with_graph.requires_grad
    with torch.no_grad(): assert torch.equal(chunk(), with_graph) and seen[last+1:] == [False]*(last+1)
