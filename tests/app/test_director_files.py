"""A story on the disk: nothing that was filmed is lost, whatever happens to the folder, the disk, the process."""
import gc
import json
import os
import random
import runpy
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save, save_file

from shotstream import ShotStreamPipeline
from shotstream.app import director as module
from shotstream.app.director import Director, checksum, load_story, read_story
from shotstream.data.script import load_script, read_video
from shotstream.model.files import InputError, WriteError

ROOT = Path(__file__).parents[2]
CAPTION = "a red ball with a hat in the forest by day."
PROMPTS = ["wide shot: the ball waves.", "close up: the ball jumps.", "panning shot: the ball walks right."]
FUZZ = int(os.environ.get("SHOTSTREAM_FUZZ", 100))


def film(d, *prompts, latents=1):
    for prompt in prompts: d.next_shot(prompt, latents=latents)
    assert d.wait(60)


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end: time.sleep(.005)
    return condition()


def write_single(story, about, folder):
    "One file with everything, as early directors wrote it"
    shots = list({id(s): s for ss in story.branches.values() for s in ss}.values())
    numbers = {id(s): n for n, s in enumerate(shots)}
    tensors = {}
    for n, s in enumerate(shots):
        tensors |= {f"{n}.video": s.video, f"{n}.text": s.text}
        tensors |= {f"{n}.still.{f}": z for f, z in s.context.latents.items()}
    rows = [dict(caption=s.caption, prompt=s.prompt, latents=s.latents, seed=s.seed, settings=asdict(s.settings),
                 number=s.context.number) for s in shots]
    settings = {k: v for k, v in about.items() if k not in ("caption", "seed", "size")}
    index = dict(caption=about["caption"], seed=about["seed"], size=about["size"], settings=settings, name=story.name,
                 shots=rows, branches={n: [numbers[id(s)] for s in ss] for n, ss in story.branches.items()})
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: t.clone() for k, t in tensors.items()}, folder/"context.safetensors", {"director": json.dumps(index)})


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    "A folder with three shots, and another ending; its files as bytes"
    folder = tmp_path_factory.mktemp("saved")/"story"
    with Director(pipe, CAPTION, seed=3, folder=folder) as d:
        film(d, *PROMPTS)
        d.branch(2)
        film(d, PROMPTS[0])
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def unpack(files, folder):
    for name, data in files.items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_bytes(data)
    return folder


def same(a, b): return all(torch.equal(s.video, t.video) and s.prompt == t.prompt for s, t in zip(a, b, strict=True))


def test_a_shot_is_written_once(pipe, tmp_path):
    "At full size a shot is 97 MB: a cut must not write all of them again"
    with Director(pipe, CAPTION, folder=tmp_path) as d:
        film(d, *PROMPTS[:2])
        before = {p.name: p.stat().st_mtime_ns for p in (tmp_path/"shots").iterdir()}
        film(d, PROMPTS[2])
        d.branch(1)
        film(d, PROMPTS[0])
        after = {p.name: p.stat().st_mtime_ns for p in (tmp_path/"shots").iterdir()}
        assert len(before) == 2 and len(after) == 4 and before.items() <= after.items()
        d.undo(), d.undo(), d.wait(60)
        assert len(d.shots) == 3 and len(list((tmp_path/"shots").iterdir())) == 4     # it can still be had back
    assert len(list((tmp_path/"shots").iterdir())) == 3 and len(load_story(tmp_path)[0].shots) == 3
    assert [s.caption for s in load_script(tmp_path/"story.json").shots] == PROMPTS


def test_filming_comes_before_saving(pipe, tmp_path, monkeypatch):
    "Somebody waits for the frames of the next shot; nobody waits for the disk"
    log = []
    write = module.write_whole
    monkeypatch.setattr(module, "write_whole", lambda path, w: (log.append("save"), write(path, w)))
    with Director(pipe, CAPTION, folder=tmp_path) as d:
        d.on("frames", lambda f: log.append(f.shot))
        film(d, *PROMPTS, latents=2)
        assert log.index(2) < log.index("save") and log.count("save") == 3
        monkeypatch.setattr(module, "SAVE_WITHIN", 0.)                       # but not for ever
        del log[:]
        film(d, *PROMPTS, latents=2)
        assert log.index("save") < log.index(5)


