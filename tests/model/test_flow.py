"""Rectified flow against diffusers, published numbers, and the line itself."""
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from shotstream.generate.pipeline import PUBLISHED_TRAINING
from shotstream.generate.teacher import TOY_TRAINING
from shotstream.model.flow import (
    Guidance, Sampling, add_noise, bell_weight, draw_sigma, euler, from_v_prediction, guided, schedule, shift_sigma,
    to_noise, to_x0, velocity)



def close(a, b, tolerance=1e-6):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=tolerance, rtol=0, check_dtype=False)


def test_published_student_steps():
    close([1000*shift_sigma(t/1000, 8) for t in (1000, 740, 500, 260)], [1000., 957.93, 888.89, 737.59], .006)
    close(1000*schedule(50, 8)[[0, 13, 25, 37]], [1000., 957.93, 888.89, 737.59], .006)


def test_same_convention_as_diffusers():
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=8.)
    scheduler.set_timesteps(sigmas=torch.linspace(1, .25, 4).tolist())
    close(scheduler.sigmas, schedule(4, 8))
    close(scheduler.scale_noise(x0, scheduler.timesteps[2:3], noise), add_noise(x0, noise, schedule(4, 8)[2]))
    field = lambda x, sigma: x*sigma - x0
    theirs = noise
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas):
        theirs = scheduler.step(field(theirs, sigma), t, theirs).prev_sample
    close(euler(field, noise, schedule(4, 8)), theirs, 1e-5)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_line_and_its_two_ends(shape):
    torch.manual_seed(1)
    x0, noise, sigma = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5), torch.rand(shape)
    xt, v = add_noise(x0, noise, sigma), velocity(x0, noise)
    each = sigma.reshape(*shape, *[1]*(2-len(shape))).expand(2, 3)
    for i in range(2):
        for j in range(3): close(xt[i, j], x0[i, j] + each[i, j]*(noise[i, j] - x0[i, j]))
    close(to_x0(xt, v, sigma), x0, 1e-5)
    close(to_noise(xt, v, sigma), noise, 1e-5)


def test_draws_and_guidance():
    seed = lambda: torch.Generator().manual_seed(3)
    for normal in (False, True):
        even = draw_sigma(1000, normal=normal, generator=seed())
        close(draw_sigma(1000, 5, normal, generator=seed()), 5*even/(1 + 4*even))
        assert even.min() >= 0 and even.max() <= 1 and abs(even.mean() - .5) < .05
    text, blank = torch.randn(3), torch.randn(3)
    close(guided(text, blank, 4), text + 3*(text - blank), 1e-5)        # published: c + 3(c - u)
    with pytest.raises(ValueError, match="at least one step, got steps=0"): schedule(0)


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


@pytest.mark.parametrize("wrong",
                         [dict(context_time="late"), dict(context_pixels="bytes"), dict(shift=0.),
                          dict(cache_noise=1.)])
def test_sampling_says_what_it_takes(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))): Sampling(**(dict(steps=4, shift=8.) | wrong))


@pytest.mark.parametrize("shape", [None, (2,), (2, 3)])
def test_velocity_of_a_v_prediction(shape):
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(2, 3, 4, generator=g) for _ in range(2))
    sigma = .3 if shape is None else torch.rand(shape, generator=g)
    s = sigma if shape is None else sigma.reshape(*shape, *[1]*(3-len(shape)))
    answer = ((1-s)*noise - s*x0)/(s**2 + (1-s)**2)**.5
    close(from_v_prediction(add_noise(x0, noise, sigma), answer, sigma), noise - x0, 1e-5)


def test_levels_do_not_change_the_number_type():
    x, sigma = torch.ones(2, 3, 4, dtype=torch.bfloat16), torch.tensor([.25, .75], dtype=torch.float64)
    for f in (add_noise, to_x0, to_noise, from_v_prediction): assert f(x, x, sigma).dtype == torch.bfloat16


def test_euler_step_by_step():
    "Whoever watches hears step, level and what came out, may change it, and no gradient is kept"
    sigmas, heard, weight = torch.tensor([1., .5, 0.]), [], torch.ones((), requires_grad=True)
    def on_step(i, sigma, x):
        heard.append((i, sigma, x.item()))
        return x + 10
    out = euler(lambda x, sigma: weight*(x + sigma), torch.tensor([2.]), sigmas, on_step=on_step)
    assert heard == [(0, 1., .5), (1, .5, 10.5 - .5*11)] and out.item() == 15. and not out.requires_grad


def test_where_levels_are_drawn():
    "Part of them uniform and unshifted; on a grid the least is one step, never 0; ends are moved inside"
    def draw(*args, **options): return draw_sigma(20_000, *args, generator=torch.Generator().manual_seed(1), **options)
    assert abs(draw(8.).mean() - .802) < .01 and abs(draw(8., uniform=1.).mean() - .5) < .01
    assert abs(draw(8., uniform=.25).mean() - (.75*.802 + .25*.5)) < .01
    assert draw(grid=4).unique().tolist() == [.25, .5, .75, 1.]
    close(draw(3., grid=4).unique(), shift_sigma(torch.tensor([.25, .5, .75, 1.]), 3.))
    assert (draw(between=(.3, .6)).min(), draw(between=(.3, .6)).max()) == (pytest.approx(.3), pytest.approx(.6))
    assert draw(normal=True).std() < .9*draw().std()


def test_a_bell_in_any_number_type():
    sigma = torch.tensor([.1, .5, .99], dtype=torch.float64)
    weight = bell_weight(sigma)
    assert weight.dtype == torch.float64 and bell_weight(sigma.half()).dtype == torch.float16
    assert weight.argmax() == 1 and bell_weight(torch.ones(1)).item() == pytest.approx(0, abs=1e-6)


def test_options_compare_and_tell():
    assert Sampling(4, 8., context_time="target").same_time and not Sampling(4, 8.).same_time
    assert Guidance(2., negative=torch.zeros(1)) == Guidance(2.) != Guidance(3.)           # tensors do not compare
    assert Guidance() == Guidance(1., 1., 0.)
