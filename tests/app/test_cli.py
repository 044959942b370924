"""The command line: whatever is typed, a command refuses with one sentence and exit code 2 before any work starts, or
does it."""
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from damage import PROPERTY
from hypothesis import given, strategies as st
from shotstream.app import cli
from shotstream.app.cli import main
from shotstream.model.files import LINE, SCREEN

GOOD = {"caption": "a red ball with a hat in the forest by day.",
        "shots": [{"caption": "close up: the ball waves.", "frames": 5}]}


def said(capsys, *args):
    "Exit code and what is said; never a traceback"
    code = 0
    try: main([str(a) for a in args])
    except SystemExit as e: code = e.code
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


@pytest.fixture
def story(tmp_path):
    path = tmp_path/"a.json"
    path.write_text(json.dumps(GOOD))
    return path


REFUSED = ["story a.json --seed -1", "story a.json --seed x", "story a.json --seed 4294967296",
           "story a.json --teacher --steps 0",
           "story a.json -o film.gif", "story a.json -o /dev/null/x.mp4", "story a.json --device gpu",
           "story a.json --device cuda:x",
           "train toy --minutes inf", "train toy --minutes nan", "train toy --minutes -1",
           "train toy --minutes 1 --steps 1",
           "train toy --steps 0", "train toy --processes 0", "train toy --seed -1", "train toy --folder a.json",
           "train tea",
           "evaluate -n 3", "evaluate --steps 5", "bench --shots 3", "bench --suite gpu --latents 22",
           "bench --latents 5",
           "bench --suite cpu --attention math", "bench --suite cpu --try fp8", "bench --suite train --shots 20",
           "bench -o .",
           "plan --window -5", "plan --window 2", "plan --window x", "prepare . -o out --threshold nan",
           "prepare . -o out --fps 0",
           "prepare . -o out --fps nan", "prepare . -o out --size 31x48", "prepare . -o out --size x",
           "prepare nowhere -o out",
           "prepare . -o .", "prepare . -o out --latents toy --size 90x160", "convert a.json b --scale nan",
           "convert a.json b --head-dim 0",
           "convert nowhere b", "dance", "", "words --nothing",
           "ablate table2", "ablate table3 --minutes 1 --steps 1", "ablate table3 --steps 1 --rows forth",
           "ablate table3 --steps 1 --base nowhere", "ablate table1_free --minutes 3",
           "ablate table3_switched --steps 2",
           "ablate table4_switched --base nowhere", "ablate table1_free --seeds 0"]


@pytest.mark.parametrize("line", REFUSED)
def test_bad_options_are_refused_before_any_work(line, story, capsys, monkeypatch):
    monkeypatch.chdir(story.parent)
    code, out, err = said(capsys, *line.split())
    assert code == 2 and out == "" and err.startswith("shotstream: ") and len(err.splitlines()) == 1, err
    assert {p.name for p in story.parent.iterdir()} <= {"a.json"}


OPTIONS = ["--seed", "--steps", "--minutes", "--fps", "--threshold", "--size", "--window", "--latents", "--shots", "-n",
           "--scale",
           "--head-dim", "--processes", "--device", "--teacher", "-o", "--to", "--try", "--suite", "--published"]
VALUES = st.sampled_from(["0", "-1", "1e999", "nan", "inf", "", " ", "1_0", "٣", "0x10", "9"*5000, "1.5", "31x48",
                          "cpu", "\ud800", "\x1b[31m",
                          "a\nb"]) | st.text(max_size=8)


@PROPERTY
@given(st.sampled_from(["story", "train", "evaluate", "bench", "plan", "prepare", "convert", "ablate", "samples",
                        "words"]),
       st.lists(st.tuples(st.sampled_from(OPTIONS), VALUES), max_size=4), st.lists(VALUES, max_size=2))
def test_any_options_are_read_or_refused(command, options, more):
    "The work itself is not done here: `run` would start it"
    err, before = io.StringIO(), sys.stderr
    sys.stderr = err
    try: args = cli.parser().parse_args([command, *[x for o in options for x in o], *more])
    except SystemExit as e:
        assert e.code in (0, 2)
        lines = err.getvalue().splitlines()
        assert e.code == 0 or (len(lines) <= SCREEN+2 and all(x.isprintable() and len(x) < LINE+20 for x in lines))
        return
    finally: sys.stderr = before
    for name in ("minutes", "fps", "threshold", "scale"):
        assert getattr(args, name, None) is None or np.isfinite(getattr(args, name))
    for name in ("seed", "steps", "n", "window", "shots", "processes"):
        assert getattr(args, name, None) is None or (isinstance(getattr(args, name), int) and getattr(args, name) >= 0)


