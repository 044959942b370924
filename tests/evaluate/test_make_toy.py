"""The order of the whole toy: what is made, what is taken over, and what stands on the card."""
import json
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_pipe

from shotstream import ShotStreamPipeline
from shotstream.evaluate import make_toy
from shotstream.evaluate.make_toy import (
    ALONE, MAKERS, evaluate_toy, make_pipeline, refitted, save_pipeline, stage_summary, train_toy)
from shotstream.generate.teacher import TOY_SAMPLING, TOY_TRAINING
from shotstream.toy.latents import codec_hash
from shotstream.toy.world import world_hash


@pytest.fixture
def run(tmp_path, monkeypatch):
    "A run whose stages only write down that they were made"
    run = SimpleNamespace(folder=tmp_path, calls=[], finished=set(), progress=True,
                          accelerator=SimpleNamespace(is_main_process=True))
    def maker(name): return lambda run: (run.calls.append(name), run.finished.add(name))
    for table in (MAKERS, ALONE):
        for name in table: monkeypatch.setitem(table, name, maker(name))
    monkeypatch.setattr(make_toy, "take_over", lambda run, name: run.calls.append(f"over {name}"))
    run.done = lambda name: name in run.finished
    return run


def test_everything_in_its_order(run):
    assert train_toy(run) == run.folder/"pipeline" and run.calls == list(MAKERS)
    assert list(MAKERS) == "text base teacher pairs ode stage1 stage2 control refit pipeline".split()


def test_one_stage_takes_over_what_came_before(run):
    with pytest.raises(ValueError, match="teacher comes after text, and .* has no text: .*train text"):
        train_toy(run, "teacher")
    assert not run.calls
    run.finished |= {"text", "base"}
    train_toy(run, "teacher")
    assert run.calls == ["over text", "over base", "teacher"]                 # and nothing behind it
    run.calls.clear()
    train_toy(run, "codec")
    assert run.calls == ["codec"]


def test_what_is_kept_is_said(run, capsys):
    train_toy(run, "text")
    assert not capsys.readouterr().out
    (run.folder/"text").mkdir()
    (run.folder/"pipeline").mkdir()
    (run.folder/"pipeline"/"card.json").write_text("{}")
    train_toy(run)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["text", "pipeline"] and all("delete" in line for line in said)


def test_a_stage_in_a_few_numbers(tmp_path):
    (tmp_path/"done").write_text("120")
    assert stage_summary(tmp_path) == dict(count=120)
    log = [dict(step=5, minutes=.1), dict(step=10, minutes=.2, loss=3.)]
    (tmp_path/"log.json").write_text(json.dumps(log))
    assert stage_summary(tmp_path) == dict(steps=10, minutes=.2, last=log[1])


def test_the_decoder_of_the_refit_if_there_is_one(tmp_path):
    pipe = tiny_pipe()
    run = SimpleNamespace(folder=tmp_path, models=SimpleNamespace(vae=pipe.vae),
                          machine=SimpleNamespace(device=torch.device("cpu")))
    assert refitted(run) is pipe.vae
    other = tiny_pipe().vae
    other.decoder.linear.bias += 1
    other.half().save_pretrained(tmp_path/"refit"/"vae")
    found = refitted(run)
    assert found.dtype == torch.float32 and torch.equal(found.decoder.linear.bias, other.decoder.linear.bias.float())


def test_half_on_disk_whole_in_memory(tmp_path):
    pipe = tiny_pipe()
    before = {n: p.clone() for n, p in pipe.teacher.named_parameters()}
    save_pipeline(pipe, tmp_path)
    assert all(torch.equal(p, before[n]) and p.dtype == torch.float32 for n, p in pipe.teacher.named_parameters())
    again = ShotStreamPipeline.from_pretrained(tmp_path, torch.float16)
    assert again.transformer.proj_out.weight.dtype == torch.float16
    for name in ("transformer", "teacher"):
        ours, theirs = (getattr(p, name).proj_out.weight for p in (pipe, again))
        assert torch.equal(ours.half(), theirs)
    assert not torch.equal(again.teacher.proj_out.weight, again.transformer.proj_out.weight)


