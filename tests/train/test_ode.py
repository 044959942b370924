"""The teacher's trajectories and the regression on them, written again from the formulas."""
from dataclasses import replace

import pytest
import torch
from tiny import LATENTS, TIMES, velocity

from shotstream.generate.pipeline import PUBLISHED_TRAINING
from shotstream.model.frame_table import causal_mask
from shotstream.generate.student import student_sigmas
from shotstream.model.flow import Guidance, Sampling, schedule
from shotstream.train.ode import mixed_states, ode_loss, trajectory

PUBLISHED = PUBLISHED_TRAINING.sampling


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
    calls = []
    hook = teacher.proj_out.register_forward_hook(lambda *args: calls.append(1))
    torch.testing.assert_close(pairs(), torch.stack([*kept, x], 1), atol=1e-3, rtol=1e-3)
    hook.remove()
    assert len(calls) == 2*50                       # the student's levels are steps of the grid: none is taken twice
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
    mine = ode_loss(student, shot, states, PUBLISHED, levels=torch.tensor([[2, 4, 0]]))
    assert mine.item() == pytest.approx(expected.item(), rel=1e-4)


@torch.no_grad()
def test_ode_loss_sees_no_future(models, shot):
    "A last chunk that is clean counts nothing itself, and no other chunk sees it; what comes before is seen"
    states = torch.randn(1, 5, LATENTS, 4, 4, 4, generator=torch.Generator().manual_seed(6))
    def loss(changed=None, levels=(2, 0, 4)):
        s = states.clone()
        if changed is not None: s[:, :, changed] += 1
        return ode_loss(models[0], shot, s, PUBLISHED, levels=torch.tensor([levels]))
    assert torch.equal(loss(slice(6, None)), loss())
    assert not torch.equal(loss(slice(0, 3), (4, 0, 4)), loss(None, (4, 0, 4)))


@torch.no_grad()
def test_levels_are_drawn_from_all_and_by_the_generator(models, shot):
    states = torch.randn(1, 5, LATENTS, 4, 4, 4, generator=torch.Generator().manual_seed(6))
    def loss(seed=None, levels=None):
        g = None if seed is None else torch.Generator().manual_seed(seed)
        return ode_loss(models[0], shot, states, PUBLISHED, g, levels).item()
    assert loss(0) == loss(0) != loss(1)
    drawn = [torch.randint(5, (1, 3), generator=torch.Generator().manual_seed(s)) for s in range(3)]
    assert [loss(s) for s in range(3)] == [loss(levels=d) for d in drawn]
    assert loss(levels=torch.tensor([[4, 4, 4]])) == 0                          # nothing noisy: no loss, and no 0/0
    with pytest.raises(ValueError, match="5 states for 3 levels"):
        ode_loss(models[0], shot, states, replace(PUBLISHED, steps=3))


@torch.no_grad()
def test_levels_are_added_to_the_teachers_steps(models, shot):
    "Euler over the teacher's three steps and the four levels together; the past is clean, and so is the end"
    (context, table, text), teacher = shot, models[1]
    sampling = Sampling(3, 3., phi=.4)
    noise = torch.randn(1, LATENTS, 4, 4, 4, generator=torch.Generator().manual_seed(4))
    steps, kept = schedule(3, 3.).tolist(), student_sigmas(3.)
    levels, x, states = sorted({*steps, *kept}, reverse=True), noise, []
    assert len(levels) == 7
    for a, b in zip(levels, levels[1:]):
        if a in kept: states.append(x)
        rows = replace(table, sigma=torch.tensor([[0.]*6 + [a]*LATENTS]))
        v = teacher(torch.cat([context, x], 1).transpose(1, 2), None, text, table=rows, phi=.4).sample
        x = x + (b - a)*v.transpose(1, 2)[:, 6:]
    got = trajectory(teacher, *shot, sampling, Guidance(), noise=noise)
    torch.testing.assert_close(got, torch.stack([*states, x], 1), atol=1e-4, rtol=1e-4)
    drawn = trajectory(teacher, *shot, sampling, Guidance(), noise=torch.Generator().manual_seed(4))
    assert torch.equal(drawn, got)
    few = trajectory(teacher, *shot, sampling, Guidance(), [.8, .3], noise)
    assert few.shape[1] == 3 and not torch.equal(few[:, 0], noise)


@pytest.mark.parametrize("sigmas", [[.5, .9], [.9, .9], [1.1], [.5, 0.]])
def test_levels_that_do_not_fall(models, shot, sigmas):
    with pytest.raises(ValueError, match="levels fall"):
        trajectory(models[1], *shot, Sampling(1, 3.), Guidance(), sigmas)


def test_one_state_for_each_frame():
    states, levels = torch.arange(2*3*4).reshape(2, 3, 4, 1, 1, 1), torch.tensor([[0, 2, 1, 0], [1, 1, 2, 0]])
    picked = mixed_states(states, levels)
    assert picked.shape == (2, 4, 1, 1, 1)
    for b in range(2):
        for f in range(4): assert picked[b, f] == states[b, levels[b, f], f]


def test_the_regression_teaches_the_student_alone(models, shot):
    "A gradient reaches every block, and nothing of the recorded paths"
    states = torch.randn(1, 5, LATENTS, 4, 4, 4).requires_grad_()
    loss = ode_loss(models[0], shot, states.detach(), PUBLISHED)
    loss.sum().backward()
    assert all(p.grad is not None for n, p in models[0].named_parameters() if n.startswith("blocks."))
    models[0].zero_grad()
