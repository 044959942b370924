"""The director's desk without a browser: a button is an object like any other, and every twin in a browser is counted.
"""
import base64
import re
import threading
import time

import pytest
import torch
from ipywidgets.widgets.widget import _instances

from shotstream.app import director as director_module
from shotstream.app.desk import ERROR, Desk, finished, hero_of, ideas
from shotstream.app.director import Shot, load_story
from shotstream.generate.stream import Frames
from shotstream.model.files import InputError, WriteError

CAPTION = "a red ball with a hat lives in the meadow by day."
WAVE, JUMP = "wide shot: the ball waves.", "close up: the ball jumps."


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end: time.sleep(.01)
    return condition()


@pytest.fixture
def desk(pipe):
    desk = Desk(pipe, opening=())
    desk.latents.value = 2
    yield desk
    desk.close()


def fill(desk, count):
    "A story of so many shots, without filming them"
    def shot(k):
        return Shot(CAPTION, WAVE, 1, k, torch.full((1, 64, 64, 3), k, dtype=torch.uint8), torch.zeros(1, 1))
    timeline = desk.director.timeline
    with desk.director.lock: timeline.story = timeline.story.having([*timeline.story.shots, *map(shot, range(count))])


def test_a_hundred_shots_cost_what_five_cost(desk):
    "Widgets in the browser, and the time of a refresh, which is taken from the filming thread"
    counts, seconds = [], []
    for _ in range(20):
        fill(desk, 5)
        desk.refresh_timeline()
        counts.append(len(_instances))
        start = time.perf_counter()
        for _ in range(5): desk.refresh_timeline()
        seconds.append((time.perf_counter() - start)/5)
    assert len(desk.director.shots) == 100 and counts[0] == counts[-1] < 700, counts
    assert seconds[-1] < 3*max(seconds[:4]) + .002 and seconds[-1] < .02, seconds
    assert [c.index for c in desk.timeline.children] == list(range(88, 100))
    assert desk.where.value == "shots 89 to 100 of 100"
    for _ in range(20): desk.turn_page(1)
    assert desk.timeline.children[0].index == 0
    desk.turn_page(-1), desk.turn_page(-9)
    assert desk.timeline.children[-1].index == 99 and len(_instances) == counts[0]


def test_a_closed_desk_leaves_nothing(pipe):
    threads, widgets = set(threading.enumerate()), set(_instances)
    for _ in range(2):
        desk = Desk(pipe, opening=())
        desk.guarded(desk.order, "end", WAVE)
        desk.close()
        desk.close()
    assert set(threading.enumerate()) <= threads and set(_instances) <= widgets


def test_a_cell_that_is_run_again_closes_its_desk(pipe, monkeypatch):
    import IPython
    message = {"metadata": {"cellId": "a"}, "header": {"msg_id": "1"}}
    class Shell:
        @staticmethod
        def get_parent(): return message
    monkeypatch.setattr(IPython, "get_ipython", Shell)
    one, two = (Desk(pipe, opening=()) for _ in range(2))             # two desks in one cell are two desks
    assert not one.closed
    message["header"] = {"msg_id": "2"}
    with_new = Desk(pipe, opening=())
    assert one.closed and two.closed and one.director.closed and not with_new.closed
    with_new.close()


def test_a_browser_rounds(desk):
    "The slider for φ returns .16666666666666663"
    desk.say("all is well")
    desk.sliders["phi"].value = .16666666666666663
    assert desk.director.settings.phi == 1/6 and "all is well" in desk.status.value
    desk.sliders["phi"].value = .25
    assert desk.director.settings.phi == .25 and "0.25" in desk.status.value
    desk.untouched()
    assert desk.director.settings.phi == 1/6


def test_typing(desk):
    "No word is judged before it is finished, and nothing that was said is wiped"
    desk.complain("could not save")
    for n in range(len(JUMP) + 1):
        desk.prompt.value = JUMP[:n]
        assert desk.hint.value == "" and "could not save" in desk.status.value
    for n, red in ((len("the drago"), False), (len("the dragon"), False), (len("the dragon "), True)):
        desk.prompt.value = "the dragon "[:n]
        assert (ERROR in desk.hint.value) == red
    desk.prompt.value = ""
    assert desk.hint.value == ""
    assert finished("the ball's ha") == "the ball's " and finished("¿") == "¿"


