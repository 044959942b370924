"""What was asked for and is not filmed yet: nobody types it twice, whatever happens to page, process and disk."""
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shotstream.app import director as module
from shotstream.app.director import Director, StoryState, checksum, load_story, read_waiting
from shotstream.app.desk import Desk
from shotstream.generate.stream import RunningShot, ShotRequest
from shotstream.model.files import InputError, WriteError

ROOT = Path(__file__).parents[2]
CAPTION = "a red ball with a hat in the forest by day."
PROMPTS = ["wide shot: the ball waves.", "close up: the ball jumps.", "panning shot: the ball walks right."]


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end: time.sleep(.005)
    return condition()


def prompts(d): return [s.prompt for s in d.shots]


@pytest.fixture
def slow(monkeypatch):
    "Nothing is filmed as long as this event is not set"
    gate, film = threading.Event(), Director._film_latent
    monkeypatch.setattr(Director, "_film_latent", lambda self: gate.wait(.01) and film(self))
    yield gate
    gate.set()


def test_what_waits_is_filmed_by_the_next_director(pipe, tmp_path, slow):
    "The same film as if nothing had happened: options, settings, the picture, the order"
    picture = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    def ask(d):
        d.next_shot(PROMPTS[0], latents=2)
        d.change(steps=2)
        d.next_shot(PROMPTS[1], latents=3, seed=5, image=picture)
        d.next_shot(PROMPTS[2], latents=1)
    with Director(pipe, CAPTION, seed=3, folder=tmp_path/"a") as d: ask(d)
    assert [p.name for p in (tmp_path/"a").iterdir()] == ["waiting.json"]
    slow.set()
    with Director(pipe, folder=tmp_path/"a") as new, Director(pipe, CAPTION, seed=3) as other:
        assert new.busy and new.caption == CAPTION and new.seed == 3 and new.settings.steps == 2 and not new.trouble
        ask(other)
        assert new.wait(60) and other.wait(60) and torch.equal(new.film, other.film)
        assert torch.equal(new.shots[1].image, picture)
        assert not (tmp_path/"a"/"waiting.json").exists()
    with Director(pipe, folder=tmp_path/"a") as new: assert len(new.shots) == 3 and not new.busy


@pytest.mark.parametrize("end", [lambda d: d.stop(), lambda d: d.undo(), lambda d: d.branch(0)])
def test_what_was_withdrawn_does_not_come_back(pipe, tmp_path, slow, end):
    with Director(pipe, CAPTION, folder=tmp_path) as d:
        for p in PROMPTS: d.next_shot(p)
        assert until((tmp_path/"waiting.json").exists)
        end(d)
        assert until(lambda: not (tmp_path/"waiting.json").exists())
    with Director(pipe, CAPTION, folder=tmp_path) as d: assert not d.busy


def test_a_page_that_is_loaded_again(pipe, tmp_path):
    "The shot that was seen in part is cut there; what nobody saw, begun or not, is filmed"
    old = Director(pipe, CAPTION, folder=tmp_path, paced=True, ahead=9)
    for p in PROMPTS: old.next_shot(p, latents=2)
    old.watch(60)
    assert until(lambda: len(old.timeline.running) > 1)                      # the second one is made ahead
    with Director(pipe, folder=tmp_path) as new:
        assert old.closed and new.wait(60) and prompts(new) == PROMPTS and new.shots[0].cut
        assert [s.kept for s in new.shots] == [1, 2, 2]
        old.close()


def test_the_desk_shows_what_waited(pipe, tmp_path, slow):
    first = Desk(pipe, CAPTION, folder=tmp_path, opening=PROMPTS)
    first.close()
    desk = Desk(pipe, folder=tmp_path)
    try:
        assert desk.director.coming == PROMPTS and desk.caption.value == CAPTION and not desk.is_opening
        assert len(desk.timeline.children) == 3 and "waited" in desk.status.value and not desk.notice.value
    finally: desk.close()


