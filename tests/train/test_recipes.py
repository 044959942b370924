"""The whole toy, very small: every stage runs, leaves what the next one takes, and a run that was stopped goes on."""
import json
import random
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import load_file, save_file

from shotstream import ShotStreamPipeline
from shotstream.app.cli import main
from shotstream.evaluate import make_toy
from shotstream.evaluate.make_toy import MAKERS, filming_settings, make_pipeline
from shotstream.model.files import InputError
from shotstream.toy.latents import LatentDataset
from shotstream.toy.networks import ASSETS, toy_text_encoder
from shotstream.toy.probe import ProbeLoss
from shotstream.toy.vae import ToyVAE
from shotstream.toy.vocabulary import toy_tokenizer
from shotstream.toy.world import draw_story
from shotstream.train.recipes import SHARES, ToyRun, write_origin
from shotstream.generate.pipeline import PUBLISHED, PUBLISHED_TRAINING
from shotstream.generate.teacher import TOY_TRAINING
from shotstream.model.flow import bell_weight
from shotstream.train import loop, recipes, stages
from shotstream.train.loop import Draw, Machine, Trainer
from shotstream.train.stages import (
    SIZES, Models, NextShotLoss, SelfForcingStage, TeacherStage, TrueHistory, exit_step)

TRAIN = ["train", "toy", "--steps", "2", "--size", "tiny", "--device", "cpu", "--folder"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    "Made in two sittings: the first is stopped in the middle of stage 2"
    folder, run = tmp_path_factory.mktemp("toy"), Trainer.run
    def stopped(self, max_steps=None): return run(self, 1 if self.stage.name == "stage2" else max_steps)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(stages, "WATCHED", 4)
        m.setattr(Trainer, "run", stopped)
        with pytest.raises(SystemExit): main([*TRAIN, str(folder)])
        assert (folder/"stage1"/"done").exists() and not (folder/"stage2"/"done").exists()
        m.setattr(Trainer, "run", run)
        main([*TRAIN, str(folder)])
    return folder


def test_every_stage_is_done(toy):
    assert {p.parent.name for p in toy.glob("*/done")} == set(MAKERS) - {"pipeline"}
    assert abs(sum(SHARES.values()) - 1) < 1e-9
    weights = [load_file(toy/name/"transformer"/"diffusion_pytorch_model.safetensors")
               for name in ("base", "teacher", "ode", "stage1", "stage2")]
    for before, after in zip(weights, weights[1:]):
        assert before.keys() == after.keys() and any(not torch.equal(before[k], after[k]) for k in before)
    # the base went on from the text encoder that had read: two small steps away, not a new one
    read, base, other = (load_file(f)["shared.weight"] for f in (
        *(toy/name/"text_encoder"/"model.safetensors" for name in ("text", "base")),
        ASSETS/"toy"/"text_encoder"/"model.safetensors"))
    assert 0 < (base - read).abs().max() < .05 and (other.float() - read).abs().max() > .5
    one, two = (load_file(toy/name/"vae"/"diffusion_pytorch_model.safetensors") for name in ("refit", "pipeline"))
    assert all(torch.equal(one[k].half(), two[k]) for k in one)


def test_it_films(toy):
    pipe = ShotStreamPipeline.from_pretrained(toy/"pipeline")
    film = pipe({"caption": "a red ball with a hat in the forest by day.",
                 "shots": [dict(caption="wide shot: the ball waves.", frames=9)]*2})
    assert [len(s) for s in film.shots] == [9, 9] and pipe.transformer.config.patch_size == [1, 1, 1]
    for name, stage in (("transformer", "stage2"), ("teacher", "teacher")):
        weights = load_file(toy/stage/"transformer"/"diffusion_pytorch_model.safetensors")
        assert all(torch.equal(v.half().float(), weights[k].half().float()) for k,
                   v in getattr(pipe, name).state_dict().items())


def test_the_card_says_what_was_measured(toy):
    card = json.loads((toy/"pipeline"/"card.json").read_text())
    assert card["stages"]["stage2"]["steps"] == 2 and {"student", "teacher"} <= card["scores"].keys()
    assert "less_control" in card["scores"]["student"] and (toy/"student.png").exists()


def test_done_is_done(toy, capsys):
    "The same command again trains nothing; a stage alone, before the one it needs, says so"
    before = {p: p.stat().st_mtime_ns for p in toy.rglob("*.safetensors")}
    main([*TRAIN, str(toy)])
    assert {p: p.stat().st_mtime_ns for p in toy.rglob("*.safetensors")} == before
    with pytest.raises(SystemExit):
        main(["train", "ode", "--steps", "1", "--size", "tiny", "--device", "cpu", "--folder", str(toy/"elsewhere")])
    assert "ode comes after text" in capsys.readouterr().err


@pytest.mark.parametrize("wrong, said",
                         ((["--minutes", "1", "--steps", "1"], "not both"), (["--minutes", "-1"], "more than 0"),
                          (["--device", "tpu"], "cpu or cuda")))
def test_wrong_options(wrong, said, capsys):
    with pytest.raises(SystemExit): main(["train", "toy", *wrong])
    assert said in capsys.readouterr().err




def test_curves_for_tensorboard(tmp_path, monkeypatch, capsys):
    "Every number of the log is handed over; without TensorBoard the command says so before it trains"
    curves = []
    class Writer:
        def __init__(self, folder): self.folder = folder
        def add_scalar(self, name, value, step): curves.append((self.folder.parts[-2:], name, value, step))
    monkeypatch.setattr(loop, "summary_writer", lambda folder: Writer(folder/"tensorboard"))
    run = ["train", "text", "--steps", "2", "--size", "tiny", "--device", "cpu", "--tensorboard", "--folder"]
    monkeypatch.setattr(loop, "find_spec", lambda name: None)
    with pytest.raises(SystemExit): main([*run, str(tmp_path/"none")])
    assert "pip install tensorboard" in capsys.readouterr().err and not (tmp_path/"none").exists() and not curves
    monkeypatch.setattr(loop, "find_spec", lambda name: object())
    main([*run, str(tmp_path)])
    log = json.loads((tmp_path/"text"/"log.json").read_text())
    assert curves == [(("text", "tensorboard"), k, v, row["step"]) for row in log for k, v in row.items()]
    assert {"colour", "place", "text"} <= {name for _, name, *_ in curves}


def test_single_shots_now_and_then():
    "Of three batches of the teacher the last has no past; also there every parameter gets a gradient, as DDP wants it"
    vae, tokenizer = ToyVAE.from_pretrained(ASSETS/"toy"/"vae").float(), toy_tokenizer()
    data = LatentDataset(vae, tokenizer, shard_size=2)
    data.stories_of = lambda i: [draw_story(2*i + j, n_shots=3, frames=81) for j in range(2)]
    data.add(2)
    model = SIZES["tiny"].transformer()
    loss = NextShotLoss(model, toy_text_encoder(len(tokenizer)), data, torch.ones(32, 1, 1), 24, ProbeLoss(model),
                        lengths=((3,), (3,)))
    def draw(step): return Draw(step, .5, random.Random(step), *(torch.Generator().manual_seed(step) for _ in range(2)))
    past = [loss.batch(draw(step)).context.shape[1] for step in range(6)]
    assert past == [6, 6, 0, 6, 6, 0]
    loss(draw(2))[0].backward()
    assert all(p.grad is not None and not p.grad.any() for p in loss.probe.parameters())
    loss.singles = 0
    assert loss.batch(draw(2)).context.shape[1] == 6
    ahead = NextShotLoss(model, loss.text_encoder, data, loss.weight, 24, lengths=((3,), (3,)), ahead=4)
    past = []
    for step in range(12): past.append(ahead.next_batch(draw(step)).context.shape[1])
    assert past == [6]*8 + [0]*4


def test_options_of_training_are_obeyed(monkeypatch):
    "Every loss gets them whole; published: a bell over noise levels; the exit step is one of the student's"
    vae, tokenizer = ToyVAE.from_pretrained(ASSETS/"toy"/"vae").float(), toy_tokenizer()
    data = LatentDataset(vae, tokenizer, shard_size=2)
    data.stories_of = lambda i: [draw_story(2*i + j, n_shots=3, frames=81) for j in range(2)]
    data.add(2)
    models = Models(vae, toy_text_encoder(len(tokenizer)), tokenizer, SIZES["tiny"].transformer())
    monkeypatch.setattr(stages, "validation_examples", lambda m, n: None)
    monkeypatch.setattr(stages, "Screening", lambda *a: a)
    machine, seen = Machine(torch.device("cpu"), "fp32", False), []
    def loss_of(model, condition, x0, sigma, sampling, noise=None, weight=1.):
        seen.append((sampling, sigma, condition[0].shape[1]))
        return torch.ones(len(x0), requires_grad=True)
    monkeypatch.setattr(stages, "teacher_loss", loss_of)
    monkeypatch.setattr(stages.ProbeLoss, "forward", lambda self, *a: (torch.zeros(()), torch.zeros(())))
    def draw(step): return Draw(step, .5, random.Random(step), *(torch.Generator().manual_seed(step) for _ in range(2)))
    for options, published in ((TOY_TRAINING, False), (PUBLISHED_TRAINING, True)):
        stage = TeacherStage("teacher", models, data, SIZES["tiny"], machine, options=options)
        loss = stage.players["teacher"].loss(draw(0))[0]
        sampling, sigma, c = seen.pop()
        assert c == 6 and sampling is options.sampling
        bell = bell_weight(sigma, options.sampling.shift).mean() if published else torch.ones(())
        assert torch.allclose(loss, bell) and (bell != 1) == published
        source = TrueHistory(models, data, 2)
        stage = SelfForcingStage("stage1", models.teacher, models.teacher, models, source, machine, "", options=options)
        assert all(p.loss.options is options for p in stage.players.values()) and stage.screening[1] is options
        monkeypatch.setattr(stages, "rollout", lambda student, context, table, *a, **k: context[:, :1].expand(
            -1, len(table) - context.shape[1], -1, -1, -1))
        stage.players["critic"].loss(draw(1))
        assert seen.pop()[0] is options.sampling
    two = replace(TOY_TRAINING, sampling=replace(TOY_TRAINING.sampling, steps=2))
    assert {exit_step(draw(i), two) for i in range(30)} == {0, 1}
    assert {exit_step(draw(i), TOY_TRAINING) for i in range(60)} == {0, 1, 2, 3}


def test_every_stage_gets_the_options(monkeypatch, tmp_path):
    seen = []
    def recorder(name): return lambda *args, options=None, **more: seen.append((name, options))
    for name in ("TeacherStage", "OdeStage", "OwnHistory", "SelfForcingStage", "RefitStage"):
        monkeypatch.setattr(recipes, name, recorder(name))
    for name in ("fill", "take_over", "pairs_of", "TrueHistory", "load_transformer", "write_origin"):
        monkeypatch.setattr(recipes, name, MagicMock())
    monkeypatch.setattr(recipes, "Trainer", MagicMock())
    monkeypatch.setattr(recipes, "generate_ode_pairs", lambda *a, settings, **k: seen.append(("", settings.options)))
    class Run(ToyRun):
        done, train, network = (lambda self, name: False), (lambda self, stage, **more: None), MagicMock()
    run = Run(tmp_path, MagicMock(), MagicMock(), SIZES["tiny"], steps=1, models=MagicMock(),
              options=PUBLISHED_TRAINING)
    for name in ("pairs", "stage2"): (tmp_path/name).mkdir()
    (tmp_path/"stage2"/"done").write_text("1")
    for name in set(MAKERS) - {"text", "pipeline"}: MAKERS[name](run)
    assert len(seen) == 9 and sum(options is PUBLISHED_TRAINING for _, options in seen) == 8
    assert all(options.sampling is PUBLISHED_TRAINING.sampling for _, options in seen)   # pairs: shorter trajectories


def test_options_are_not_mixed(tmp_path):
    "A stage that was made with other options is refused; folders that do not say were made with the toy's"
    run = ToyRun(tmp_path, MagicMock(), None, SIZES["tiny"], options=PUBLISHED_TRAINING)
    note, toys = tmp_path/"base"/"made_from.json", replace(run, options=TOY_TRAINING)
    recipes.write_origin(run, "base")
    recipes.check_origin(run, "base")
    with pytest.raises(InputError, match="other options"): recipes.check_origin(toys, "base")
    note.write_text(json.dumps({k: v for k, v in json.loads(note.read_text()).items() if k != "options"}))
    recipes.check_origin(toys, "base")
    with pytest.raises(InputError, match="other options"): recipes.check_origin(run, "base")


def test_a_model_films_as_it_was_trained(pipe):
    toy, published = filming_settings(TOY_TRAINING), filming_settings(PUBLISHED_TRAINING)
    assert toy == {k: pipe.config[k] for k in toy} and published == {k: PUBLISHED[k] for k in published}
    assert pipe.sampling == TOY_TRAINING.sampling and pipe.teacher_guidance() == TOY_TRAINING.pair_guidance


@pytest.mark.parametrize("flags, options", [([], TOY_TRAINING), (["--published"], PUBLISHED_TRAINING)])
def test_published_on_the_command_line(flags, options, monkeypatch, tmp_path):
    runs = []
    monkeypatch.setattr(recipes, "start_toy", lambda folder, *a, **k: ToyRun(tmp_path, MagicMock(), None, None))
    monkeypatch.setattr(make_toy, "train_toy", lambda run, only: runs.append(run))
    main(["train", "toy", *flags, "--folder", str(tmp_path)])
    assert runs[0].options is options


def test_a_pipeline_of_other_weights_is_not_taken_for_this_one(tmp_path):
    "Stage 2 was trained anew: what was packed before is another model, and an old folder says nothing"
    run = SimpleNamespace(folder=tmp_path, accelerator=SimpleNamespace(is_main_process=True), options=TOY_TRAINING)
    for stage in ("teacher", "stage2", "control"):
        (tmp_path/stage).mkdir()
        save_file({"w": torch.ones(2)}, tmp_path/stage/"x.safetensors")
    (tmp_path/"pipeline").mkdir()
    (tmp_path/"pipeline"/"card.json").write_text("{}")
    make_pipeline(run)
    assert not (tmp_path/"pipeline"/"made_from.json").exists()
    write_origin(run, "pipeline")
    make_pipeline(run)
    save_file({"w": torch.zeros(2)}, tmp_path/"stage2"/"x.safetensors")
    with pytest.raises(InputError, match="pipeline: made from another stage2 .* delete it"): make_pipeline(run)