def test_playing_and_filming_do_not_mix(desk):
    desk.order("end", WAVE)
    assert until(lambda: desk.director.shots and not desk.director.busy)
    shown = []
    desk.replay(0)
    desk.latents.value = 9
    desk.order("end", JUMP)
    assert desk.replaying == []
    with pytest.raises(InputError, match="goes first"): desk.replay(0)
    with pytest.raises(InputError, match="goes first"): desk.play_all()
    desk.replaying = [(0, n, f) for n, f in enumerate(desk.director.shots[0].video)]*50      # as if clicked just before
    watch = desk.director.watch
    desk.director.watch = lambda timeout: shown.append(len(desk.replaying)) or watch(timeout)
    assert until(lambda: len(desk.director.shots) == 2)
    assert desk.replaying == []


def test_pause(desk):
    desk.latents.value = 9
    desk.order("end", WAVE)
    assert until(lambda: desk.director.running is not None and len(desk.director.running))
    desk.pause()
    time.sleep(.5)
    seen = len(desk.director.running)
    time.sleep(.5)
    assert len(desk.director.running) == seen and desk.director.shots == []
    desk.pause()
    assert until(lambda: desk.director.shots)
    desk.play_all()
    desk.pause()
    assert until(lambda: desk.replaying) and desk.paused
    desk.order("end", JUMP)                                          # whoever films wants to see it
    assert not desk.paused and until(lambda: len(desk.director.shots) == 2)


def test_taking_the_film_away(desk, tmp_path, monkeypatch):
    "In a thread, with a bar, and with links to the files"
    monkeypatch.chdir(tmp_path)
    desk.take_away_failed = not desk.guarded(desk.take_away, "mp4")
    assert desk.take_away_failed and "nothing to export" in desk.status.value
    desk.order("end", WAVE)
    assert until(lambda: desk.director.shots)
    export, go, at = desk.director.export, threading.Event(), []
    def slow(path, model):
        go.wait(30)
        at.append((desk.progress.value, desk.progress.max, desk.progress.layout.display))
        export(path, model=model)
    monkeypatch.setattr(desk.director, "export", slow)
    start = time.monotonic()
    desk.take_away("mp4", "gif", "srt")
    assert time.monotonic() - start < 1 and not desk.guarded(desk.take_away, "gif")
    assert "still busy" in desk.status.value
    go.set()
    desk.worker.join(60)
    assert at == [(0, 3, None), (1, 3, None), (2, 3, None)] and desk.progress.layout.display == "none"
    links = dict(re.findall(r'download="(.*?)" href="data:application/octet-stream;base64,(.*?)"', desk.links.value))
    assert {n: base64.b64decode(d) for n, d in links.items()} == {p.name: p.read_bytes()
        for p in (tmp_path/"out").iterdir()}
    assert set(links) == {"story.mp4", "story.gif", "story.srt"}
    desk.largest = 10
    assert "href" not in desk.link(tmp_path/"out"/"story.mp4")


def test_nothing_typed_is_a_surprise(desk):
    desk.next_shot()
    prompt = desk.director.coming[0]
    assert prompt in ideas(CAPTION) and desk.surprise() != prompt
    desk.caption.value = "  "
    assert not desk.guarded(desk.next_shot) and "the story is empty" in desk.status.value
    assert hero_of("two stars and a cone.") == "cone" and hero_of("") == "ball"


def test_the_pencil(desk):
    "Takes the shot's own prompt; nothing is filmed before one says so"
    desk.order("end", WAVE)
    assert until(lambda: not desk.director.busy and desk.director.shots)
    before = desk.director.shots[0]
    desk.edit(0)
    assert desk.prompt.value == WAVE and not desk.director.busy and desk.shoot.description == "Shoot 1 again"
    desk.stop()
    assert desk.prompt.value == "" and desk.shoot.description == "Shoot" and desk.director.shots == [before]
    desk.edit(0)
    desk.prompt.value = JUMP
    desk.next_shot()
    assert until(lambda: not desk.director.busy and [s.prompt for s in desk.director.shots] == [JUMP])
    assert len(desk.director.shots) == 1 and desk.prompt.value == "" and desk.shoot.description == "Shoot"