SCRIPT = f'''
import os, signal, sys, time
from shotstream import ShotStreamPipeline
from shotstream.app import director
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
d = director.Director(ShotStreamPipeline.from_pretrained("toy"), {CAPTION!r}, folder=sys.argv[2])
while d.noted < d.changes: time.sleep(.001)
if sys.argv[1] == "saved": director.StoryKeeper._note = lambda self: die()           # behind the shot, before the list
else: d.on("frames", lambda f: f.latent == 1 and d.noted == d.changes and die())      # in the first shot
if not d.busy:
    for p in {PROMPTS!r}: d.next_shot(p, latents=2)
time.sleep(60)
'''


@pytest.mark.parametrize("how", ["film", "saved"])
def test_killed(pipe, tmp_path, slow, how):
    "Every shot once, in order"
    if how == "saved":
        with Director(pipe, CAPTION, folder=tmp_path) as d:
            for p in PROMPTS: d.next_shot(p, latents=2)
    run = subprocess.run([sys.executable, "-c", SCRIPT, how, str(tmp_path)], timeout=120,
                         env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    if how == "saved": assert load_story(tmp_path)[0].shots and len(read_waiting(tmp_path/"waiting.json").requests) == 3
    slow.set()
    with Director(pipe, folder=tmp_path) as d, Director(pipe, CAPTION) as other:
        for p in PROMPTS: other.next_shot(p, latents=2)
        assert d.wait(60) and other.wait(60) and prompts(d) == PROMPTS and torch.equal(d.film, other.film)


def reopened(pipe, folder):
    "A director on a copy of the folder, as after a kill"
    import shutil
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy)
    for mark in copy.glob(".open*"): mark.unlink()
    return Director(pipe, folder=copy)


def test_killed_in_a_rewriting(pipe, tmp_path, monkeypatch):
    "It goes on as a rewriting: the old shots stay until the last new one is made, and are there to go back to"
    with Director(pipe, CAPTION, folder=tmp_path/"a") as d:
        for p in PROMPTS: d.next_shot(p, latents=1)
        assert d.wait(60)
        gate, film = threading.Semaphore(1), Director._film_latent
        monkeypatch.setattr(Director, "_film_latent", lambda s: gate.acquire(timeout=.01) and film(s))
        d.rewrite(1, seed=9)
        assert until(lambda: len(d.shots) == 2 and d.noted == d.changes)              # the first one of two is made
        monkeypatch.setattr(Director, "_film_latent", film)
        with reopened(pipe, tmp_path/"a") as new:
            assert new.wait(60) and prompts(new) == PROMPTS and [s.seed for s in new.shots] == [0, 9, 2]
            assert new.undo() and [s.seed for s in new.shots] == [0, 1, 2]
        assert d.wait(60) and [s.seed for s in d.shots] == [0, 9, 2]


def test_killed_before_a_prompt_took_effect(pipe, tmp_path):
    "A prompt for the inside of the shot that runs is noted like those that wait, until it is known where it began"
    with Director(pipe, CAPTION, folder=tmp_path/"a", paced=True, ahead=0) as d:
        d.next_shot(PROMPTS[0], latents=7)
        d.watch(60)
        d.switch_prompt(PROMPTS[1], recache=False)
        assert d.running is not None and until(lambda: d.noted == d.changes)
        (noted,) = read_waiting(tmp_path/"a"/"waiting.json").requests
        (asked,) = noted.switches
        assert (asked.latent, asked.prompt, asked.recache) == (3, PROMPTS[1], False)
        with reopened(pipe, tmp_path/"a") as new:
            assert new.wait(60)
            (switch,), (later,) = new.shots[0].switches, new.shots[0].later
            assert switch == asked and later[0] == 9 and len(new.shots[0].video) == 25
        while not d.shots and d.watch(60) is not None: pass
        assert d.wait(60) and torch.equal(d.film, new.film)


def test_where_a_prompt_took_effect_is_noted(pipe, tmp_path):
    "Its chunk was being made when it came, so it began with the next one"
    with Director(pipe, CAPTION, folder=tmp_path, paced=True, ahead=0) as d:
        d.next_shot(PROMPTS[0], latents=9)
        d.watch(60)
        d.switch_prompt(PROMPTS[1])
        shot = d.timeline.running[0]
        shot.coming = replace(shot.coming, latent=4)
        while len(d.running) < 25: d.watch(60)
        assert until(lambda: shot.switches and d.noted == d.changes)
        (noted,) = read_waiting(tmp_path/"waiting.json").requests
        assert [s.latent for s in noted.switches] == [s.latent for s in shot.switches] == [6]


