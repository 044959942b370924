"""A story being made: whatever is done to it, at any moment, it stays one that could have been filmed from scratch."""
import io
import random
import shutil
import threading
import time

import pytest
import torch
from PIL import Image

from shotstream.app.director import Director, load_story, subtitles
from shotstream.data.script import load_script, read_video
from shotstream.generate.stream import Frames
from shotstream.model.files import InputError, WriteError

CAPTION = "a red ball with a hat in the forest by day."
PROMPTS = ["wide shot: the ball waves.", "close up: the ball jumps.", "panning shot: the ball walks right."]

@pytest.fixture(scope="module")
def scratch(pipe):
    "Films a list of (prompt, latents, kept, seed) with a plain stream; remembers what it filmed"
    known = {(): []}
    def film(recipe):
        recipe = tuple(recipe)
        if recipe not in known:
            stream = pipe.stream(CAPTION)
            before = film(recipe[:-1])
            for video, text, _ in before: stream.history.add(video, text)
            prompt, latents, kept, seed = recipe[-1]
            stream.next_shot(prompt, latents=latents, seed=seed)
            video = torch.cat([next(stream).video for _ in range(kept)])
            stream.finish()
            known[recipe] = [*before, (video, stream.history.shots[-1].text, stream.history.shots[-1])]
        return known[recipe]
    return film


def recipe(d): return [(s.prompt, s.latents, s.kept, s.seed) for s in d.shots]
def look(d): return d.name, {n: [id(s) for s in t] for n, t in d.story.branches.items()}


def is_valid(d, scratch):
    "Every shot of every take is what filming from scratch gives, and so is what later shots look back at"
    for takes in d.story.branches.values():
        again = scratch((s.prompt, s.latents, s.kept, s.seed) for s in takes)
        for k, (s, (video, text, still)) in enumerate(zip(takes, again, strict=True)):
            assert len(s.video) == 1 + 4*(s.kept-1) and 1 <= s.kept <= s.latents
            assert torch.equal(s.video, video) and torch.equal(s.text, text)
            mine = d.context_of(k, s)
            assert mine.number == k and mine.frames == len(s.video) and list(mine.latents) == list(still.latents)
            assert all(torch.equal(mine.latents[f], still.latents[f]) for f in mine.latents)


def test_same_film_as_a_stream(pipe):
    stream, films = pipe.stream(CAPTION, seed=2), []
    for k in range(3):
        stream.next_shot(PROMPTS[k], latents=2+k, seed=None if k else 77)
        films.append(torch.cat([f.video for f in stream]))
    with Director(pipe, CAPTION, seed=2) as d:
        for k in range(3): d.next_shot(PROMPTS[k], latents=2+k, seed=None if k else 77)
        assert d.wait(60)
        assert [s.seed for s in d.shots] == [77, 2001, 2002] and d.running is None and d.waiting == []
        for s, film in zip(d.shots, films, strict=True): assert torch.equal(s.video, film)
        d.next_shot(PROMPTS[0], latents=1)               # after a pause, with the past already in memory
        assert d.wait(60)
    stream.next_shot(PROMPTS[0], latents=1)
    assert torch.equal(d.shots[3].video, next(stream).video)


@pytest.mark.parametrize("folder", [__file__, "", "a\0b", "x"*300, 3])
def test_a_folder_that_cannot_be_one_is_refused_at_once(pipe, folder):
    with pytest.raises(InputError): Director(pipe, CAPTION, folder=folder)


def test_bad_wishes_lose_nothing(pipe):
    with Director(pipe, CAPTION) as d:
        d.next_shot(PROMPTS[0], latents=1)
        for bad in (dict(prompt="the dragon jumps."), dict(prompt=""), dict(prompt="  "), dict(prompt=None),
                    dict(latents=0), dict(latents=22), dict(latents=2.),
                    dict(latents=True), dict(seed=-1), dict(seed="x"), dict(when="later"),
                    dict(prompt="the dragon jumps.", when="now")):
            with pytest.raises(ValueError): d.next_shot(**{"prompt": PROMPTS[1], **bad})
        d.next_shot(PROMPTS[1], latents=1)
        assert d.wait(60) and [s.prompt for s in d.shots] == PROMPTS[:2]
        for bad in (lambda: d.rewrite(2), lambda: d.rewrite(-1), lambda: d.rewrite(0, "the dragon jumps."),
                    lambda: d.rewrite(0, latents=22),
                    lambda: d.branch(3), lambda: d.branch(-1), lambda: d.switch("branch 9"), lambda: d.on("x", print),
                    lambda: d.export("story.doc"), lambda: d.branch(0.), lambda: d.branch("0"), lambda: d.switch([1]),
                    lambda: d.on("shot", 3), *(lambda s=s: d.export("a.png", scale=s) for s in (0, -1, .5, 1000))):
            before = look(d)
            with pytest.raises(ValueError): bad()
            assert look(d) == before and d.wait(60)
        with pytest.raises(RuntimeError): d.watch()
    with pytest.raises(RuntimeError): d.next_shot(PROMPTS[0])
    with pytest.raises(ValueError): Director(pipe, "a dragon.")
    assert len(d.shots) == 2