@pytest.mark.parametrize("room", (False, True))
def test_a_failed_save_is_tried_again(pipe, tmp_path, monkeypatch, room):
    said, full, write = [], threading.Event(), module.write_whole
    full.set()
    def sometimes(path, w):
        if full.is_set(): raise WriteError(f"{path} could not be written (No space left on device)")
        write(path, w)
    monkeypatch.setattr(module, "write_whole", sometimes)
    monkeypatch.setattr(module, "RETRY", .05 if room else 1e9)
    d = Director(pipe, CAPTION, folder=tmp_path)
    d.on("error", said.append)
    film(d, PROMPTS[0])                                                      # does not wait for ever
    time.sleep(.3)
    assert len(said) == 1 and "No space left" in said[0] and d.unsaved == said[0]
    assert not (tmp_path/"director.json").exists()
    if room:
        full.clear()
        assert until(lambda: not d.unsaved) and len(load_story(tmp_path)[0].shots) == 1
    else:
        with pytest.raises(WriteError, match="No space left"): d.close()
        full.clear()
    d.close()
    assert same(load_story(tmp_path)[0].shots, d.shots) and not d.unsaved


def test_the_newest_director_takes_over(pipe, tmp_path):
    "A page is loaded again while it films: what was seen of the shot is there, in the same folder"
    said = []
    old = Director(pipe, CAPTION, folder=tmp_path, paced=True)
    old.on("error", said.append)
    old.next_shot(PROMPTS[0], latents=9)
    seen = [old.watch(60) for _ in range(3)]
    with Director(pipe, folder=tmp_path) as new:
        assert torch.equal(new.film, torch.cat([f.video for f in seen])) and new.caption == CAPTION
        assert old.closed and "second time" in said[0] and old.trouble == said[0]
        with pytest.raises(RuntimeError, match="second time"): old.next_shot(PROMPTS[1])
        film(new, PROMPTS[1])
        old.close()
    assert len(load_story(tmp_path)[0].shots) == 2 and [p.name for p in tmp_path.glob(".open*")] == []
    assert [p.name for p in tmp_path.parent.iterdir() if p.name.startswith(tmp_path.name)] == [tmp_path.name]


def test_a_deaf_director_loses_nothing(pipe, tmp_path, monkeypatch):
    "It is busy for longer than the new one waits, and finds its place taken"
    monkeypatch.setattr(module.FolderMark.__init__, "__defaults__", (.1,))
    said, folder, busy, begun = [], tmp_path/"a", threading.Event(), threading.Event()
    old = Director(pipe, CAPTION, folder=folder)
    film(old, PROMPTS[0])
    old.on("error", said.append)
    old.on("frames", lambda f: (begun.set(), busy.wait(20)))
    old.next_shot(PROMPTS[1], latents=1)
    assert begun.wait(20)
    with Director(pipe, folder=folder) as new:
        film(new, PROMPTS[2])
        busy.set()
        assert until(lambda: old.closed)
        old.close()
        film(new, PROMPTS[0])
    # what the old one had not saved, the new one has filmed too
    assert [s.prompt for s in load_story(folder)[0].shots] == [*PROMPTS, PROMPTS[0]]
    assert [s.prompt for s in load_story(tmp_path/"a-2")[0].shots] == PROMPTS[:2] and any("a-2" in s for s in said)


def test_a_folder_that_is_deleted_is_made_again(pipe, tmp_path):
    import shutil
    with Director(pipe, CAPTION, folder=tmp_path/"a") as d:
        film(d, PROMPTS[0])
        shutil.rmtree(tmp_path/"a")
        film(d, PROMPTS[1])
        assert not d.trouble and same(load_story(tmp_path/"a")[0].shots, d.shots)


SCRIPT = f'''
import sys, time
from shotstream import ShotStreamPipeline
from shotstream.app.director import Director
d = Director(ShotStreamPipeline.from_pretrained("toy"), "{CAPTION}", folder=sys.argv[1])
for _ in range(9): d.next_shot("{PROMPTS[0]}", latents=21)
while d.running is None or len(d.running) < 9: time.sleep(.001)
'''


def test_a_script_ends_while_it_films(pipe, tmp_path):
    "No abort, and what was filmed is saved"
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], env=dict(os.environ, PYTHONPATH=str(ROOT)),
                         capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and run.stderr == "", run.stderr
    assert load_story(tmp_path)[0].shots[0].cut and list(tmp_path.glob(".open*")) == []