def test_it_opens_with_a_film(pipe, tmp_path):
    "Four shots; who asks for one meanwhile does not wait. Opened again, the film plays"
    blank = Desk(pipe, opening=())
    dark = blank.picture.value
    blank.close()
    desk = Desk(pipe, "a blue cube lives in the city by night.", folder=tmp_path)
    assert len(desk.director.coming) == 4 and all("cube" in p for p in desk.director.coming)
    assert until(lambda: desk.picture.value != dark)
    desk.latents.value = 1
    desk.order("end", "wide shot: the cube waves.")
    assert desk.director.coming == ["wide shot: the cube waves."]
    assert until(lambda: not desk.director.busy and "your turn" in desk.status.value)
    count = len(desk.director.shots)
    desk.close()
    again = Desk(pipe, folder=tmp_path)
    assert until(lambda: "played again" in again.readout.value)
    assert len(again.director.shots) == count and not again.director.busy
    again.close()


def test_the_keyboard_belongs_to_the_prompt(desk, monkeypatch):
    "In a notebook a b would make a cell, an m would make the desk vanish"
    calls = []
    monkeypatch.setattr(type(desk.prompt), "focus", lambda self: calls.append(self))
    buttons = []
    def find(w):
        if type(w).__name__ == "Button": buttons.append(w)
        for c in getattr(w, "children", ()): find(c)
    find(desk)
    assert len(buttons) > 20
    desk.take_away = desk.order = lambda *_: None
    for b in buttons: b.click()
    assert calls == [desk.prompt]*len(buttons)


def test_what_is_wrong_with_the_folder_stays_on_the_page(pipe, tmp_path, monkeypatch):
    write = director_module.write_whole
    def full(path, w): raise WriteError(f"{path} could not be written (No space left on device)")
    monkeypatch.setattr(director_module, "write_whole", full)
    monkeypatch.setattr(director_module, "RETRY", .05)
    desk = Desk(pipe, folder=tmp_path, opening=())
    desk.latents.value = 1
    desk.order("end", WAVE)
    assert until(lambda: "No space left" in desk.notice.value)
    desk.prompt.value = JUMP
    assert "No space left" in desk.notice.value and ERROR in desk.notice.value
    monkeypatch.setattr(director_module, "write_whole", write)
    assert until(lambda: desk.notice.value == "") and len(load_story(tmp_path)[0].shots) == 1
    newer = Desk(pipe, folder=tmp_path)
    assert until(lambda: "second time" in desk.notice.value) and len(newer.director.shots) == 1
    assert not desk.guarded(desk.order, "end", WAVE) and "second time" in desk.status.value
    for d in (desk, newer): d.close()
    (tmp_path/"director.json").write_text("{")
    for p in (tmp_path/"shots").iterdir(): p.write_bytes(b"?")
    with_nothing = Desk(pipe, folder=tmp_path, opening=())
    assert "Nothing was deleted" in with_nothing.notice.value and (tmp_path/"director.json").read_text() == "{"
    with_nothing.close()


def test_seconds_and_themes(desk):
    "Units of people, and colours of the page"
    assert [label for label, n in desk.latents.options if n in (1, 9, 21)] == ["0.1 s", "2.1 s", "5.1 s"]
    desk.read_out(Frames(1, 3, torch.zeros(4, 64, 64, 3, dtype=torch.uint8)))
    assert "shot 2, 0.8 s" in desk.readout.value and "latent" not in desk.readout.value
    desk.complain("x")
    assert "var(--jp-error-color1" in desk.status.value
    fill(desk, 1)
    desk.refresh_timeline()
    assert desk.timeline.children[0].label.value.startswith(f"<b>1</b> {WAVE}")
    assert "0.1" in desk.timeline.children[0].label.value


def test_branches(desk):
    fill(desk, 3)
    desk.refresh_timeline()
    assert desk.branches.layout.display == "none"
    desk.branch(1)
    assert len(desk.timeline.children) == 1 and desk.branches.value == "branch 2"
    assert desk.branches.layout.display is None
    desk.branches.value = "branch 1"                                 # chosen by a person
    assert desk.director.name == "branch 1" and len(desk.timeline.children) == 3
    desk.begin_anew()
    assert desk.director.name == "branch 3" and desk.timeline.children == ()
    desk.undo()
    assert desk.director.name == "branch 1" and len(desk.timeline.children) == 3