def actions(d, rng):
    "One thing that a person might do"
    n, prompt = len(d.shots), rng.choice(PROMPTS)
    do = rng.choice(["next", "next", "next", "now", "stop", "rewrite", "rewrite", "branch", "switch", "undo", "redo",
                     "wait", "sleep"])
    if do in ("next", "now"):
        d.next_shot(prompt, "now" if do == "now" else "end", rng.randint(1, 3), rng.choice([None, 1]))
    if do == "stop": d.stop()
    if do == "rewrite" and n:
        try: d.rewrite(rng.randrange(n + 1), rng.choice([None, prompt]), rng.choice([None, 2]))
        except ValueError: pass                           # the shot was gone
    if do == "branch" and len(d.branches) < 3:
        d.branch(rng.randint(0, min(n, len(d.shots))) if not d.timeline.queue and not d.timeline.running else 0)
    if do == "switch": d.switch(rng.choice(d.branches))
    if do == "undo": d.undo()
    if do == "redo": d.redo()
    if do == "wait": d.wait(60)
    if do == "sleep": time.sleep(rng.random()*.03)


@pytest.mark.parametrize("seed", range(18))
def test_whatever_is_done_the_story_stays_valid(pipe, scratch, seed):
    rng, errors, told = random.Random(seed), [], []
    with Director(pipe, CAPTION) as d:
        d.on("error", errors.append)
        d.on("shot", told.append)
        for _ in range(8): actions(d, rng)
        assert d.wait(60) and not d.timeline.running and not d.timeline.queue and d.timeline.draft is None
        is_valid(d, scratch)
        before = look(d)
        if d.undo():
            assert look(d) != before
            assert d.redo() and look(d) == before and not d.redo()
        steps = 0
        while d.undo(): steps += 1
        assert look(d) == ("branch 1", {"branch 1": []})
        for _ in range(steps): assert d.redo()
        assert look(d) == before and d.wait(60)
    assert errors == []


def test_stop_at_every_latent(pipe, scratch):
    for n in range(1, 5):
        with Director(pipe, CAPTION, paced=True, ahead=9) as d:
            d.next_shot(PROMPTS[0], latents=4)
            d.next_shot(PROMPTS[1], latents=2)
            seen = [d.watch(60) for _ in range(n)]
            assert [f.latent for f in seen] == list(range(n))
            d.stop()
            assert d.waiting == [] and d.running is None
            assert torch.equal(d.film, torch.cat([f.video for f in seen])) and d.shots[0].kept == n
            d.next_shot(PROMPTS[2], latents=1)
            assert d.watch(60).shot == 1 and d.wait(60)
            is_valid(d, scratch)


def test_stop_before_anything_was_seen(pipe):
    with Director(pipe, CAPTION, paced=True) as d:
        d.next_shot(PROMPTS[0])
        d.stop()
        assert d.shots == [] and not d.undo() and d.wait(60)
        assert d.watch() is None and d.watch(.01) is None


def test_cut_now(pipe, scratch):
    with Director(pipe, CAPTION, paced=True) as d:
        d.next_shot(PROMPTS[0], latents=9)
        d.next_shot(PROMPTS[1], latents=9)
        assert [d.watch(60).shot for _ in range(2)] == [0, 0]
        d.next_shot(PROMPTS[2], "now", latents=1)
        assert (f := d.watch(60)).shot == 1 and f.latent == 0
        assert recipe(d) == [(PROMPTS[0], 9, 2, 0), (PROMPTS[2], 1, 1, 1)]
        is_valid(d, scratch)


