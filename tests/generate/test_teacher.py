"""The teacher's loss and its guidance, written again from the formulas."""
from dataclasses import replace

import pytest
import torch
from tiny import LATENTS, network, tiny_shot, velocity

from shotstream.generate.pipeline import PUBLISHED_TRAINING
from shotstream.generate.teacher import (
    TOY_GUIDANCE, TOY_TRAINING, cfg_dropout, drop_history, guided_velocity, join_context, sample_shot, teacher_loss,
    teacher_velocity)
from shotstream.model.flow import Guidance, Sampling, schedule
from shotstream.model.frame_table import first_shot_table, next_shot_table, stack_stories


@pytest.fixture(scope="module")
def models(): return [network(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def shot(): return tiny_shot()


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


def close(a, b): torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def film(seed=1): return torch.randn(1, LATENTS, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_past_before_present():
    context, target = torch.zeros(2, 3, 5, 1, 1), torch.ones(2, 4, 5, 1, 1)
    assert join_context(context, target)[1, 2].flatten().tolist() == [0.]*3 + [1.]*4


def test_only_the_target_has_an_output(models, shot):
    "With and without a graph, and in the target's number type"
    context, table, text = shot
    v = teacher_velocity(models[0], context, film(), table.at(.5), text, phi=.4)
    with torch.no_grad():
        whole = models[0](join_context(context, film()), None, text, table=table.at(.5), phi=.4).sample.transpose(1, 2)
        close(teacher_velocity(models[0], context, film(), table.at(.5), text, phi=.4), whole[:, 6:])
        assert teacher_velocity(models[0], context, film().double(), table, text).dtype == torch.float64
    assert v.requires_grad and v.shape == (1, LATENTS, 4, 4, 4)
    close(v.detach(), whole[:, 6:])
    alone = teacher_velocity(models[0], context[:, :0], film(), table[slice(6, None)], text)
    assert alone.shape == v.shape                                             # single shots have no past at all


@torch.no_grad()
def test_a_loss_for_each_story_and_place(models, shot):
    "Weighted, at its own noise level, and only where there is a weight"
    context, table, text = (torch.cat([shot[0], shot[0].flip(1)]), stack_stories(shot[1], shot[1]), shot[2].repeat(
        2, 1, 1, 1))
    x0, noise, sigma = torch.cat([film(1), film(2)]), torch.cat([film(3), film(4)]), torch.tensor([.2, .9])
    weight = torch.rand(2, 1, 4, 4, 4)
    def loss(*more): return teacher_loss(models[0], (context, table, text), x0, sigma, TOY_TRAINING.sampling, *more)
    got = loss(noise, weight)
    for i in range(2):
        xt = (1-sigma[i])*x0[i:i+1] + sigma[i]*noise[i:i+1]
        v = teacher_velocity(models[0], context[i:i+1], xt, shot[1].at(sigma[i].item()), text[i:i+1])
        close(got[i], (weight[i]*(v[0] - noise[i] + x0[i])**2).mean())
    torch.manual_seed(3)
    drawn = loss()
    torch.manual_seed(3)
    close(drawn, loss(torch.randn_like(x0)))


def test_whole_stories_are_dropped():
    "As often as asked, and nothing is scaled up for it"
    x = torch.rand(4000, 2, 3) + 1
    kept = cfg_dropout(x, .25, torch.Generator().manual_seed(0))
    gone = ~kept.flatten(1).any(1)
    assert torch.equal(kept[~gone], x[~gone]) and abs(gone.float().mean() - .25) < .03
    assert torch.equal(cfg_dropout(x, 0.), x) and not cfg_dropout(x, 1.).any()
    assert torch.equal(cfg_dropout(x, .25, torch.Generator().manual_seed(0)), kept)
    assert cfg_dropout(x.half(), .5).dtype == torch.float16


def test_stories_become_first_shots():
    "As `first_shot_table` has them, but for the caption, which stays the target's own"
    table = stack_stories(next_shot_table([0, 1], 3, 2), next_shot_table([3, 3], 3, 4))
    context = torch.rand(2, 2, 1, 1, 1) + 1
    nothing, first = drop_history(context, table)
    one = first_shot_table(3, 2)
    assert not nothing.any() and first.caption.tolist() == [[2]*5, [4]*5]
    assert replace(first, caption=torch.zeros_like(first.caption)) == stack_stories(one, one)
    some, mixed = drop_history(context, table, torch.tensor([False, True]))
    assert torch.equal(some[0], context[0]) and not some[1].any()
    assert mixed.shot.tolist() == [[0, 1, 2, 2, 2], [0, 0, 1, 1, 1]]
    assert mixed.caption.tolist() == [[0, 1, 2, 2, 2], [4]*5]


@torch.no_grad()
def test_caption_and_past_are_followed_further(models, shot):
    "v + (t-1)(v - silence) + (h-1)(v - no past), frame by frame only where there is more noise than `min_sigma`"
    (context, table, text), m, x = shot, models[0], film()
    levels = torch.tensor([[0.]*6 + [.9, .3, .6] + [.8]*5])
    table = table.at(levels)
    def ask(context, table, text): return teacher_velocity(m, context, x, table, text, .4)
    v, silent = ask(context, table, text), ask(context, table, 0*text)
    nothing, first = drop_history(context, table)
    alone = ask(nothing, first, text)
    for t, h in ((1., 1.), (3., 1.), (1., 2.5), (3., 2.5)):
        expected = v + (t-1)*(v - silent) + (h-1)*(v - alone)
        close(guided_velocity(m, context, x, table, text, Guidance(t, h), .4), expected)
    noisy = (levels[:, 6:] > .6)[..., None, None, None]
    assert noisy.flatten().tolist() == [True, False, False] + [True]*5
    close(guided_velocity(m, context, x, table, text, Guidance(3., 2.5, .6), .4), torch.where(noisy, expected, v))
    negative = torch.randn(1, 1, 5, 12, generator=torch.Generator().manual_seed(8))
    away = ask(context, table, negative.expand_as(text))
    close(guided_velocity(m, context, x, table, text, Guidance(3., negative=negative), .4), v + 2*(v - away))


@torch.no_grad()
def test_no_question_is_asked_in_vain(models, shot):
    (context, table, text), asked = shot, []
    hook = models[0].proj_out.register_forward_hook(lambda *args: asked.append(1))
    for guidance, passes in ((Guidance(), 1), (Guidance(2.), 2), (Guidance(1., 2.), 2), (Guidance(2., 2.), 3),
                             (Guidance(2., 2., .5), 1)):
        asked.clear()
        guided_velocity(models[0], context, film(), table.at(.5), text, guidance)
        assert len(asked) == passes, guidance
    hook.remove()


@pytest.mark.parametrize("told", ["clean", "target"])
def test_a_shot_is_sampled_step_by_step(models, shot, told):
    (context, table, text), heard = shot, []
    sampling, guidance = Sampling(3, 5., phi=.4, context_time=told), Guidance(2.)
    sigmas, x = schedule(3, 5.).tolist(), film()
    with torch.no_grad():
        for a, b in zip(sigmas, sigmas[1:]):
            at = replace(table, sigma=torch.tensor([[a if told == "target" else 0.]*6 + [a]*LATENTS]))
            x = x + (b-a)*guided_velocity(models[0], context, x, at, text, guidance, .4)
    def hear(i, sigma, x):
        heard.append((i, sigma))
        return x
    got = sample_shot(models[0], *shot, sampling, guidance, film(), hear)
    close(got, x)
    assert heard == list(enumerate(sigmas[:3])) and not got.requires_grad
    seeded = sample_shot(models[0], *shot, sampling, guidance, torch.Generator().manual_seed(1))
    assert torch.equal(seeded, got)


def test_a_negative_prompt_reaches_both_guidances():
    negative = torch.randn(1, 1, 5, 12)
    options = TOY_TRAINING.with_negative(negative)
    assert options.pair_guidance.negative is negative and options.score_guidance.negative is negative
    assert options.sampling == TOY_TRAINING.sampling and options.pair_guidance == TOY_GUIDANCE
    assert TOY_TRAINING.score_guidance.negative is None
