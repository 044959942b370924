"""What the training benchmark counts: operations, steps, and what passes through a transformer that learns."""
from types import SimpleNamespace

import pytest
import torch
from tiny import network, tiny_shot
from torch import nn

from shotstream.evaluate import bench_train
from shotstream.evaluate.bench_train import (
    FlopCount, count_step, counted_batches, flops_of, line_of, matmul_peak, time_stage, time_steps, train_suite)

CPU = SimpleNamespace(device=torch.device("cpu"), precision="fp32")


def test_multiplications_and_additions_forward_and_backward():
    a, b = torch.randn(3, 4), torch.randn(4, 5, requires_grad=True)
    with FlopCount() as forward: out = a @ b
    assert forward.flops == 2*3*4*5 and out.shape == (3, 5)
    trainer = SimpleNamespace(one_step=lambda: (a @ b).sum().backward())
    assert flops_of(trainer) == 2*2*3*4*5                                     # a itself learns nothing
    with FlopCount() as other: a + 1
    assert other.flops == 0


def test_the_fastest_product_counts(monkeypatch):
    "Products of 1, 2 and 3 seconds; the clock says when enough have run"
    marks = iter([0, 0, 10, 12, 12, 20, 21, 21, 30, 33, 100])                 # start, then looks and begins and ends
    monkeypatch.setattr(bench_train.time, "perf_counter", lambda: next(marks))
    assert matmul_peak(dtype=torch.float32, size=4, seconds=50.) == 2*4**3/1


def test_the_first_steps_are_not_timed():
    steps = []
    trainer = SimpleNamespace(machine=CPU, one_step=lambda: steps.append(1))
    assert len(time_steps(trainer, 0., warm=4)) == 3 and len(steps) == 7


class Loss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


def test_only_what_learns_is_counted():
    "Shots and their tokens, also of a `hidden_states` given by name; not without gradients, not captions"
    model, (_, table, text) = network(0), tiny_shot()
    x = torch.randn(2, 4, len(table), 4, 6)
    stage = SimpleNamespace(players=dict(a=SimpleNamespace(loss=Loss(model)),
                                         b=SimpleNamespace(loss=Loss(nn.Linear(2, 2)))))
    seen = counted_batches(stage)
    assert seen == dict(examples=0, tokens=0)
    two = type(table)(**{k: v.expand(2, -1) for k, v in vars(table).items()})
    text = text.expand(2, -1, -1, -1)
    model(x, None, text, table=two)
    assert seen == dict(examples=2, tokens=2*len(table)*(4//2)*(6//2))
    model(hidden_states=x, timestep=None, encoder_hidden_states=text, table=two)
    assert seen["examples"] == 4
    with torch.no_grad(): model(x, None, text, table=two)
    model.encode_text_kv(text)
    assert seen["examples"] == 4


def test_a_stage_is_counted_once_and_timed(monkeypatch, tmp_path):
    made = []
    class Trainer:
        machine = CPU
        def __init__(self, stage, folder, *args, steps, progress): made.append((folder, steps, progress))
        def one_step(self): torch.ones(2, 3) @ torch.ones(3, 4)
    monkeypatch.setattr(bench_train, "Trainer", Trainer)
    run = SimpleNamespace(accelerator=None, machine=CPU)
    count = count_step(run, SimpleNamespace(players={}), tmp_path)
    assert count == dict(examples=0, tokens=0, flops=2*2*3*4) and made == [(tmp_path, 10**6, False)]
    monkeypatch.setattr(bench_train, "time_steps", lambda trainer, seconds: [.5, 9., .25])
    row = time_stage(run, None, tmp_path, 1., dict(examples=3, tokens=60, flops=1))
    assert row == dict(seconds=.5, examples_per_s=6., tokens_per_s=120.)
    line = line_of("base", row | dict(share_of_peak=.125))
    assert line.split() == "base 500 ms a step 6.0 examples/s 120 tokens/s 12.5 % of the peak".split()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_share_is_counted_over_timed_over_the_peak(monkeypatch, precision):
    "Counted without compiling, timed as it is; each in a folder of its own"
    from shotstream.train.loop import Machine
    machine, folders, peaks = Machine(torch.device("cpu"), precision, True), [], []
    class Run(SimpleNamespace): pass
    run = Run(machine=machine, size=SimpleNamespace(heads=1))
    monkeypatch.setattr(bench_train, "start_toy", lambda *args, **options: run)
    monkeypatch.setattr(bench_train, "replace", lambda o, **new: type(o)(**{**vars(o), **new}))
    def peak(device, dtype):
        peaks.append(dtype)
        return 1000.
    monkeypatch.setattr(bench_train, "matmul_peak", peak)
    def stages(run, folder):
        folders.append(folder.name)
        return dict(base=run.machine.compiles)
    monkeypatch.setattr(bench_train, "training_stages", stages)
    def count(run, stage, folder):
        assert stage is False and run.machine.compiles is False
        return dict(examples=2, tokens=8, flops=500.)
    def timed(run, stage, folder, seconds, counts):
        assert stage is True and counts["flops"] == 500. and seconds == 20.
        return dict(seconds=2., examples_per_s=1., tokens_per_s=4.)
    monkeypatch.setattr(bench_train, "count_step", count)
    monkeypatch.setattr(bench_train, "time_stage", timed)
    said = []
    found = train_suite(progress=said.append)
    assert found["steps"]["base"]["share_of_peak"] == 500/2/1000 and found["steps"]["base"]["gflop"] == 500/1e9
    assert folders == ["a", "b"] and len(said) == 2
    assert peaks == [torch.bfloat16 if precision == "bf16" else torch.float32]