def test_pace(pipe):
    "The worker is never more than ahead + 1 latents before the viewer, and films over a cut without a pause"
    with Director(pipe, CAPTION, paced=True, ahead=2) as d:
        made = []
        d.on("frames", made.append)
        for p in PROMPTS: d.next_shot(p, latents=2)
        taken = []
        while (f := d.watch()) is not None:
            taken.append((f.shot, f.latent))
            assert len(d.shots) == sum(x[1] == 1 for x in taken)
            if len(taken) == 1:
                deadline = time.monotonic() + 60
                while len(made) < 4 and time.monotonic() < deadline: time.sleep(.001)
                time.sleep(.05)
                assert [(m.shot, m.latent) for m in made] == [(0, 0), (0, 1), (1, 0), (1, 1)] and d.shots == []
        assert taken == [(k, i) for k in range(3) for i in range(2)] and d.wait(60)


def test_rewriting(pipe, scratch):
    with Director(pipe, CAPTION) as d:
        for p in PROMPTS: d.next_shot(p, latents=2)
        d.wait(60)
        old = d.film
        d.rewrite(1)                                      # nothing changes: the same film
        d.wait(60)
        assert torch.equal(d.film, old)
        d.rewrite(1, PROMPTS[0], seed=5)
        d.next_shot(PROMPTS[1], latents=1)
        d.wait(60)
        assert recipe(d) == [(PROMPTS[0], 2, 2, 0), (PROMPTS[0], 2, 2, 5), (PROMPTS[2], 2, 2, 2), (PROMPTS[1], 1, 1, 3)]
        is_valid(d, scratch)
        assert d.undo() and len(d.shots) == 3 and d.undo() and torch.equal(d.film, old)    # a rewriting is one step
        assert d.redo() and d.redo() and len(d.shots) == 4


def test_rewriting_what_runs_and_waits(pipe, scratch):
    with Director(pipe, CAPTION, paced=True) as d:
        for p in PROMPTS: d.next_shot(p, latents=2)
        d.watch(60)
        d.rewrite(2, seed=8)
        d.rewrite(0, seed=9)
        assert d.shots == []
        while d.watch() is not None: pass
        assert recipe(d) == [(PROMPTS[0], 2, 2, 9), (PROMPTS[1], 2, 2, 1), (PROMPTS[2], 2, 2, 8)]
        is_valid(d, scratch)
        d.rewrite(0, seed=3)
        d.rewrite(2, seed=4)                              # not yet filmed again
        d.watch(60)
        d.rewrite(0, seed=5)
        while d.watch() is not None: pass
        assert [s.seed for s in d.shots] == [5, 1, 4]
        is_valid(d, scratch)
        before = look(d)
        d.rewrite(0, seed=6)
        d.stop()                                          # before anything of it was seen
        assert look(d) == before
        d.rewrite(0, latents=3)
        [d.watch(60) for _ in range(2)]
        d.stop()
        assert [(s.latents, s.kept) for s in d.shots] == [(3, 2)]
        assert d.undo() and look(d) == before
        d.redo()
        d.rewrite(0)                                      # a cut shot stays as long as it was
        while d.watch() is not None: pass
        assert recipe(d) == [(PROMPTS[0], 3, 2, 5)]
        is_valid(d, scratch)


def test_branches(pipe, scratch):
    with Director(pipe, CAPTION) as d:
        for p in PROMPTS[:2]: d.next_shot(p, latents=1)
        d.wait(60)
        name = d.branch(1)
        d.next_shot(PROMPTS[2], latents=1)
        d.wait(60)
        assert d.branches == ["branch 1", name] and d.name == name
        assert [s.prompt for s in d.shots] == [PROMPTS[0], PROMPTS[2]]
        d.switch("branch 1")
        assert [s.prompt for s in d.shots] == PROMPTS[:2]
        d.next_shot(PROMPTS[2], latents=1)
        d.wait(60)
        is_valid(d, scratch)


@pytest.mark.parametrize("fail_at", (1, 3, 5, 8))
def test_errors_end_only_their_shot(pipe, scratch, fail_at):
    "The transformer fails at one of its passes; what was finished stays, what waits is filmed"
    passes, threads = [], set()
    def fail(*_):
        passes.append(1)
        if len(passes) == fail_at: raise RuntimeError("out of memory")
    with Director(pipe, CAPTION) as d:
        errors = []
        d.on("error", lambda message: (errors.append(message), threads.add(threading.current_thread())))
        d.next_shot(PROMPTS[0], latents=1)
        d.wait(60)
        while not d.is_prepared(d.story.shots, d.settings): time.sleep(.001)
        finished = d.shots
        hook = pipe.transformer.register_forward_pre_hook(fail)
        try:
            d.next_shot(PROMPTS[1], latents=4)
            d.next_shot(PROMPTS[2], latents=1)
            assert d.wait(60)
        finally: hook.remove()
        assert len(errors) == 1 and "out of memory" in errors[0] and PROMPTS[1] in errors[0] and threads == {d.worker}
        assert d.shots[0] is finished[0] and [s.prompt for s in d.shots] == [PROMPTS[0], PROMPTS[2]]
        is_valid(d, scratch)


