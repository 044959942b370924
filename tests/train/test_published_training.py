"""The published training as options, written again from its formulas: in-place cache, timesteps, no shared helpers."""
from dataclasses import replace

import pytest
import torch

from shotstream.model.frame_table import next_shot_table, causal_mask
from shotstream.model.flow import Guidance, Sampling, bell_weight, draw_sigma
from shotstream.train.ode import ode_loss, trajectory
from shotstream.generate.pipeline import PUBLISHED_TRAINING
from shotstream.train.self_forcing import own_context, rollout, student_loss
from shotstream.generate.student import noise_source
from shotstream.generate.teacher import TOY_TRAINING, teacher_loss
from shotstream.model.transformer import ShotTransformer
from shotstream.model.wan_vae import WanVAE, tiny_wan_vae

TIMES = (1000., 957.9288, 888.8889, 737.5887)          # 1000, 740, 500, 260 of 1000 under shift 8
LATENTS, EXIT = 8, 2


def network(seed):
    torch.manual_seed(seed)
    model = ShotTransformer(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=12,
                            freq_dim=16, ffn_dim=40, num_layers=2).eval()
    with torch.no_grad():
        for p in model.parameters(): torch.nn.init.normal_(p, std=.3) if p.ndim == 1 else None
        model.condition_embedder.time_proj.weight *= 8                     # noise levels matter
    return model