def test_a_dead_director_is_not_waited_for(pipe, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mark = module.FolderMark(tmp_path)
    mark.path.rename(tmp_path/f".open-{mark.number}-{dead.pid}-{mark.here}")
    start = time.monotonic()
    with Director(pipe, CAPTION, folder=tmp_path) as d: assert list(tmp_path.glob(".open*")) == [d.mark.path]
    assert time.monotonic() - start < 3


def test_what_is_closed_leaves_no_thread(pipe, tmp_path):
    before = set(threading.enumerate())
    for _ in range(3):
        with Director(pipe, CAPTION, folder=tmp_path) as d: d.next_shot(PROMPTS[0], latents=9)
        with pytest.raises(InputError): Director(pipe, CAPTION, folder=tmp_path, size=(70, 100))
        with pytest.raises(ValueError): Director(pipe, "a dragon.", folder=tmp_path)
    assert set(threading.enumerate()) == before and list(tmp_path.glob(".open*")) == []


def test_who_is_forgotten_ends(pipe, tmp_path):
    "A cell that makes a director is run again: the one before is closed by nobody; what it was told to film it films"
    before = set(threading.enumerate())
    Director(pipe, CAPTION, folder=tmp_path/"a").next_shot(PROMPTS[0], latents=2)
    Director(pipe, CAPTION, paced=True).next_shot(PROMPTS[0], latents=2)          # nobody will ever watch it
    def gone():
        time.sleep(.3)
        gc.collect()
        return not set(threading.enumerate()) - before and list((tmp_path/"a").glob(".open*")) == []
    assert until(gone) and len(load_story(tmp_path/"a")[0].shots) == 1


def test_who_is_forgotten_saves_before_it_ends(pipe, tmp_path, monkeypatch):
    room, save = threading.Event(), module.save_story
    monkeypatch.setattr(module, "RETRY", .1)
    def full(*args):
        if not room.is_set(): raise WriteError("disk full")
        return save(*args)
    monkeypatch.setattr(module, "save_story", full)
    Director(pipe, CAPTION, folder=tmp_path).next_shot(PROMPTS[0], latents=1)
    for _ in range(8):
        gc.collect()
        time.sleep(.2)
    room.set()
    assert until(lambda: (tmp_path/"director.json").exists())


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_function_that_ends_threads_does_not_end_the_directors(pipe, tmp_path, error):
    def leave(*_): raise error("bye")
    with Director(pipe, CAPTION, folder=tmp_path) as d:
        errors = []
        d.on("error", errors.append)
        d.on("shot", leave)
        film(d, *PROMPTS[:2])
        assert len(d.shots) == 2 and len(errors) == 2 and f"{error.__name__}: bye" in errors[0]
    assert len(load_story(tmp_path)[0].shots) == 2


def test_nobody_waits_for_a_thread_that_is_gone(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("threading.excepthook", lambda args: None)
    def dies(self): raise SystemExit
    monkeypatch.setattr(Director, "_film_latent", dies)
    d = Director(pipe, CAPTION, folder=tmp_path)
    d.next_shot(PROMPTS[0])
    assert d.wait(10) and "SystemExit" in d.trouble and list(tmp_path.glob(".open*")) == []
    with pytest.raises(RuntimeError, match="its thread has ended"): d.next_shot(PROMPTS[0])
    d.close()


@pytest.mark.parametrize("name", ["story.json", "waiting.json"])
def test_a_file_that_cannot_be_replaced(pipe, tmp_path, monkeypatch, name):
    "Whichever file it is, the story stays this director's, in its folder"
    monkeypatch.setattr(module, "RETRY", .1)
    with Director(pipe, CAPTION, folder=tmp_path/"a") as d:
        film(d, PROMPTS[0])
        (tmp_path/"a"/name).unlink(missing_ok=True)
        (tmp_path/"a"/name).mkdir()
        film(d, PROMPTS[1])
        assert until(lambda: f"{name}" in d.unsaved) and "\n" not in d.unsaved and len(d.unsaved) < 400
        (tmp_path/"a"/name).rmdir()
        assert until(lambda: not d.unsaved) and not d.trouble
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and len(load_story(tmp_path/"a")[0].shots) == 2


def test_one_file_of_an_early_director(pipe, saved, tmp_path):
    story, about = load_story(unpack(saved, tmp_path/"new"))
    write_single(story, about, tmp_path/"old")
    again, same_about = load_story(tmp_path/"old")
    assert same_about == about and [*again.branches] == [*story.branches] and again.name == story.name
    assert all(same(a, b) for a, b in zip(again.branches.values(), story.branches.values(), strict=True))
    with Director(pipe, folder=tmp_path/"old") as d: film(d, PROMPTS[1])
    assert (tmp_path/"old"/"director.json").exists() and len(load_story(tmp_path/"old")[0].shots) == 4


def damage(data, rng):
    "One thing that a disk, a copy or a person does to a file; `None` deletes it"
    at = rng.randrange(len(data))
    kind = rng.choice(["flip", "flip", "cut", "zeros", "empty", "gone", "swap"])
    if kind == "flip": return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at+1:]
    if kind == "cut": return data[:at]
    if kind == "zeros": return data[:at] + bytes(len(data) - at) if data[at:].strip(b"\0") else data[:at]
    if kind == "swap": return bytes(rng.randrange(256) for _ in range(min(len(data), 999)))
    return b"" if kind == "empty" else None


def as_json(data):
    try: return json.loads(data)
    except (TypeError, ValueError, RecursionError): return None


@pytest.mark.parametrize("seed", range(FUZZ))
def test_damaged_folders(saved, tmp_path, seed):
    "Whatever is damaged is named; every shot whose file is whole is there"
    rng, files = random.Random(seed), dict(saved)
    hit = rng.sample(sorted(f for f in files if f != "story.json"), rng.choice([1, 1, 1, 2, 3]))
    for name in hit:
        files[name] = damage(files[name], rng)
        if files[name] is None: del files[name]
    # a lost line break at the end, or the last digit of a number that has too many, changes nothing
    index = "director.json"
    if as_json(files.get(index)) == as_json(saved[index]): hit = [n for n in hit if n != index]
    if not hit: return
    folder = unpack(files, tmp_path)
    whole = {n for n in saved if n.startswith("shots/") and n not in hit}
    with pytest.raises(InputError) as e: load_story(folder)
    assert len(str(e.value)) < 9000 and all(Path(n).name in str(e.value) for n in hit if n in files)
    assert "backup" in str(e.value)
    story, about, problems = read_story(folder)
    assert {f"shots/{s.file}" for ss in story.branches.values() for s in ss if s.file} <= whole and problems
    assert len({id(s) for ss in story.branches.values() for s in ss}) == len(whole)
    assert about["caption"] == CAPTION
    if "director.json" not in hit: assert [*story.branches] == ["branch 1", "branch 2"] and about["seed"] == 3


@pytest.mark.parametrize("seed", range(FUZZ//4))
def test_damaged_single_files(saved, tmp_path, seed):
    "Early directors had no hash in the name: a flipped pixel passes, everything else is said"
    rng = random.Random(seed)
    write_single(*load_story(unpack(saved, tmp_path/"new")), tmp_path)
    path = tmp_path/"context.safetensors"
    data = path.read_bytes()
    if seed % 2:                                                     # most flips hit pixels: aim at the beginning too
        at = rng.randrange(6000)
        data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at+1:]
    else: data = damage(data, rng) or b""
    path.write_bytes(data)
    try: story, _ = load_story(tmp_path)
    except InputError as e: assert "context.safetensors" in str(e) and "backup" in str(e)
    else: assert len(story.shots) == 3


WISHES = [("prompt", 3), ("prompt", ""), ("latents", 0), ("latents", 2.5), ("seed", -1), ("seed", None), ("number", -1),
          ("number", "x"), ("settings", {"phi": float("nan")}), ("settings", {"fi": 0}), ("settings", 3),
          ("settings", {"steps": 0}),
          ("settings", {"pinned": [[0]]}), ("caption", None), ("caption", "\ud800"), ("before", None)]


@pytest.mark.parametrize("key, value", WISHES)
def test_a_forged_shot(saved, tmp_path, key, value):
    "Its hash is right, and still it cannot have been filmed"
    name = next(n for n in saved if n.startswith("shots/001"))
    unpack(saved, tmp_path)
    with safe_open(tmp_path/name, "pt") as f:
        about, tensors = json.loads(f.metadata()["shot"]), {k: f.get_tensor(k) for k in f.keys()}
    data = save(tensors, {"shot": json.dumps(about | {key: value})})
    (tmp_path/"shots"/f"001-{checksum(data)}.safetensors").write_bytes(data)
    (tmp_path/"director.json").unlink()
    story, _, problems = read_story(tmp_path)
    if key == "before": assert len(problems) == 1                    # only the list is gone
    else: assert any(checksum(data) in p for p in problems), problems


@pytest.mark.parametrize("change", [
    {"video": torch.zeros(2, 64, 64, 3, dtype=torch.uint8)}, {"video": torch.zeros(5, 64, 64, 3)},
    {"video": torch.zeros(0, 64, 64, 3, dtype=torch.uint8)}, {"text": torch.zeros(3)},
    {"still.x": torch.zeros(1, 1, 1)},
    {"text": torch.full((3, 128), torch.nan)}, {"still.0": torch.zeros(3)}, {"still.99": torch.zeros(16, 8, 8)}])
def test_forged_tensors(saved, tmp_path, change):
    name = next(n for n in saved if n.startswith("shots/001"))
    with safe_open(unpack(saved, tmp_path)/name, "pt") as f:
        about, tensors = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
    data = save(tensors | change, about)
    (tmp_path/"shots"/f"001-{checksum(data)}.safetensors").write_bytes(data)
    (tmp_path/"director.json").unlink()
    assert any(checksum(data) in p for p in read_story(tmp_path)[2])


def test_a_director_opens_what_can_be_read(pipe, saved, tmp_path):
    "It goes on, says what is missing, and deletes nothing"
    files = dict(saved)
    lost = next(n for n in files if n.startswith("shots/002"))
    files[lost] = files[lost][:5000]
    unpack(files, tmp_path)
    with Director(pipe, folder=tmp_path) as d:
        assert Path(lost).name in d.trouble
        assert [s.prompt for s in d.story.branches["branch 1"]] == [PROMPTS[0], PROMPTS[2]]
        d.switch("branch 1")
        film(d, PROMPTS[1])
        assert len(d.shots) == 3
    assert (tmp_path/lost).read_bytes() == files[lost] and len(list(tmp_path.glob("director.damaged-1.json"))) == 1
    with Director(pipe, folder=tmp_path) as d: assert not d.trouble and len(d.story.branches["branch 1"]) == 3


def test_a_shot_that_moves_up_is_written_anew(saved, tmp_path):
    "Its number is inside its file"
    next((unpack(saved, tmp_path)/"shots").glob("002-*")).unlink()
    last = read_story(tmp_path)[0].branches["branch 1"][1]
    assert last.context.number == 1 and last.file == ""


def test_another_model(pipe, saved, tmp_path, monkeypatch):
    unpack(saved, tmp_path)
    monkeypatch.setattr(type(pipe), "latent_shape", lambda self, size: (16, size[0]//8, size[1]//8 + 1))
    for opens in (lambda: Director(pipe, folder=tmp_path), lambda: Director.load(pipe, tmp_path)):
        with pytest.raises(InputError, match="another model"): opens()
    assert list(tmp_path.glob(".open*")) == []


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_another_codec_or_text_encoder_of_the_same_size(pipe, saved, tmp_path, part):
    "Saved stills and captions are theirs: mixed, the next shot would look back at noise"
    unpack(saved, tmp_path)
    other = ShotStreamPipeline.from_pretrained("toy")
    some = next(p for n, p in getattr(other, part).named_parameters() if not n.startswith("decoder"))
    same = some.data.clone()
    some.data = same.bfloat16().to(some.dtype)                    # another number type is the same network
    with Director(other, folder=tmp_path) as d: assert len(d.shots) == 3
    some.data = same + .1
    for opens in (lambda: Director(other, folder=tmp_path), lambda: Director.load(other, tmp_path)):
        with pytest.raises(InputError, match="another model"): opens()
    some.data = same
    index = json.loads((tmp_path/"director.json").read_text())
    del index["parts"], index["checksum"]                         # as earlier directors wrote it
    mark = checksum(json.dumps(index, sort_keys=True).encode())
    (tmp_path/"director.json").write_text(json.dumps(dict(index, checksum=mark)))
    some.data = same + .1
    with Director(other, folder=tmp_path) as d: assert len(d.shots) == 3


def test_a_decoder_may_change(pipe, saved, tmp_path):
    unpack(saved, tmp_path)
    other = ShotStreamPipeline.from_pretrained("toy")
    for p in other.vae.decoder.parameters(): p.data += .1
    with Director(other, folder=tmp_path) as d: assert len(d.shots) == 3


def test_a_gif_is_not_fast(pipe, tmp_path):
    with Director(pipe, CAPTION) as d:
        film(d, PROMPTS[0], latents=9)
        d.export(tmp_path/"film.gif", scale=1)
    gif, total = Image.open(tmp_path/"film.gif"), 0
    for k in range(gif.n_frames):
        gif.seek(k)
        total += gif.info["duration"]
    assert abs(total/1000 - 33/16) < .01


def test_the_exported_program_writes_the_same_film(pipe, tmp_path, monkeypatch):
    "Whatever the number of threads of whoever runs it"
    with Director(pipe, CAPTION, seed=6) as d:
        film(d, *PROMPTS[:2], latents=3)
        d.export(tmp_path/"film.py")
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(2)
    try: names = runpy.run_path("film.py", run_name="__main__")
    finally: torch.set_num_threads(1)
    assert torch.equal(names["film"], d.film)
    assert read_video(tmp_path/"film.mp4").shape == (18, 6*64, 6*64, 3)


# what is not one's own

def test_saving_over_somebody_else_s_story(pipe, tmp_path):
    with Director(pipe, CAPTION, folder=tmp_path/"a") as first:
        first.next_shot("wide shot: the ball waves.", latents=1)
        first.wait()
    before = {p: p.read_bytes() for p in (tmp_path/"a").rglob("*") if p.is_file()}
    other = Director(pipe, CAPTION, seed=5)
    other.next_shot("wide shot: the ball waves.", latents=1)
    other.wait()
    with pytest.raises(InputError, match="another story is here"): other.save(tmp_path/"a")
    assert {p: p.read_bytes() for p in (tmp_path/"a").rglob("*") if p.is_file()} == before
    other.save(tmp_path/"b")
    other.save(tmp_path/"b")                                             # its own it may write over
    other.close()
    again = Director.load(pipe, tmp_path/"b")
    again.save(tmp_path/"b")
    again.close()


@pytest.mark.parametrize("name", ["film.mp4", "story.json"])
def test_saving_into_a_folder_with_one_s_own_files(pipe, tmp_path, name):
    (tmp_path/name).write_text("mine")
    director = Director(pipe, CAPTION)
    with pytest.raises(InputError, match=f"{name} would be written over"): director.save(tmp_path)
    director.close()
    assert (tmp_path/name).read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == [name]


def test_an_index_that_is_lost_takes_no_seed_along(pipe, tmp_path):
    with Director(pipe, CAPTION, seed=5, folder=tmp_path) as director:
        for _ in range(2): director.next_shot("wide shot: the ball waves.", latents=1)
        director.wait()
    (tmp_path/"director.json").unlink()
    with Director(pipe, CAPTION, seed=5, folder=tmp_path) as director:
        director.next_shot("wide shot: the ball waves.", latents=1)
        director.wait()
        assert [s.seed for s in director.shots] == [5000, 5001, 5002]


def test_a_program_replaces_no_picture(pipe, tmp_path):
    picture = torch.full((64, 64, 3), 90, dtype=torch.uint8)
    Image.new("RGB", (64, 64), "red").save(tmp_path/"mine-1.png")
    before = (tmp_path/"mine-1.png").read_bytes()
    director = Director(pipe, CAPTION)
    director.next_shot("wide shot: the ball waves.", latents=1, image=picture)
    director.wait()
    with pytest.raises(InputError, match="another picture"): director.export(tmp_path/"mine.py")
    assert (tmp_path/"mine-1.png").read_bytes() == before and not (tmp_path/"mine.py").exists()
    director.export(tmp_path/"ours.py")
    director.export(tmp_path/"ours.py")                                  # its own picture it may write again
    with pytest.raises(InputError, match="the name of a file, got None"): director.export(None)
    director.close()