def test_an_error_gives_up_a_whole_rewriting(pipe, scratch):
    with Director(pipe, CAPTION) as d:
        for p in PROMPTS: d.next_shot(p, latents=1)
        d.wait(60)
        before, errors, passes = look(d), [], []
        d.on("error", errors.append)
        def fail(*_):
            passes.append(1)
            if len(passes) > 7: raise RuntimeError("broken")
        hook = pipe.transformer.register_forward_pre_hook(fail)
        try:
            d.rewrite(0, seed=4)
            assert d.wait(60)
        finally: hook.remove()
        assert errors and look(d) == before and not d.timeline.queue
        d.next_shot(PROMPTS[0], latents=1)
        d.wait(60)
        assert len(d.shots) == 4
        is_valid(d, scratch)


def test_events(pipe):
    with Director(pipe, CAPTION) as d:
        log = []
        d.on("frames", lambda f: log.append((f.shot, f.latent)))
        d.on("shot", log.append)
        d.on("idle", lambda: log.append("idle"))
        d.next_shot(PROMPTS[0], latents=2)
        d.wait(60)
        assert log == [(0, 0), (0, 1), 0, "idle"]
        errors = []
        d.on("shot", lambda k: 1/0)
        d.on("error", errors.append)
        d.on("idle", lambda: len(d.shots) < 3 and d.next_shot(PROMPTS[1], latents=1))   # the worker may ask for more
        d.next_shot(PROMPTS[0], latents=1)
        d.wait(60)
        assert len(d.shots) == 3 and len(errors) == 2 and "ZeroDivisionError" in errors[0]


def test_save_and_load(pipe, scratch, tmp_path):
    with Director(pipe, CAPTION) as d:
        d.next_shot(PROMPTS[0], latents=2)
        d.next_shot(PROMPTS[1], latents=1, seed=9)
        d.wait(60)
        d.branch(1)
        d.next_shot(PROMPTS[2], latents=1)
        d.wait(60)
        d.save(tmp_path/"film")
        d.next_shot(PROMPTS[1], latents=2)
        d.wait(60)
    assert {p.name for p in (tmp_path/"film").iterdir()} == {"story.json", "director.json", "shots", "film.mp4"}
    assert (load_script(tmp_path/"film"/"story.json").shots[0].caption == PROMPTS[0]
            and len(read_video(tmp_path/"film"/"film.mp4")) == 6)
    with Director.load(pipe, tmp_path/"film") as e:
        assert e.branches == d.branches and e.name == d.name and e.caption == CAPTION
        one, two = e.story.branches["branch 1"], e.story.branches["branch 2"]
        assert [len(t) for t in e.story.branches.values()] == [2, 2] and one[0] is two[0]
        assert torch.equal(e.film, torch.cat([s.video for s in d.shots[:2]]))
        is_valid(e, scratch)
        e.next_shot(PROMPTS[1], latents=2)
        e.wait(60)
        assert torch.equal(e.film, d.film)
        is_valid(e, scratch)
    with pytest.raises(FileNotFoundError): Director.load(pipe, tmp_path)
    for name in ("context.safetensors", "director.json"):
        (tmp_path/name).write_bytes(b"nonsense")
        with pytest.raises(InputError, match=name): Director.load(pipe, tmp_path)


def test_autosave(pipe, tmp_path):
    with Director(pipe, CAPTION, seed=3, folder=tmp_path/"a") as d:
        d.next_shot(PROMPTS[0], latents=1)
        d.wait(60)
        story, about = load_story(tmp_path/"a")                                   # as if it crashed here
        assert torch.equal(story.shots[0].video, d.film) and (about["caption"], about["seed"]) == (CAPTION, 3)
        d.next_shot(PROMPTS[1], latents=9)
        while d.running is None or not len(d.running): time.sleep(.001)
    with Director(pipe, folder=tmp_path/"a") as e: assert torch.equal(e.film, d.film) and len(e.shots) == 2
    errors = []
    d = Director(pipe, CAPTION, folder=tmp_path/"b")
    d.on("error", errors.append)
    shutil.rmtree(tmp_path/"b")
    (tmp_path/"b").write_text("no folder any more")
    d.next_shot(PROMPTS[0], latents=1)
    assert d.wait(60) and len(d.shots) == 1 and "could not save" in errors[0] and d.unsaved
    with pytest.raises(WriteError, match="still here"): d.close()