@pytest.fixture(scope="module")
def models(): return [network(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def shot():
    g = torch.Generator().manual_seed(9)
    table = next_shot_table([0, 0, 0, 1, 1, 1], LATENTS, 2)
    return torch.randn(1, 6, 4, 4, 4, generator=g), table, torch.randn(1, 3, 5, 12, generator=g)


@pytest.fixture(scope="module")
def negative(): return torch.randn(1, 1, 5, 12, generator=torch.Generator().manual_seed(8))


def noises(seed=3):
    "Everything random of one rollout: `(start, step)` -> (1, f, 4, 4, 4); the same whoever asks, in whatever order"
    def draw(shape, start, step):
        return torch.randn(shape, generator=torch.Generator().manual_seed(1000*seed + 10*start + step))
    return draw


def velocity(model, context, x, t, table, text):
    "Past and film together, every frame told `t`"
    v = model(torch.cat([context, x], 1).transpose(1, 2), torch.full((1, len(table)), float(t)), text,
              table=table).sample
    return v.transpose(1, 2)[:, context.shape[1]:]


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


def test_critic_and_teacher_loss(models, shot):
    "Plain flow matching, the context told the target's time; the teacher's is weighted by a bell over the shifted grid"
    context, table, text = shot
    g = torch.Generator().manual_seed(2)
    x0, eps = (torch.randn(1, LATENTS, 4, 4, 4, generator=g) for _ in range(2))
    sigma = torch.tensor([.7])
    def loss(sampling): return teacher_loss(models[1], shot, x0, sigma, sampling, eps).item()
    with torch.no_grad():
        expected = (velocity(models[1], context, .3*x0 + .7*eps, 700., table, text) - (eps - x0)).pow(2).mean()
        assert loss(PUBLISHED_TRAINING.sampling) == pytest.approx(expected.item(), rel=1e-5)
        assert loss(TOY_TRAINING.sampling) != pytest.approx(expected.item(), rel=1e-3)


def test_noise_levels_and_bell():
    "1000 shifted levels, drawn evenly; exp(-2 ((t - 500)/1000)^2) less its least, mean 1"
    grid = [8*s/(1 + 7*s) for s in (i/1000 for i in range(1, 1001))]
    bell = [2.718281828459045**(-2*(s - .5)**2) for s in grid]
    raised = [b - min(bell) for b in bell]
    expected, seed = torch.tensor([r*1000/sum(raised) for r in raised]), lambda: torch.Generator().manual_seed(0)
    torch.testing.assert_close(bell_weight(torch.tensor(grid), 8.), expected, atol=1e-5, rtol=1e-5)
    drawn = PUBLISHED_TRAINING.teacher_sigma(20_000, generator=seed())
    places = (drawn[:, None].double() - torch.tensor(grid, dtype=torch.float64)).abs().min(1)
    assert places.values.max() < 1e-6
    assert (torch.bincount(places.indices//250).float().div(20_000).sub(.25).abs().max() < .02
            and len(places.indices.unique()) > 990)
    clamped = PUBLISHED_TRAINING.score_sigma(20_000, generator=seed())
    torch.testing.assert_close(clamped, drawn.clamp(.02, .98))
    assert torch.equal(TOY_TRAINING.score_sigma(9, generator=seed()),
                       draw_sigma(9, 3., generator=seed()).clamp(.02, .98))


@torch.no_grad()
def test_ode_pairs(models, shot, negative):
    "50 Euler steps, u + 6 (c - u), everything told the same time; states at steps 0, 13, 25, 37 and the end"
    (context, table, text), teacher = shot, models[1]
    noise = torch.randn(1, LATENTS, 4, 4, 4, generator=torch.Generator().manual_seed(4))
    x, kept = noise, []
    sigmas = [8*s/(1 + 7*s) for s in (1 - i/50 for i in range(51))]
    for i, (a, b) in enumerate(zip(sigmas, sigmas[1:])):
        if i in (0, 13, 25, 37): kept.append(x)
        u, c = (velocity(teacher, context, x, 1000*a, table, words) for words in (negative.expand_as(text), text))
        x = x + (b - a)*(u + 6*(c - u))
    options = PUBLISHED_TRAINING.with_negative(negative)
    sampling = replace(options.sampling, steps=options.pair_steps)
    def pairs(sampling=sampling, guidance=options.pair_guidance):
        return trajectory(teacher, *shot, sampling, guidance, noise=noise)
    torch.testing.assert_close(pairs(), torch.stack([*kept, x], 1), atol=1e-3, rtol=1e-3)
    for other in (pairs(sampling=replace(sampling, context_time="clean")),
                  pairs(guidance=PUBLISHED_TRAINING.pair_guidance)):
        assert (other[:, -1] - x).norm()/x.norm() > .01


@torch.no_grad()
def test_ode_loss_at_given_levels(models, shot):
    "Chunks at steps 2, 4 (clean) and 0; the error in x0 over frames that are noisy; context at time 0"
    (context, table, text), student = shot, models[0]
    states = torch.randn(1, 5, LATENTS, 4, 4, 4, generator=torch.Generator().manual_seed(6))
    picked = [2]*3 + [4]*3 + [0]*2
    t = torch.tensor([[0.]*6 + [(*TIMES, 0.)[i] for i in picked]])
    x = torch.stack([states[0, i, f] for f, i in enumerate(picked)])[None]
    v = student(torch.cat([context, x], 1).transpose(1, 2), t, text, table=table,
                attention_mask=causal_mask(table, table)).sample
    v = v.transpose(1, 2)[:, 6:]
    x0 = x - t[:, 6:, None, None, None]/1000*v
    expected = (x0 - states[:, -1])[:, [0, 1, 2, 6, 7]].pow(2).mean()
    mine = ode_loss(student, shot, states, PUBLISHED_TRAINING.sampling, levels=torch.tensor([[2, 4, 0]]))
    assert mine.item() == pytest.approx(expected.item(), rel=1e-4)


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


def test_noise_of_the_wrong_length():
    with pytest.raises(ValueError, match="latents 3 to 5"):
        noise_source(torch.zeros(1, 4, 2, 2, 2))((1, 3, 2, 2, 2), 3, 0)


@pytest.mark.parametrize("wrong",
                         [dict(context_time="late"), dict(context_pixels="bytes"), dict(shift=0.),
                          dict(cache_noise=1.)])
def test_sampling_says_what_it_takes(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))): Sampling(**(dict(steps=4, shift=8.) | wrong))
