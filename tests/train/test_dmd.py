"""Distribution matching, number by number."""
import pytest
import torch

from shotstream.train.dmd import dmd_gradient, dmd_loss


def films(seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 4, 2, 2, generator=g)*torch.tensor([1., 10.]).reshape(2, 1, 1, 1, 1) for _ in range(3)]


def test_the_gradient_by_hand():
    "Each story by what it has left to go"
    x0, real, fake = films()
    for x, r, f, got in zip(x0, real, fake, dmd_gradient(x0, real, fake)):
        left = sum(abs(a - b) for a, b in zip(x.flatten().tolist(), r.flatten().tolist()))/x.numel()
        torch.testing.assert_close(got, (f - r)/left)


def test_a_step_goes_to_the_teacher_and_away_from_the_critic():
    x0, real, fake = (torch.full((1, 2), v) for v in (0., 1., -2.))
    x = x0.requires_grad_()
    dmd_loss(x, dmd_gradient(x.detach(), real, fake)).sum().backward()
    assert (-x.grad > 0).all()


def test_the_loss_has_this_gradient():
    x0, gradient = films()[:2]
    x, g = x0.requires_grad_(), gradient.requires_grad_()
    loss = dmd_loss(x, g)
    assert loss.shape == (2,)
    torch.testing.assert_close(loss, .5*g.detach().pow(2).flatten(1).mean(1), rtol=1e-4, atol=1e-4)
    loss.sum().backward()
    torch.testing.assert_close(x.grad, g.detach()/x[0].numel(), rtol=1e-4, atol=1e-4)
    assert g.grad is None


@pytest.mark.parametrize("apart", [0., 1.])
def test_where_nothing_is_left_to_go_nothing_moves(apart):
    x0 = torch.ones(2, 3)
    real = torch.stack([x0[0], x0[1] + 2])
    gradient = dmd_gradient(x0, real, real + apart)
    assert torch.equal(gradient, torch.tensor([[0.]*3, [apart/2]*3]))