def test_export(pipe, tmp_path):
    with Director(pipe, CAPTION, seed=6, paced=True) as d:
        with pytest.raises(ValueError): d.export(tmp_path/"none.mp4")
        d.next_shot(PROMPTS[0], latents=2)
        d.next_shot(PROMPTS[1], latents=5)
        for _ in range(4): d.watch(60)
        d.next_shot(PROMPTS[2], "now", latents=1, seed=4)
        d.watch(60)
        d.caption = "a red ball with a hat in the forest by night."
        d.next_shot(PROMPTS[2], latents=1)
        d.watch(60)
        for suffix in ("mp4", "gif", "png", "srt", "py"): d.export(tmp_path/f"film.{suffix}")
    assert [s.kept for s in d.shots] == [2, 2, 1, 1]
    names = {}
    exec((tmp_path/"film.py").read_text(), names)
    assert torch.equal(names["film"], d.film)
    assert len(read_video(tmp_path/"film.mp4")) == len(d.film) == 12
    from PIL import Image
    assert Image.open(tmp_path/"film.gif").n_frames > 1 and Image.open(tmp_path/"film.png").height > 4*64
    assert (tmp_path/"film.srt").read_text() == subtitles(d.shots)
    assert subtitles(d.shots[:2]).splitlines() == ["1", "00:00:00,000 --> 00:00:00,312", PROMPTS[0], "", "2",
                                                   "00:00:00,312 --> 00:00:00,625", PROMPTS[1]]


def test_many_threads(pipe, scratch):
    "Several people direct at once"
    with Director(pipe, CAPTION) as d:
        def person(seed):
            rng = random.Random(seed)
            for _ in range(5):
                actions(d, rng)
                d.shots, d.running, d.waiting, d.branches, repr(d)
        people = [threading.Thread(target=person, args=(100+s,)) for s in range(4)]
        for p in people: p.start()
        for p in people: p.join()
        assert d.wait(120)
        is_valid(d, scratch)


def test_knobs_turn_for_the_shots_to_come(pipe, tmp_path):
    "Rewriting, loading and the exported program keep every shot's own settings"
    with Director(pipe, CAPTION, seed=5) as d:
        d.next_shot(PROMPTS[0], latents=2)
        d.next_shot(PROMPTS[1], latents=2)
        d.change(phi=0., steps=2)                            # what waits keeps its own
        d.next_shot(PROMPTS[2], latents=2)
        assert d.wait(60)
        d.change(budget=3, pinned=[(0, 2)], phi=1/6)
        d.next_shot(PROMPTS[0], latents=1)
        assert d.wait(60)
        assert [(s.settings.steps, s.settings.budget) for s in d.shots] == [(4, 6), (4, 6), (2, 6), (2, 3)]
        # the worker may still be filling the memory
        while not d.is_prepared(d.story.shots, d.settings): time.sleep(.001)
        assert d.stream.history.context()[1][0] == 0 and d.stream.cache.frames.count(-1) == 3
        before = [s.video for s in d.shots]
        with pytest.raises(ValueError, match="unknown setting"): d.change(fi=0.)
        d.export(tmp_path/"film.py")
        d.save(tmp_path/"saved")
        d.rewrite(1, seed=1001*5)
        d.rewrite(1, seed=5001)                              # as it was
        assert d.wait(60)
        for a, b in zip(before, d.shots, strict=True): assert torch.equal(a, b.video)
    names = {}
    exec((tmp_path/"film.py").read_text(), names)
    for a, b in zip(before, names["shots"], strict=True): assert torch.equal(a, b)
    with Director.load(pipe, tmp_path/"saved") as e:
        assert e.settings == d.settings and [s.settings for s in e.shots] == [s.settings for s in d.shots]


def test_knobs_change_films(pipe):
    def film(**settings):
        with Director(pipe, CAPTION, **settings) as d:
            for k in range(2): d.next_shot(PROMPTS[k], latents=2)
            assert d.wait(60)
            return [s.video for s in d.shots]
    plain = film()
    for change in (dict(phi=0.), dict(budget=1), dict(steps=2), dict(rule="first")):
        first, second = film(**change)
        # a first shot looks back at zeros of shot 0
        assert torch.equal(first, plain[0]) == (change.keys() & {"phi", "steps", "budget"} == set())
        assert not torch.equal(second, plain[1]), change


