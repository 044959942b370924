"""The optimizer: what Muon and AdamW did one by one it does in stacks, and a checkpoint of it continues bit for bit."""
import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from shotstream.train import optim
from shotstream.train.optim import MuonAdamW, keep_freed_memory, muon_groups, newton_schulz


def net():
    "Two shapes that occur more than once, a convolution, vectors, and a parameter that no loss reaches"
    torch.manual_seed(0)
    used = nn.Sequential(nn.Conv1d(4, 6, 3), nn.Flatten(), nn.Linear(36, 8), nn.LayerNorm(8), nn.Linear(8, 8),
                         nn.Linear(8, 8), nn.Linear(8, 36), nn.Linear(36, 8))
    return nn.ModuleDict(dict(used=used, unused=nn.Linear(8, 8)))


def matrices(model): return [p for p in model.parameters() if p.ndim > 1]


def optimizer(model, **options):
    return MuonAdamW(model.parameters(), matrices(model), .03, .01, weight_decay=.01, **options)


def one_by_one(g, steps=5):
    "Newton-Schulz for one matrix, as it was before there were stacks"
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x/(x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445*x + (-4.775*a + 2.0315*a @ a) @ x
    return x.T if g.shape[0] > g.shape[1] else x


class OneByOne:
    "Muon for matrices, torch's AdamW for the rest: two optimizers, one matrix after the other"
    def __init__(self, model):
        self.momenta = {p: torch.zeros_like(p) for p in matrices(model)}
        rest = [p for p in model.parameters() if p.ndim < 2]
        self.adam = torch.optim.AdamW(rest, lr=.01, betas=(.9, .98), weight_decay=.01)
    @torch.no_grad()
    def step(self):
        self.adam.step()
        for p, momentum in self.momenta.items():
            if p.grad is None: continue
            momentum.lerp_(p.grad, .05)
            g = p.grad.lerp(momentum, .95).flatten(1)
            p.mul_(1 - .03*.01).add_(one_by_one(g).view_as(p), alpha=-.2*.03*max(g.shape)**.5)


def loss(model, i):
    x = torch.randn(32, 4, 8, generator=torch.Generator().manual_seed(i))
    return (model["used"](x) - x.mean(1)).pow(2).mean()


def weights(model): return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("largest", [MuonAdamW.LARGEST, 64])
def test_equals_muon_and_adamw_one_by_one(largest, monkeypatch):
    monkeypatch.setattr(MuonAdamW, "LARGEST", largest)          # 64: one matrix at a time
    one, two = net(), net()
    new, old = optimizer(one), OneByOne(two)
    start = weights(one)
    for i in range(8):
        for model, o in ((one, new), (two, old)):
            model.zero_grad()
            loss(model, i).backward()
            o.step()
    assert (weights(one) - start).abs().max() > .1
    torch.testing.assert_close(weights(one), weights(two), atol=1e-5, rtol=0)
    for a, b in zip(one["unused"].parameters(), net()["unused"].parameters()): assert torch.equal(a, b)


def test_bfloat16_products_are_close_and_keep_full_weights():
    one, two = net(), net()
    for model, o in ((one, optimizer(one)), (two, optimizer(two, ns_dtype=torch.bfloat16))):
        loss(model, 0).backward()
        o.step()
    change = weights(one) - weights(net())
    assert weights(two).dtype == torch.float32
    # directions that the gradient hardly has are rounded away
    assert 0 < (weights(two) - weights(one)).norm() < .25*change.norm()


def test_checkpoint_continues_bit_for_bit():
    def go(model, o, steps):
        for i in steps:
            model.zero_grad()
            loss(model, i).backward()
            o.step()
    whole = net()
    go(whole, optimizer(whole), range(6))
    first = net()
    o = optimizer(first)
    go(first, o, range(3))
    saved = copy.deepcopy((first.state_dict(), o.state_dict()))
    again = net()
    again.load_state_dict(saved[0])
    o = optimizer(again)
    o.load_state_dict(saved[1])
    go(again, o, range(3, 6))
    assert torch.equal(weights(again), weights(whole))


def test_works_with_accelerate_and_a_scheduler():
    alone, prepared = net(), net()
    plain, accelerator = optimizer(alone), Accelerator(cpu=True)
    o = optimizer(prepared)
    schedule = torch.optim.lr_scheduler.LambdaLR(o, lambda i: .5**i)
    model, o, schedule = accelerator.prepare(prepared, o, schedule)
    for i in range(3):
        for group, lr in zip(plain.param_groups, (.01, .03)): group["lr"] = lr*.5**i
        alone.zero_grad()
        loss(alone, i).backward()
        plain.step()
        o.zero_grad()
        accelerator.backward(loss(model, i))
        o.step()
        schedule.step()
    assert torch.equal(weights(alone), weights(prepared))


def test_closure_and_empty_groups():
    model = net()
    o = MuonAdamW(muon_groups(model.parameters(), [], .01))
    assert len(o.param_groups) == 1 and not o.param_groups[0]["use_muon"]
    before = weights(model)
    def closure():
        o.zero_grad()
        value = loss(model, 0)
        value.backward()
        return value
    assert o.step(closure).item() > 0 and not torch.equal(weights(model), before)


def test_groups_or_parameters_and_matrices():
    one, two = net(), net()
    named, grouped = optimizer(one), MuonAdamW(muon_groups(two.parameters(), matrices(two), .03, .01), weight_decay=.01)
    for a, b in zip(named.param_groups, grouped.param_groups):
        assert len(a["params"]) == len(b["params"]) > 5
        assert (a["use_muon"], a["lr"]) == (b["use_muon"], b["lr"])
    assert [g["lr"] for g in MuonAdamW(one.parameters(), matrices(one), .03).param_groups] == [.03, .03]
    assert MuonAdamW(one.parameters(), lr=.5).param_groups[0]["lr"] == .5


def test_vectors_are_refused():
    vector = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match="use_muon=False"): MuonAdamW([dict(params=[vector], use_muon=True)])


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (3, 8, 20), (2, 3, 20, 8)])
def test_newton_schulz_evens_singular_values(shape):
    torch.manual_seed(1)
    g = torch.randn(shape)
    values = torch.linalg.svdvals(newton_schulz(g))
    assert newton_schulz(g).shape == shape and values.min() > .5 and values.max() < 1.3
    torch.testing.assert_close(newton_schulz(1e-3*g), newton_schulz(g), atol=1e-3, rtol=0)
    if len(shape) == 2: torch.testing.assert_close(newton_schulz(g), one_by_one(g), atol=1e-5, rtol=0)


def test_freed_memory_is_kept_where_glibc_is(monkeypatch):
    monkeypatch.setattr(optim.sys, "platform", "darwin")
    assert keep_freed_memory() is False
    class Refuses:
        def __init__(self, name): raise OSError(name)
    monkeypatch.setattr(optim.sys, "platform", "linux")
    monkeypatch.setattr(optim.ctypes, "CDLL", Refuses)
    assert keep_freed_memory() is False