def test_killed_on_a_new_branch(pipe, tmp_path, slow, monkeypatch):
    monkeypatch.setattr(module, "SAVE_WITHIN", 1e9)
    slow.set()
    with Director(pipe, CAPTION, folder=tmp_path/"a") as d:
        for p in PROMPTS[:2]: d.next_shot(p, latents=1)
        assert d.wait(60)
        slow.clear()
        with d.lock:                                                         # so that it is not saved in between
            d.branch(1)
            d.next_shot(PROMPTS[2], latents=1)
        assert until(lambda: d.noted == d.changes) and len(load_story(tmp_path/"a")[0].branches) == 1
        with reopened(pipe, tmp_path/"a") as new:
            slow.set()
            assert new.wait(60) and new.branches == ["branch 1", "branch 2"]
            assert prompts(new) == [PROMPTS[0], PROMPTS[2]] and len(new.story.branches["branch 1"]) == 2


def test_what_ends_every_process_is_left_out(pipe, tmp_path, slow):
    "A shot that is too large for this machine would close the folder for good"
    with Director(pipe, CAPTION, folder=tmp_path/"s") as d:
        for p in PROMPTS: d.next_shot(p, latents=1)
        assert until(lambda: d.noted == 3)
        with reopened(pipe, tmp_path/"s") as d2:
            assert d2.coming == PROMPTS and until(lambda: d2.noted == d2.changes)
            with reopened(pipe, tmp_path/"s-copy") as d3:
                assert d3.coming == PROMPTS and not d3.trouble and until(lambda: d3.noted == d3.changes)
                with reopened(pipe, tmp_path/"s-copy-copy") as d4:
                    assert d4.coming == PROMPTS[1:] and PROMPTS[0] in d4.trouble and "twice" in d4.trouble
        for n in ("", "-copy", "-copy-copy"): assert read_waiting(tmp_path/f"s{n}"/"waiting.json").first == 0


def test_damaged(pipe, tmp_path, slow):
    "One warning, and the story opens; the file stays, under another name"
    slow.set()
    with Director(pipe, CAPTION, folder=tmp_path) as d:
        d.next_shot(PROMPTS[0], latents=1)
        assert d.wait(60)
        slow.clear()
        d.next_shot(PROMPTS[1], image=torch.zeros(64, 64, 3, dtype=torch.uint8))
    path, rng = tmp_path/"waiting.json", random.Random(0)
    data = path.read_bytes()
    about = json.loads(data)
    about.pop("checksum")
    def forged(**change):
        wrong = about | {k: v for k, v in change.items() if k in about}
        wrong["requests"] = [about["requests"][0] | {k: v for k, v in change.items() if k not in about}]
        return json.dumps(wrong | dict(checksum=checksum(json.dumps(wrong, sort_keys=True).encode()))).encode()
    places = [rng.randrange(len(data)) for _ in range(8)]
    kinds = [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 99999, data[:-30],
             *(data[:k] + bytes([data[k] ^ 1]) + data[k+1:] for k in places if not data[k:k+1].isspace()),
             forged(latents=99), forged(prompt="the dragon jumps."), forged(prompt=3), forged(keep=22), forged(seed=-1),
             forged(image="x"), forged(settings=[]), forged(first=-1), forged(first="0"), forged(size=[72, 64]),
             forged(switches=[3]), forged(opened=None), forged(name=3), forged(caption=None)]
    for n, wrong in enumerate(kinds, 1):
        path.write_bytes(wrong)
        with Director(pipe, folder=tmp_path) as d:
            assert d.trouble.count("waiting.json") == 1 and len(d.shots) == 1 and not d.busy, wrong[:99]
        assert (tmp_path/f"waiting.damaged-{n}.json").read_bytes() == wrong and not path.exists()
    path.write_bytes(data)
    with Director(pipe, folder=tmp_path) as d: assert d.coming == [PROMPTS[1]] and not d.trouble


