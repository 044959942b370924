"""The teacher's loss and its guidance, written again from the formulas."""
import pytest
import torch
from tiny import LATENTS, network, tiny_shot, velocity

from shotstream.generate.pipeline import PUBLISHED_TRAINING
from shotstream.generate.teacher import teacher_loss



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
    told = table.at(sigma, everywhere=PUBLISHED_TRAINING.sampling.same_time)
    with torch.no_grad():
        mine = teacher_loss(models[1], context, x0, told, text, sigma, eps)
        expected = (velocity(models[1], context, .3*x0 + .7*eps, 700., table, text) - (eps - x0)).pow(2).mean()
        assert mine.item() == pytest.approx(expected.item(), rel=1e-5)
        assert teacher_loss(models[1], context, x0, table, text, sigma, eps).item() != pytest.approx(expected.item(),
                                                                                                     rel=1e-3)
