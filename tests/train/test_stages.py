"""What every stage asks its networks: the options of training reach each pass."""
import random
from dataclasses import replace
from functools import partial

import pytest
import torch

from shotstream.generate.teacher import TOY_TRAINING
from shotstream.model.transformer import ShotTransformer
from shotstream.toy.latents import LatentDataset
from shotstream.toy.networks import ASSETS, toy_text_encoder
from shotstream.toy.world import draw_story
from shotstream.train import stages
from shotstream.train.loop import Draw, Machine
from shotstream.train.stages import (
    OdePairs, OdeStage, OwnHistory, PairSettings, RefitStage, SelfForcingStage, TeacherStage, ToySize, TrueHistory,
    generate_ode_pairs, toy_models)

SIZE, CPU = ToySize(1, 4, 32, 24, 2), Machine(torch.device("cpu"), "fp32", False)
OPTIONS = replace(TOY_TRAINING, pair_steps=2, sampling=replace(TOY_TRAINING.sampling, phi=.3, context_time="target"))


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    models = replace(toy_models(ASSETS/"toy"/"text_encoder"), teacher=SIZE.transformer())
    models.text_encoder = toy_text_encoder(len(models.tokenizer))
    return models.frozen("cpu")


@pytest.fixture(scope="module")
def data(models):
    data = LatentDataset(models.vae, models.tokenizer, shard_size=2)
    data.stories_of = lambda i: [draw_story(2*i + j, n_shots=3, frames=81) for j in range(2)]
    data.add(2)
    return data


@pytest.fixture(scope="module")
def pairs(models, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    generate_ode_pairs(folder, models, data, CPU, pairs=1, settings=PairSettings(1, options=OPTIONS, progress=False))
    return OdePairs(folder)


@pytest.fixture
def seen(monkeypatch):
    "Of every pass: the phase jump, and the noise levels of its context"
    seen, angles, made = [], ShotTransformer.rope_angles, stages.validation_examples
    def spy(self, table, cache, rows, columns, phi):
        seen.append((phi, table.sigma[~table.target].tolist(), table.sigma[table.target].tolist()))
        return angles(self, table, cache, rows, columns, phi)
    monkeypatch.setattr(ShotTransformer, "rope_angles", spy)
    monkeypatch.setattr(stages, "validation_examples", lambda models, n: made(models, 2))
    monkeypatch.setattr(stages, "Screening", partial(stages.Screening, n=2))
    return seen


def draw(step): return Draw(step, .5, random.Random(step), *(torch.Generator().manual_seed(step) for _ in range(2)))


def stage_of(name, models, data, pairs, folder):
    if name in ("base", "teacher"): return TeacherStage(name, models, data, SIZE, CPU, options=OPTIONS)
    if name == "ode": return OdeStage(models, pairs, CPU, folder, options=OPTIONS)
    if name == "refit": return RefitStage(models, data, CPU, 2, options=OPTIONS)
    source = TrueHistory(models, data, 2) if name == "stage1" else OwnHistory(models, 2, "cpu", 2, OPTIONS)
    return SelfForcingStage(name, models.teacher, models.teacher, models, source, CPU, folder, pairs, options=OPTIONS)


@pytest.mark.parametrize("name", ["base", "teacher", "ode", "stage1", "stage2", "refit"])
def test_the_phase_jump_reaches_every_pass(name, models, data, pairs, seen, tmp_path):
    "Losses, films between steps and reports; a default anywhere would train another model than is asked for"
    stage = stage_of(name, models, data, pairs, tmp_path)
    for step in range(2):
        stage.begin(draw(step))
        for player in sorted(stage.players, reverse=True):               # the decoder before its critic
            assert stage.players[player].loss(draw(step))[0].isfinite()
    assert seen and {phi for phi, *_ in seen} == {.3}
    del seen[:]
    with torch.no_grad(): stage.report()
    assert seen and {phi for phi, *_ in seen} == {.3}


def test_trajectories_have_it_too(models, data, seen, tmp_path):
    generate_ode_pairs(tmp_path, models, data, CPU, pairs=1, settings=PairSettings(1, options=OPTIONS, progress=False))
    assert seen and {phi for phi, *_ in seen} == {.3}


@pytest.mark.parametrize("name", ["teacher", "refit"])
def test_the_context_time_reaches_reports_and_losses(name, models, data, pairs, seen, tmp_path):
    "Told the target's noise level: as many levels of context as of the target, and none is 0"
    stage = stage_of(name, models, data, pairs, tmp_path)
    stage.players["decoder" if name == "refit" else name].loss(draw(0))
    with torch.no_grad(): stage.report()
    assert all(set(context) <= set(target) and 0 not in context for _, context, target in seen)