def test_a_waiting_prompt_keeps_its_story(pipe):
    with Director(pipe, CAPTION, paced=True, ahead=0) as d:
        for prompt in PROMPTS[:2]: d.next_shot(prompt, latents=2)
        d.caption = "a blue ball lives in the meadow by day."
        while d.watch(): pass
        assert [s.caption for s in d.shots] == [CAPTION, CAPTION]


def test_stills_are_encoded_once(pipe, monkeypatch):
    with Director(pipe, CAPTION) as d:
        d.next_shot(PROMPTS[0], latents=3)
        d.wait()
        shot, calls = d.shots[0], []
        before, shot.context = shot.context or d.context_of(0, shot), None
        monkeypatch.setattr(type(pipe), "encode", lambda self, frames: calls.append(len(frames)))
        again = d.context_of(0, shot)
        assert not calls and again.latents.keys() == before.latents.keys() and again.latents
        assert all(torch.equal(again.latents[f], z) for f, z in before.latents.items())


def test_desk_stays_on_the_branch_it_made(pipe):
    from shotstream.app.desk import Desk
    desk = Desk(pipe)
    try:
        desk.director.next_shot(PROMPTS[0], latents=1)
        for _ in range(400):
            if desk.director.shots: break
            time.sleep(.05)
        for n in (2, 3, 4):
            desk.branch(0)
            assert desk.director.name == desk.branches.value == f"branch {n}"
        desk.undo()
        assert desk.director.name == desk.branches.value == "branch 3"
        desk.branches.value = "branch 1"
        assert desk.director.name == "branch 1" and len(desk.director.shots) == 1
    finally: desk.close()


def test_desk_figures(pipe):
    """A prompt that waits for others says nothing about speed; a memory that is just being made has nothing to show;
    an error clears the strip; the end is said"""
    from shotstream.app.desk import NEW, Desk, cache_picture
    desk = Desk(pipe, opening=())
    try:
        desk.latents.value = 4
        desk.next_shot()
        desk.next_shot()
        assert desk.asked is None or desk.director.shots        # the second one waits
        deadline = time.monotonic() + 60
        while "your turn" not in desk.status.value and time.monotonic() < deadline: time.sleep(.02)
        assert "your turn" in desk.status.value and len(desk.timeline.children) == 2
        desk.timeline.children = ()
        desk.went_wrong("the disk is full")
        assert len(desk.timeline.children) == 2 and "the disk is full" in desk.status.value
        desk.director.close()                                   # nobody needs the memory any more
        desk.director.stream.cache = None
        assert desk.guarded(desk.read_out, Frames(0, 0, torch.zeros(1, 64, 64, 3, dtype=torch.uint8)))
    finally: desk.close()
    strips = [Image.open(io.BytesIO(cache_picture([(0, .5), (1, .5)], newest))) for newest in (1, 3)]
    row = [strip.getpixel((12*i + 6, 40)) for strip in strips for i in range(2)]
    assert [p == NEW for p in row] == [False, True, True, True]


def test_speed_counts_frames(pipe):
    "A shot of one latent has one frame, not four"
    with Director(pipe, CAPTION) as d:
        for _ in range(3): d.next_shot(PROMPTS[0], latents=1)
        assert d.wait(60)
        assert [n for _, n in d.took] == [1, 1, 1] and d.fps == pytest.approx(3/sum(s for s, _ in d.took))


def test_autosave_waits_for_a_save(pipe, tmp_path, monkeypatch):
    "A person's save() into the same folder is no other director"
    import shotstream.app.director as module
    errors, inside, save_story = [], threading.Event(), module.save_story
    def slowly(folder, *args):
        branches = save_story(folder, *args)
        inside.set()
        time.sleep(.3)                                           # written, but not noted yet
        return branches
    with Director(pipe, CAPTION, folder=tmp_path) as d:
        d.on("error", errors.append)
        d.next_shot(PROMPTS[0], latents=1)
        assert d.wait(60)
        monkeypatch.setattr(module, "save_story", slowly)
        saver = threading.Thread(target=d.save, args=(tmp_path,))
        saver.start()
        assert inside.wait(60)
        d.next_shot(PROMPTS[1], latents=1)                       # ends in an autosave
        assert d.wait(60)
        saver.join()
    assert errors == []