def made_run(tmp_path, pipe, main=True):
    for name in ("text", "stage2"):
        (tmp_path/name).mkdir()
        (tmp_path/name/"done").write_text("3")
    (tmp_path/"control").mkdir()                                              # begun, not done
    return SimpleNamespace(
        folder=tmp_path, models=SimpleNamespace(**{n: getattr(pipe, n) for n in ("vae", "text_encoder", "tokenizer",
                                                                                 "teacher")}),
        accelerator=SimpleNamespace(is_main_process=main), network=lambda name: getattr(pipe, dict(
            stage2="transformer", control="teacher")[name]),
        size=SimpleNamespace(heads=1), minutes=7, seed=3, steps=1, progress=False, options=TOY_TRAINING,
        machine=SimpleNamespace(device=torch.device("cpu")))


def test_a_card_is_written_last_and_once(tmp_path, monkeypatch):
    pipe, evaluated = tiny_pipe(), []
    def evaluate(run, made):
        assert not (run.folder/"pipeline"/"card.json").exists()
        evaluated.append(made)
        film = [torch.zeros(5, 8, 8, 3, dtype=torch.uint8)]
        return dict(student=dict(a=1), teacher=dict(a=2), films=dict(student=film, teacher=film))
    monkeypatch.setattr(make_toy, "evaluate_toy", evaluate)
    run = made_run(tmp_path, pipe)
    other = SimpleNamespace(**vars(run) | dict(accelerator=SimpleNamespace(is_main_process=False)))
    make_pipeline(other)
    assert not (tmp_path/"pipeline").exists()
    make_pipeline(run)
    assert evaluated[0].transformer is pipe.transformer and evaluated[0].teacher is pipe.teacher
    card = json.loads((tmp_path/"pipeline"/"card.json").read_text())
    assert card["world"] == world_hash() and card["codec"] == codec_hash(pipe.vae)
    assert card["scores"] == dict(student=dict(a=1), teacher=dict(a=2)) and card["minutes"] == 7
    assert card["stages"] == dict(text=dict(count=3), stage2=dict(count=3))
    assert (tmp_path/"student.png").exists() and (tmp_path/"teacher.png").exists()
    make_pipeline(run)
    assert len(evaluated) == 1


def test_both_are_evaluated_each_as_it_films(tmp_path, monkeypatch):
    "The student against the control; the teacher against nothing, in two steps when it is a rehearsal"
    pipe, asked = tiny_pipe(), []
    monkeypatch.setattr(make_toy, "by_student", lambda model, sampling: ("student", model, sampling))
    monkeypatch.setattr(make_toy, "by_teacher", lambda model, sampling, guidance: ("teacher", model, sampling))
    monkeypatch.setattr(make_toy, "replace", lambda o, **new: new if "vae" in new else type(o)(**vars(o) | new))
    def evaluate(film, models, n, control, options):
        asked.append((film, n, control, options.batch))
        return len(asked)
    monkeypatch.setattr(make_toy, "evaluate_model", evaluate)
    films = []
    class Pipe:
        (vae, text_encoder, tokenizer, transformer, teacher, config, sampling,
         teacher_guidance) = (getattr(pipe, n) for n in (
            "vae", "text_encoder", "tokenizer", "transformer", "teacher", "config", "sampling", "teacher_guidance"))
        def __call__(self, story, teacher, **more):
            films.append((teacher, more))
            return SimpleNamespace(shots=[teacher])
    run = made_run(tmp_path, pipe)
    for steps, n, batch, teacher_steps in ((1, 8, 8, 2), (None, 256, 16, TOY_SAMPLING.steps)):
        asked.clear(), films.clear()
        run.steps = steps
        found = evaluate_toy(run, Pipe())
        student, teacher = asked
        control = ("student", pipe.teacher, pipe.sampling)
        assert student == (("student", pipe.transformer, pipe.sampling), n, control, batch)
        assert teacher[0][:2] == ("teacher", pipe.teacher) and teacher[0][2].steps == teacher_steps
        assert teacher[1:] == (n, None, batch)
        assert films == [(False, {}), (True, dict(steps=teacher_steps))]
        assert found == dict(student=1, teacher=2, films=dict(student=[False], teacher=[True]))