def test_a_full_disk(pipe, tmp_path, slow, monkeypatch):
    "It is said, and tried again"
    full, write, said = threading.Event(), module.write_json, []
    full.set()
    def sometimes(path, data):
        if full.is_set(): raise WriteError(f"{path} could not be written (No space left on device)")
        write(path, data)
    monkeypatch.setattr(module, "write_json", sometimes)
    monkeypatch.setattr(module, "RETRY", .05)
    monkeypatch.setattr(module, "SAVE_WITHIN", 0.)
    d = Director(pipe, CAPTION, folder=tmp_path)
    d.on("error", said.append)
    d.next_shot(PROMPTS[0])
    assert until(lambda: d.unsaved) and until(lambda: said) and "No space" in said[0]
    with pytest.raises(WriteError, match="No space"): d.close()
    full.clear()
    d.close()
    assert not d.unsaved and [r.prompt for r in read_waiting(tmp_path/"waiting.json").requests] == PROMPTS[:1]


def test_who_is_late_does_not_write_over_the_next_ones(pipe, tmp_path, slow, monkeypatch):
    monkeypatch.setattr(module.FolderMark.__init__, "__defaults__", (.1,))
    monkeypatch.setattr(module.FolderMark, "is_taken", lambda self: False)           # and it never looks
    old = Director(pipe, CAPTION, folder=tmp_path)
    old.next_shot(PROMPTS[0])
    assert until(lambda: old.noted == 1)
    with Director(pipe, folder=tmp_path) as new:
        new.stop()
        assert until(lambda: new.noted == new.changes)
        old.next_shot(PROMPTS[1])
        assert until(lambda: old.noted == 2) and not (tmp_path/"waiting.json").exists()
        old.close()
    assert not (tmp_path/"waiting.json").exists()


def test_a_request_is_told_from_another():
    shot = module.Shot(CAPTION, PROMPTS[0], 3, 5, torch.zeros(9, 2, 2, 3), torch.zeros(1, 1))
    same = ShotRequest(PROMPTS[0], 3, 5, caption=CAPTION)
    assert module.is_made(same, shot) and module.is_made(replace(same, seed=None), shot)
    for change in (dict(seed=6), dict(latents=2), dict(prompt=PROMPTS[1]), dict(caption="x")):
        assert not module.is_made(replace(same, **change), shot)
    t = module.Timeline()
    t.story = StoryState({"branch 1": (shot, shot)}, "branch 1")
    other = replace(same, prompt=PROMPTS[1])
    t.take_up(module.WaitingShots("branch 1", 1, [same, other], None), same=False)   # the first was saved meanwhile
    assert list(t.queue) == [other] and t.draft is None
    with pytest.raises(InputError): read_waiting(Path("nowhere.json"))


def test_the_timeline_alone():
    "What waits and what is half made survives a change of mind; what was given up does not come back"
    shot = module.Shot(CAPTION, PROMPTS[0], 3, 5, torch.zeros(9, 2, 2, 3), torch.zeros(1, 1))
    again, fresh = (ShotRequest(p, 3, 5, caption=CAPTION, again=p is PROMPTS[0]) for p in PROMPTS[:2])
    t = module.Timeline()
    t.story = StoryState({"branch 1": (shot, shot)}, "branch 1")
    t.base, t.draft, t.queue = 0, [shot, shot], deque([fresh])       # both were filmed anew
    t.rewrite(1, again)
    assert t.base == 0 and list(t.queue) == [again, fresh]
    t.halt()
    assert len(t.shots) == 1 and t.draft is None                     # the first of them is kept
    assert t.undo() and len(t.shots) == 2
    t.branch(0)
    assert not t.redo()                                              # there is something newer
    t.draft, t.base, t.running, t.queue = [], 0, [RunningShot(again, 0, 5)], deque([again, fresh])
    t.fail(t.running[0], "lost")
    assert list(t.queue) == [fresh] and t.draft is None and t.events[-1] == ("error", "lost")
