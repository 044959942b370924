"""Every stage of the recipe, its evaluation and its film, on a device that is not the CPU: see `elsewhere`."""
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import _disable_current_modes
from elsewhere import Elsewhere, Far

from shotstream import ShotStreamPipeline
from shotstream.evaluate.exam import by_student, by_teacher, diversity, drift, run_evaluation
from shotstream.generate.teacher import TOY_GUIDANCE, TOY_SAMPLING, TOY_TRAINING
from shotstream.toy.classifier import AttributeClassifier
from shotstream.toy.latents import LatentDataset, encode_story
from shotstream.toy.networks import ASSETS, toy_text_encoder
from shotstream.toy.vae import ToyVAE
from shotstream.toy.vocabulary import toy_tokenizer
from shotstream.toy.world import draw_story
from shotstream.train import stages
from shotstream.train.loop import Machine, Trainer
from shotstream.train.stages import (
    Models, OdePairs, OdeStage, OwnHistory, PairSettings, RefitStage, SelfForcingStage, TeacherStage, TextStage,
    ToySize, TrueHistory, copy_of, generate_ode_pairs)

ELSEWHERE = torch.device("meta")
SIZE = ToySize(1, 4, 32, 24, 2)


def test_elsewhere_is_not_here():
    with Elsewhere():
        a = torch.arange(6.).to(ELSEWHERE)
        assert isinstance(a, Far) and a.device == ELSEWHERE and a.sum().item() == 15.
        with pytest.raises(RuntimeError, match="same device"): a + torch.ones(6)
        assert (a + torch.tensor(1.)).cpu().tolist() == [1., 2., 3., 4., 5., 6.]      # a number may come from here


def test_a_story_is_encoded_where_the_codec_is(models):
    "Frames are rendered here: only a GPU had seen that"
    with Elsewhere(), torch.no_grad():
        assert encode_story(models.vae, draw_story(0, n_shots=1, frames=5))["shots"].device == ELSEWHERE


class Plain(Machine):
    def autocast(self): return nullcontext()                 # PyTorch knows no other precision there


class OfAnyKind(type):
    def __instancecheck__(cls, x): return isinstance(x, torch._C.Generator)


class GeneratorHere(metaclass=OfAnyKind):
    "There are none elsewhere; numbers drawn there come from one that is here"
    def __new__(cls, device="cpu"): return torch._C.Generator("cpu")


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    vae = ToyVAE.from_pretrained(ASSETS/"toy"/"vae").float()
    classifier = AttributeClassifier.from_pretrained(ASSETS/"classifier").float()
    with Elsewhere():
        return Models(vae, toy_text_encoder(len(toy_tokenizer())), toy_tokenizer(), SIZE.transformer(),
                      classifier).frozen(ELSEWHERE)


@pytest.fixture(scope="module")
def data(models):
    with Elsewhere():
        data = LatentDataset(models.vae, models.tokenizer, shard_size=2)
        data.stories_of = lambda i: [draw_story(2*i + j, n_shots=3, frames=81) for j in range(2)]
        data.add(2)
        return data


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "Generator", GeneratorHere)
    monkeypatch.setattr(stages, "validation_examples", few_examples)
    for name in ("load_transformer", "load_text_encoder"):
        monkeypatch.setattr(stages, name, here(getattr(stages, name)))
    machine = Plain(ELSEWHERE, "fp32", False)
    def run(stage, steps=1):
        for group in (g for p in stage.players.values() for g in p.optimizer.param_groups): group["fused"] = False
        Trainer(stage, tmp_path/stage.name, Accelerator(cpu=True, device_placement=False), machine, steps=steps,
                progress=False).run()
        return tmp_path/stage.name
    run.machine = machine
    with Elsewhere(): yield run


def here(load):
    "Loading uses the empty \"meta\" itself"
    def outside(*args):
        with _disable_current_modes(): return load(*args)
    return outside


def few_examples(models, n, made=stages.validation_examples): return made(models, 3)


def test_text(models, train):
    folder = train(TextStage(models, train.machine, 3), 2)
    assert (folder/"done").exists() and (folder/"text_encoder").exists()


@pytest.mark.parametrize("name", ["base", "teacher"])
def test_teachers(models, data, train, tmp_path, name):
    start = None
    if name == "teacher":
        start = tmp_path/"start"
        SIZE.transformer().save_pretrained(start/"transformer")
        toy_text_encoder(len(models.tokenizer)).save_pretrained(start/"text_encoder")
    stage = TeacherStage(name, models, data, SIZE, train.machine, start)
    stage.players["teacher"].loss.lengths = ((1, 3), (3, 5))
    folder = train(stage, 2)
    assert (folder/"done").exists() and (folder/"transformer").exists()


def test_batches_made_ahead(models, data, train):
    stage = TeacherStage("base", models, data, SIZE, train.machine)
    stage.players["teacher"].loss.ahead = 3
    train(stage, 4)
    assert len(stage.players["teacher"].loss.waiting) == 2


def test_students(models, data, train, tmp_path):
    options = replace(TOY_TRAINING, pair_steps=2)
    generate_ode_pairs(tmp_path/"pairs", models, data, train.machine, pairs=2,
                       settings=PairSettings(2, options=options, progress=False))
    pairs = OdePairs(tmp_path/"pairs")                       # safetensors knows no such device
    pairs.batches = [{k: v.to(ELSEWHERE) for k, v in batch.items()} for batch in pairs.batches]
    train(OdeStage(models, pairs, train.machine, tmp_path/"ode"))
    sources = dict(stage1=TrueHistory(models, data, 2), stage2=OwnHistory(models, 2, ELSEWHERE, shots=2))
    for name, source in sources.items():
        folder = train(SelfForcingStage(name, copy_of(models.teacher), models.teacher, models, source, train.machine,
                                        tmp_path/name, pairs, lora=2*(name == "stage2"), critic_steps=1),
                       1 + (name == "stage2"))              # the second step has a past of its own
        assert (folder/"critic").exists()


def test_refit(models, data, train):
    assert (train(RefitStage(models, data, train.machine, 2))/"vae").exists()


def test_evaluation(models, train):
    film = by_student(models.teacher, replace(TOY_TRAINING.sampling, steps=1))
    found = run_evaluation(film, models, 2, batch=2, progress=False)
    assert found["looks"]["model"]["flat_share"].shape == found["own"]["body"].shape == (2,)
    slow = by_teacher(models.teacher, replace(TOY_SAMPLING, steps=1), TOY_GUIDANCE)
    assert len(run_evaluation(slow, models, 1, histories=("none",), progress=False)["none"]["body"]) == 1
    assert drift(film, models, 2, 2, 2)["films"].device == ELSEWHERE
    assert len(diversity(film, models, 2, batch=2)["films"]) == 2


def test_film(models, train):
    pipe = ShotStreamPipeline(models.vae, models.text_encoder, models.tokenizer, models.teacher, models.teacher)
    story = {"caption": "a red ball.", "shots": [dict(caption="the ball waves.", frames=5)]*2}
    for options in ({}, dict(teacher=True, steps=1)): assert [len(s) for s in pipe(story, **options).shots] == [5, 5]
