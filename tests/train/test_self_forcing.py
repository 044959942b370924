"""Self-forcing and its gradient, written again from the published formulas: in-place cache, timesteps, no shared
helpers."""
from dataclasses import replace

import pytest
import torch
from tiny import LATENTS, TIMES, velocity

from shotstream.generate.pipeline import PUBLISHED_TRAINING
from shotstream.generate.student import generate_shot
from shotstream.generate.teacher import TOY_TRAINING
from shotstream.model.flow import Guidance
from shotstream.model.kv_cache import KVCache
from shotstream.model.wan_vae import WanVAE, tiny_wan_vae
from shotstream.train.self_forcing import own_context, rollout, score_x0, student_loss

EXIT = 2


def noises(seed=3):
    "Everything random of one rollout: `(start, step)` -> (1, f, 4, 4, 4); the same whoever asks, in whatever order"
    def draw(shape, start, step):
        return torch.randn(shape, generator=torch.Generator().manual_seed(1000*seed + 10*start + step))
    return draw


class InPlace:
    """The public code's cache: one buffer per block, every pass writes its own slot, with a graph or without; nothing
    is ever detached"""
    watched, gradient = None, "detached"

    def __init__(self, blocks, frames=6+LATENTS, tokens=4):
        self.buffers = [[torch.zeros(1, frames*tokens, 2, 16) for _ in range(2)] for _ in range(blocks)]
        self.tokens = tokens

    def begin_step(self, table):
        self.start, self.end = (int(table.position[0, i] + (i < 0))*self.tokens for i in (0, -1))
        return table, None

    def update(self, layer, *new):
        for buffer, x in zip(self.buffers[layer], new): buffer[:, self.start:self.end] = x
        return tuple(buffer[:, :self.end].clone() for buffer in self.buffers[layer])


def public_rollout(model, context, table, text, draw, cache_sigma):
    "Context at time 0; every chunk: steps without a graph, the exit step with one, a clean pass that writes over it"
    cache, film = InPlace(2), []
    def run(x, rows, t):
        times = torch.full((1, x.shape[1]), float(t))
        return model(x.transpose(1, 2), times, text, table=table[rows], cache=cache).sample.transpose(1, 2)
    with torch.no_grad(): run(context, slice(0, 6), 0.)
    for start in range(0, LATENTS, 3):
        rows, shape = slice(6+start, min(9+start, 6+LATENTS)), (1, min(3, LATENTS-start), 4, 4, 4)
        x = draw(shape, start, 0)
        for step in range(EXIT+1):
            with torch.set_grad_enabled(step == EXIT): x0 = x - TIMES[step]/1000*run(x, rows, TIMES[step])
            if step < EXIT: x = (1 - TIMES[step+1]/1000)*x0 + TIMES[step+1]/1000*draw(shape, start, step+1)
        film.append(x0)
        with torch.no_grad(): run((1 - cache_sigma)*x0 + cache_sigma*draw(shape, start, len(TIMES)), rows, 0.)
    return torch.cat(film, 1)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def far(a, b):
    apart, whole = (torch.stack(norms).norm()
                    for norms in ([(a[n] - b[n]).norm() for n in b], [g.norm() for g in b.values()]))
    return (apart/whole).item()


def test_rollout_and_its_gradient(models, shot):
    "Values and gradients of the published rollout; with the other two kinds of gradient they differ clearly"
    student, s = models[0], PUBLISHED_TRAINING.sampling
    assert s.cache_noise == pytest.approx(8*.001/1.007)
    x = public_rollout(student, *shot, noises(), 8*.001/1.007)
    expected, film = gradients(student, x.pow(2).sum()), x.detach()
    for gradient, close in (("exit", True), ("detached", False), ("through", False)):
        mine = rollout(student, *shot, s, noises(), EXIT, gradient)
        torch.testing.assert_close(mine, film, atol=1e-4, rtol=1e-4)
        distance = far(gradients(student, mine.pow(2).sum()), expected)
        assert distance < 1e-4 if close else distance > .01, (gradient, distance)
    without = rollout(student, *shot, replace(s, cache_noise=0.), noises(), EXIT)
    assert torch.equal(without[:, :3], rollout(student, *shot, s, noises(), EXIT)[:, :3])
    assert (without - film)[:, 3:].abs().max() > 1e-4


