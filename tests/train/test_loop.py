"""The training loop where a notebook cannot go: signals, dead processes, full disks."""
import os
import select
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from shotstream.train import loop
from shotstream.train.loop import Trainer

SCRIPT = '''
import sys, time, torch
from torch import nn
from shotstream.train.loop import *
class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(3, 3)
    def forward(self, draw):
        time.sleep(float(sys.argv[3]))
        x = torch.randn(8, 3, generator=draw.own)
        return (self.model(x) - x.roll(1, 1)).pow(2).mean(), {}
class Roll(Stage):
    name = "roll"
    def __init__(self):
        loss = Loss()
        self.players = dict(model=Player(loss, torch.optim.AdamW(loss.parameters(), lr=1e-2)))
accelerator, machine = start_machine("cpu", precision="fp32", compiles=False)
try: Trainer(Roll(), sys.argv[1], accelerator, machine, steps=int(sys.argv[2]), every=.2).run()
except TrainingStopped as e: sys.exit(str(e))
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    file = tmp_path_factory.mktemp("script")/"run.py"
    file.write_text(SCRIPT)
    return file


@pytest.fixture(scope="module")
def unbroken(script):
    "Folder of 40 steps in one sitting"
    folder = script.parent/"whole"
    subprocess.run([sys.executable, script, folder, "40", "0"], check=True, capture_output=True)
    return folder


def weights(folder):
    return torch.load(folder/"state.pt", weights_only=True)["players"]["model"]["weights"]["model.weight"]


def wait_for(path, seconds=60):
    end = time.time() + seconds
    while not path.exists():
        assert time.time() < end, f"{path} never came"
        time.sleep(.05)


@pytest.mark.parametrize("kill", (signal.SIGTERM, signal.SIGINT, signal.SIGKILL), ids=lambda s: s.name)
def test_a_stopped_run_ends_as_an_unbroken_one(script, unbroken, tmp_path, kill):
    "Bit for bit; and whoever can, says how to go on"
    p = subprocess.Popen([sys.executable, script, tmp_path/"broken", "40", ".1"], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path/"broken"/"state.pt")
    p.send_signal(kill)
    said = p.communicate(timeout=60)[1]
    assert p.returncode != 0 and not (tmp_path/"broken"/"done").exists()
    if kill != signal.SIGKILL: assert "the same command goes on from there" in said
    subprocess.run([sys.executable, script, tmp_path/"broken", "40", "0"], check=True, capture_output=True)
    assert torch.equal(weights(unbroken), weights(tmp_path/"broken"))


def test_a_dead_process_ends_the_run(script, tmp_path):
    "Within 30 seconds and with a sentence; what was saved is whole"
    call = (f"from shotstream.train.loop import in_processes; in_processes(2, {str(script)!r}, "
            f"{str(tmp_path/'run')!r}, 100000, .05)")
    p = subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         env=os.environ | {"OMP_NUM_THREADS": "1"})
    wait_for(tmp_path/"run"/"state.pt", 90)
    children = subprocess.run(["pgrep", "-f", f"{script} {tmp_path/'run'}"], capture_output=True,
                              text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    began = time.time()
    said = p.communicate(timeout=60)[1]
    assert time.time() - began < 30 and "TrainingFailed: process" in said and "the last checkpoint is whole" in said
    assert loop.load_checkpoint(tmp_path/"run"/"state.pt")["step"] > 0


def test_two_processes_learn_the_same(script, tmp_path):
    "Gradients are averaged: with both processes the step is one of both batches"
    loop.in_processes(2, script, tmp_path/"two", 3, 0)
    subprocess.run([sys.executable, script, tmp_path/"one", "3", "0"], check=True, capture_output=True)
    assert not torch.equal(weights(tmp_path/"one"), weights(tmp_path/"two"))
    state = loop.load_checkpoint(tmp_path/"two"/"state.pt")
    assert state["step"] == 3 and state["processes"] == 2


def test_a_small_disk_is_said_first(tmp_path, monkeypatch):
    import shutil
    from types import SimpleNamespace
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    players = dict(model=SimpleNamespace(loss=torch.nn.Linear(100, 100)))
    with pytest.raises(loop.TrainingFailed, match="free some, or choose another folder"):
        loop.check_disk(tmp_path, players)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_launcher_takes_its_workers_along(monkeypatch):
    "kill -9 of the launcher: nobody is there to stop the workers, so they look themselves"
    ends, out = os.pipe()
    if not (launcher := os.fork()):                       # no torch here, so that the processes are small and quick
        os.environ[loop.LAUNCHER] = str(os.getpid())
        if not os.fork():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            loop.follow_launcher(.02)
            os.write(out, b"following")
            time.sleep(60)
            os._exit(0)
        os.close(out)
        time.sleep(60)
        os._exit(0)
    os.close(out)
    assert os.read(ends, 9) == b"following"
    time.sleep(.1)
    assert not select.select([ends], [], [], 0)[0]        # the worker works
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    assert select.select([ends], [], [], 10)[0] and os.read(ends, 9) == b""          # it has ended


def test_every_worker_follows_its_launcher(script, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(loop, "follow_launcher", lambda: called.append(1))
    loop.start_machine("cpu", precision="fp32", compiles=False)
    assert called == [1]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows")
@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_ends_a_run_as_ctrl_c_does(nohup):
    "Unless somebody started it with `nohup`"
    trainer = SimpleNamespace(signal=None, machine=SimpleNamespace(processes=1))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else lambda *_: None)
    try:
        with Trainer.listening(trainer): os.kill(os.getpid(), signal.SIGHUP)
        assert trainer.signal == (None if nohup else signal.SIGHUP)
        assert (signal.getsignal(signal.SIGHUP) == signal.SIG_IGN) == nohup
    finally: signal.signal(signal.SIGHUP, before)