class Pipe:
    "A pipeline that films grey at once"
    is_toy = True
    def to(self, device): return self
    def read(self, story):
        from shotstream.data.script import load_script
        return story if not isinstance(story, str) else load_script(story)
    def __call__(self, script, **options):
        import torch
        from shotstream.generate.pipeline import Film
        Pipe.filmed = script
        return Film([torch.full((s.frames, 16, 16, 3), 90, dtype=torch.uint8) for s in script.shots], script, [0.], .1)


@pytest.fixture
def grey(monkeypatch):
    from shotstream.generate.pipeline import ShotStreamPipeline
    monkeypatch.setattr(ShotStreamPipeline, "from_pretrained", lambda *a, **k: Pipe())


def test_a_console_that_cannot_print_a_title_still_films(story, tmp_path, grey, monkeypatch):
    story.write_text(json.dumps(GOOD | {"title": "红球 \x1b[31m"}), encoding="utf-8")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for _ in range(2))
    with monkeypatch.context() as m:
        m.setattr(sys, "stdout", out); m.setattr(sys, "stderr", err)
        assert main(["story", str(story), "-o", str(tmp_path/"电影.mp4")]) == 0
    assert (tmp_path/"电影.mp4").exists() and (tmp_path/"电影.png").exists()
    out.flush(); err.flush()
    text = (out.buffer.getvalue() + err.buffer.getvalue()).decode("cp1252")
    assert r"\u7ea2\u7403" in text and "\x1b" not in text and "Film: " in out.buffer.getvalue().decode("cp1252")


def test_targets_are_checked_before_filming(story, tmp_path, grey, capsys):
    "The picture's, too"
    (tmp_path/"a.png").mkdir()
    Pipe.filmed = None
    code, _, err = said(capsys, "story", story, "-o", tmp_path/"a.mp4")
    assert code == 2 and "a.png is a folder" in err and Pipe.filmed is None and not (tmp_path/"a.mp4").exists()


def test_published_files_from_the_command_line(story, tmp_path, grey, capsys):
    story.write_text('{"global_caption": "G. ", "shot1": " One."}')
    for option, wanted in (((), ("G.", "One.", 33)), (("--published",), ("G. ", " One.", 81))):
        assert said(capsys, "story", story, "-o", tmp_path/"a.mp4", *option)[0] == 0
        assert (Pipe.filmed.caption, Pipe.filmed.shots[0].caption, Pipe.filmed.shots[0].frames) == wanted


def test_prepare_says_by_its_exit_code_what_became_of_the_films(tmp_path, capsys):
    pytest.importorskip("scenedetect")
    from shotstream.data.video import write_video
    (tmp_path/"raw").mkdir()
    run = ("prepare", tmp_path/"raw", "-o", tmp_path/"out", "--size", "16x16")
    (tmp_path/"raw"/"bad.mp4").write_text("no film")
    assert said(capsys, *run)[0] == 2                                  # nothing could be used
    write_video(tmp_path/"raw"/"a.mp4", np.zeros((12, 16, 16, 3), np.uint8))
    (tmp_path/"raw"/"a.txt").write_text("the story.\nthe shot.")
    code, out, _ = said(capsys, *run)
    assert code == 1 and "1 films prepared" in out and "bad.mp4: not a film" in out
    (tmp_path/"raw"/"bad.mp4").unlink()
    assert said(capsys, *run)[0] == 0


def test_answers_are_printed_and_messages_are_not():
    env = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-m", "shotstream", "words"], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "forest" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("pipe, options, says", [
    (dict(is_toy=False, teacher=None), "", "only films of the toy world can be judged"),
    (dict(is_toy=True, teacher=None), "--teacher", "there is none in mine")])
def test_what_cannot_be_judged_is_said_before_any_film(capsys, monkeypatch, pipe, options, says):
    monkeypatch.setattr("shotstream.generate.pipeline.ShotStreamPipeline.from_pretrained",
                        lambda *a, **k: SimpleNamespace(**pipe))
    code, out, err = said(capsys, "evaluate", "--model", "mine", "-n", 16, *options.split())
    assert code == 2 and says in err and not out