def test_generator_loss(models, shot, negative):
    "c + 3 (c - u) with a negative prompt, the context told the target's time, over mean |x - real|"
    student, teacher, critic = models
    sigma, eps = torch.tensor([.6]), torch.randn(1, LATENTS, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    context, table, text = shot
    x = public_rollout(student, *shot, noises(), 8*.001/1.007)
    with torch.no_grad():
        xt = .4*x + .6*eps
        def ends(model, words): return xt - .6*velocity(model, context, xt, 600., table, words)
        c, u, fake = ends(teacher, text), ends(teacher, negative.expand_as(text)), ends(critic, text)
        real = c + 3*(c - u)
        g = (fake - real)/(x - real).abs().mean()
    expected = .5*(x - (x - g).detach()).pow(2).mean()
    options = PUBLISHED_TRAINING.with_negative(negative)
    loss, film = student_loss(*models, shot, sigma, EXIT, options, (noises(), eps))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(film, x.detach(), atol=1e-4, rtol=1e-4)
    mine = gradients(student, loss.sum())
    assert far(mine, gradients(student, expected)) < 1e-3
    def sampled(**changes): return replace(options, sampling=replace(options.sampling, **changes))
    for other in (PUBLISHED_TRAINING, replace(options, score_guidance=Guidance(6., negative=negative)),
                  sampled(context_time="clean"), sampled(shift=3.), TOY_TRAINING):
        assert far(gradients(student, student_loss(*models, shot, sigma, EXIT, other, (noises(), eps))[0].sum()),
                   mine) > .01


@torch.no_grad()
def test_own_context_without_rounding():
    "Decode, pick frames 0, 16, 32 of each of two shots, encode each alone, nothing rounded"
    vae, g = tiny_wan_vae(), torch.Generator().manual_seed(1)
    mean, std = (torch.tensor(c)[None, :, None, None, None] for c in (vae.config.latents_mean, vae.config.latents_std))
    shots, stock = [torch.randn(1, 9, 16, 4, 6, generator=g) for _ in range(2)], super(WanVAE, vae)
    films = [stock.decode(z.transpose(1, 2)*std + mean).sample for z in shots]
    encoded = [stock.encode(f[:, :, [i]]).latent_dist.mode() for f in films for i in (0, 16, 32)]
    expected = torch.cat([(z - mean)/std for z in encoded], 2).transpose(1, 2)
    mine, whose = own_context(vae, shots, pixels="float")
    torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)
    assert whose == [0, 0, 0, 1, 1, 1] and (own_context(vae, shots)[0] - expected).abs().max() > 1e-3
    with pytest.raises(ValueError, match="pixels"): own_context(vae, shots, pixels="bytes")


@pytest.mark.parametrize("exit_step", range(4))
def test_one_step_of_every_chunk_carries_the_gradient(models, shot, exit_step):
    "The truncation that self-forcing is about: earlier steps leave no graph, later ones are not taken"
    student, seen = models[0], []
    hook = student.proj_out.register_forward_hook(lambda module, args, out: seen.append(out.requires_grad))
    try: film = rollout(student, *shot, TOY_TRAINING.sampling, noises(), exit_step)
    finally: hook.remove()
    assert seen == ([False]*exit_step + [True])*3 and film.requires_grad


def test_for_filming_all_steps_are_taken(models, shot):
    student, seen = models[0], []
    hook = student.proj_out.register_forward_hook(lambda module, args, out: seen.append(out.requires_grad))
    try: rollout(student, *shot, TOY_TRAINING.sampling, noises())
    finally: hook.remove()
    assert seen == [False, False, False, True]*3


@torch.no_grad()
def test_window_and_sink_reach_the_cache(models, shot):
    def film(**options): return rollout(models[0], *shot, replace(TOY_TRAINING.sampling, **options), noises())
    for window, sink in ((4, 1), (3, 0)):
        cache = KVCache(2, window, sink)
        expected = torch.cat(list(generate_shot(models[0], cache, *shot, TOY_TRAINING.sampling, noises())), 1)
        assert torch.equal(film(window=window, sink=sink), expected)
    assert not torch.equal(film(window=4, sink=1), film(window=4))


@pytest.mark.parametrize("told", ["clean", "target"])
def test_scores_know_the_level_and_keep_no_graph(models, shot, told):
    context, table, text = shot
    sampling = replace(TOY_TRAINING.sampling, context_time=told, phi=.4)
    x0, noise = (torch.randn(1, LATENTS, 4, 4, 4, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    got = score_x0(models[1], shot, x0, torch.tensor([.6]), noise, sampling)
    times = torch.tensor([[600. if told == "target" else 0.]*6 + [600.]*LATENTS])
    xt = .4*x0 + .6*noise
    v = models[1](torch.cat([context, xt], 1).transpose(1, 2), times, text, table=table, phi=.4).sample
    torch.testing.assert_close(got, xt - .6*v.transpose(1, 2)[:, 6:], atol=1e-4, rtol=1e-4)
    assert not got.requires_grad


def test_only_the_student_learns(models, shot):
    for m in models: m.zero_grad()
    torch.manual_seed(0)
    loss, film = student_loss(*models, shot, torch.tensor([.6]), 1, TOY_TRAINING)
    assert loss.shape == (1,) and film.shape == (1, LATENTS, 4, 4, 4) and not film.requires_grad
    loss.sum().backward()
    student, teacher, critic = ([p.grad for p in m.parameters()] for m in models)
    assert any(g is not None and g.any() for g in student) and not any(g is not None for g in (*teacher, *critic))
    models[0].zero_grad()


@torch.no_grad()
def test_own_context_is_what_filming_reads():
    "Any rule and budget; rounded to grey levels, inside of [-1, 1]"
    vae, seen = tiny_wan_vae(4), []
    shots = [3*torch.randn(2, n, 4, 2, 2, generator=torch.Generator().manual_seed(n)) for n in (1, 3)]
    encode = vae.encode
    def watch(video):
        seen.append(video)
        return encode(video)
    vae.encode = watch
    z, whose = own_context(vae, shots, 5, "first_last")
    assert z.shape == (2, 5, 4, 2, 2) and whose == [0, 0, 1, 1, 1]
    films = [vae.decode(s.transpose(1, 2)).sample.clamp(-1, 1) for s in shots]
    frames = torch.stack([films[k][:, :, f] for k, f in ((0, 0), (0, 0), (1, 0), (1, 0), (1, 8))], 1)
    levels = ((frames.flatten(0, 1)[:, :, None] + 1)*127.5).round()
    torch.testing.assert_close(seen[0], levels/127.5 - 1)
    torch.testing.assert_close(z, encode(seen[0]).latent_dist.mode()[:, :, 0].unflatten(0, (2, 5)))
