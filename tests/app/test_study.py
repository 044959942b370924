"""The A/B panel and the blind study: what the notebook does not show."""
import csv
import random
import threading
import time

import ipywidgets as W
import pytest
import torch

from shotstream.generate.pipeline import Film, ShotStreamPipeline
from shotstream.data.script import Script, ShotPrompt, write_video
from shotstream.model.files import InputError
from shotstream.model.transformer import ShotTransformer
from shotstream.app.study import (
    COLUMNS, COMPARISONS, QUESTIONS, ABPanel, Clips, Metronome, Panel, Study, StudyPanel, as_film, blind_labels,
    noise_of, rates_table, read_answers, selection_rates, side_by_side, wilson)

STORY = dict(caption="a red ball with a hat lives in the meadow by day.", seed=5,
             shots=[dict(caption="wide shot: the ball waves.", frames=5)])


def film(grey, frames=2): return torch.full((frames, 4, 4, 3), grey, dtype=torch.uint8)
def films(names, items=4): return {name: [film(20*i) for _ in range(items)] for i, name in enumerate(names, 1)}
def none_but(**chosen): return {q: chosen.get(q.split()[-1].lower(), []) for q in QUESTIONS}


@pytest.fixture(scope="module")
def toy(): return ShotStreamPipeline.from_pretrained("toy")


@pytest.fixture(scope="module")
def pipe(toy):
    "The toy with a student that knows nothing, but is quick"
    torch.manual_seed(0)
    student = ShotTransformer(num_attention_heads=2, attention_head_dim=16, in_channels=32, out_channels=32,
                              text_dim=96, freq_dim=16, ffn_dim=32, num_layers=1).eval()
    return ShotStreamPipeline(**{**toy.components, "transformer": student})


# the same noise

@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_draw_the_same_noise(toy, name, monkeypatch):
    drawn, ends, randn = [], {}, torch.randn
    def watched(*a, **k):
        x = randn(*a, **k)
        if k.get("generator"): drawn.append(x)                               # new layers draw their weights without one
        return x
    monkeypatch.setattr(torch, "randn", watched)
    out = side_by_side(toy, STORY, COMPARISONS[name], follow=lambda who, frames: ends.update({who: len(drawn)}))
    first, second = ends.values()
    assert second == 2*first > 0 and all(torch.equal(a, b) for a, b in zip(drawn[:first], drawn[first:]))
    a, b = out.values()
    assert len(a[0]) == 5 and torch.equal(a[0], b[0]) == (name == "context")      # a first shot has no past


def test_a_film_is_the_pipelines_own(pipe):
    out = side_by_side(pipe, STORY, {"one": {}, "other": dict(phi=0.)}, seed=8)
    assert torch.equal(out["one"][0], pipe(STORY, seed=8).shots[0])
    assert torch.equal(out["other"][0], pipe(STORY, seed=8, phi=0.).shots[0])
    assert not torch.equal(out["one"][0], pipe(STORY).shots[0])


@pytest.mark.parametrize("a, b",
                         [(dict(seed=1), dict(seed=2)), (dict(steps=2), {}), (dict(size=(64, 96)), dict(size=(64, 64))),
                          ({}, dict(seed=9))])
def test_other_noise_is_refused_before_filming(pipe, a, b):
    def never(name, frames): raise AssertionError("filmed")
    with pytest.raises(ValueError, match="same noise"): side_by_side(pipe, STORY, {"a": a, "b": b}, follow=never)


def test_noise_that_is_shared(pipe):
    assert noise_of(pipe, size=(64, 64), steps=4) == noise_of(pipe) != noise_of(pipe, seed=1)


@pytest.mark.parametrize("settings, says", [
    ({}, "nothing to compare"), ({"a": {}, "b": dict(colour=1)}, "b: unknown setting 'colour'"),
    ({"a": dict(rule="best")}, "a: rule: one of"),
    ({"a": dict(model="stage9")}, "a: a student's stage"), ({"a": dict(phi=0.), "b": dict(budget=99)}, "b: budget")])
def test_bad_settings(pipe, settings, says):
    def never(name, frames): raise AssertionError("filmed")
    with pytest.raises(ValueError, match=says): side_by_side(pipe, STORY, settings, follow=never)


def test_pipelines_by_name(pipe):
    out = side_by_side({"mine": pipe}, STORY, {"a": dict(model="mine")})
    assert torch.equal(out["a"][0], pipe(STORY).shots[0])
    for settings in ({"a": {}}, {"a": dict(model="yours")}):
        with pytest.raises(ValueError, match="there are 'mine'"): side_by_side({"mine": pipe}, STORY, settings)


def test_a_story_is_checked_first(pipe):
    with pytest.raises(ValueError, match="dragon"):
        side_by_side(pipe, {**STORY, "shots": ["wide shot: the dragon waves."]}, COMPARISONS["cuts"])


# blind

@pytest.mark.parametrize("n", [2, 3, 8])
def test_labels_are_balanced_in_every_square(n):
    names = [f"s{i}" for i in range(n)]
    rows = blind_labels(names, 5*n + 1, random.Random(0))
    assert len(rows) == 5*n + 1
    for k in range(5):
        for label in "ABCDEFGH"[:n]: assert {row[label] for row in rows[k*n:k*n+n]} == set(names)
    assert all(set(row.values()) == set(names) and list(row) == list("ABCDEFGH"[:n]) for row in rows)


def test_labels_are_shuffled():
    pairs = {tuple(row.values()) for row in blind_labels("abc", 300, random.Random(0))}
    assert len(pairs) == 6                                                        # all orders, not only turned ones


def test_order_depends_on_seed_and_rater_only():
    names = ["x", "y", "z"]
    key = lambda **k: list(Study(films(names, 12), **k).key.items())
    assert key() == key() == list(Study({n: films(names, 12)[n] for n in reversed(names)}).key.items())
    assert key() != key(seed=1) and key() != key(rater="Ann") and [i for i, _ in key()] != list(range(12))


def states(widget): # All that a browser is told
    return str(widget.get_state()) + "".join(states(c) for c in getattr(widget, "children", ()))


def test_a_page_never_names_systems(tmp_path):
    names = ["secret one", "secret two", "secret three"]
    room = StudyPanel(Study(films(names, 2), path=tmp_path/"me.csv"))
    while room.item is not None:
        room.worker.join()
        assert "secret" not in states(room)
        for row in room.toggles.values(): row[1].value = True
        assert room.guarded(room.next_item)
    assert "secret" not in states(room)
    room.guarded(room.reveal)
    assert all(name in room.status.value for name in names)
    room.close()


def test_clips_are_those_of_the_key():
    study = Study(films(["x", "y"]))
    grey = {"x": 20, "y": 40}
    for item in study.order:
        assert {label: clip[0, 0, 0, 0].item() for label,
                clip in study.clips(item).items()} == {label: grey[s] for label, s in study.key[item].items()}
        assert list(study.clips(item)) == ["A", "B"]


# answers

def test_several_choices_none_and_again():
    study = Study(films(["x", "y", "z"]))
    item = study.next
    study.answer(item, none_but(quality=["A", "C"]))
    chosen = lambda: {(r["question"], r["label"]) for r in study.rows if r["chosen"]}
    assert chosen() == {("Visual Quality", "A"), ("Visual Quality", "C")} and len(study.rows) == 9
    study.answer(item, none_but(following=["B"]))                                # a second thought
    assert chosen() == {("Prompt Following", "B")} and len(study.rows) == 9
    assert study.done == [item] and study.next == study.order[1]
    rates = {(r.question, r.system): r for r in study.rates()}
    assert rates["Prompt Following", study.key[item]["B"]].rate == 1 and rates["Visual Quality", "x"][2] == 0
    assert {r.answers for r in rates.values()} == {1}


@pytest.mark.parametrize("item, choices, says", [
    (0, {}, "answer all"), (0, {**none_but(), "Taste": []}, "answer all"),
    (0, none_but(quality=["D"]), "unknown label D"),
    (4, none_but(), "no item 4"), (None, none_but(), "no item")])
def test_bad_answers_change_nothing(item, choices, says):
    study = Study(films(["x", "y", "z"]))
    with pytest.raises(ValueError, match=says): study.answer(item, choices)
    assert study.rows == [] and study.done == []


@pytest.mark.parametrize("arguments, says", [
    (dict(films={"x": [film(1)]}), "2 to 26"), (dict(films={"x": [], "y": []}), "one film per item"),
    (dict(films={"x": [film(1)], "y": [film(1)]*2}), "x: 1, y: 2"),
    (dict(films=films("xy"), questions={}), "one question"),
    (dict(films=films("xy"), prompts=["a"]), "4 items and 1 prompts")])
def test_bad_studies(arguments, says):
    with pytest.raises(ValueError, match=says): Study(**arguments)


def test_resume(tmp_path):
    path, kwargs = tmp_path/"new"/"ann.csv", dict(rater='Ann, "the best"', seed=4)
    study = Study(films(["x", "y"]), path=path, **kwargs)
    for item in study.order[:2]: study.answer(item, none_but(quality=["A"]))
    again = Study(dict(reversed(films(["x", "y"]).items())), path=path, **kwargs)
    assert again.rows == study.rows and again.next == study.order[2]
    while again.next is not None: again.answer(again.next, none_but())
    assert Study.from_csv(path, films(["x", "y"]), **kwargs).next is None
    assert [p.name for p in path.parent.iterdir()] == ["ann.csv"]
    other = tmp_path/"copy.csv"
    study.to_csv(other)
    assert read_answers(other) == study.rows
    assert list(csv.reader(other.open(encoding="utf-8")))[0] == list(COLUMNS)


@pytest.mark.parametrize("change, says", [
    (dict(seed=1), "another seed"), (dict(rater="Bob"), "answers of Ann"),
    (dict(films=films(["x", "q"])), "unknown system y"),
    (dict(questions={"Fun": "?"}), "other questions"), (dict(films=films("xy", 3)), "other items")])
def test_a_file_of_another_study_is_refused(tmp_path, change, says):
    path = tmp_path/"ann.csv"
    study = Study(films(["x", "y"]), path=path, rater="Ann")
    for item in study.order: study.answer(item, none_but())
    before = path.read_bytes()
    with pytest.raises(ValueError, match=says):
        Study(**{**dict(films=films(["x", "y"]), path=path, rater="Ann"), **change})
    assert path.read_bytes() == before


def test_answers_are_about_the_films_that_were_shown(tmp_path):
    path, shown = tmp_path/"a.csv", films("xy")
    study = Study(shown, path=path)
    first, second = study.order[:2]
    study.answer(first, none_but())
    other = {**shown, "x": list(shown["x"])}
    other["x"][second] = film(77)                                    # nobody has seen that one yet
    assert Study(other, path=path).done == [first]
    other["x"][first] = film(77)
    with pytest.raises(ValueError, match=f"about other films than these: x's film {first};"): Study(other, path=path)


def test_films_in_files_are_known_by_their_files(tmp_path):
    for name in "xy": write_video(tmp_path/f"{name}.mp4", film(50 if name == "x" else 90, 3))
    one = {name: [tmp_path/f"{name}.mp4"] for name in "xy"}
    study = Study(one, path=tmp_path/"a.csv")
    study.answer(0, none_but())
    assert Study(one, path=tmp_path/"a.csv").done == [0]
    write_video(tmp_path/"x.mp4", film(51, 3))
    with pytest.raises(ValueError, match="x's film 0"): Study(one, path=tmp_path/"a.csv")


def test_answers_from_before_films_were_named(tmp_path):
    path = tmp_path/"a.csv"
    study = Study(films("xy"), path=path)
    study.answer(study.order[0], none_but(quality=["A"]))
    rows = [[r[c] for c in COLUMNS if c != "film"] for r in study.rows]
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f, lineterminator="\n").writerows([[c for c in COLUMNS if c != "film"], *rows])
    again = Study(films("xy"), path=path)
    assert again.done == study.done and again.rates() == study.rates()


HEAD = ",".join(COLUMNS)


@pytest.mark.parametrize("content", [
    "", "a,b\n1,2\n", f"{HEAD}\nAnn,0,q,A,x\n", f"{HEAD}\nAnn,zero,q,A,x,1\n", f"{HEAD}\nAnn,0,q,A,x,2\n",
    f"{HEAD}\nAnn,0,q,A,x,,1,1\n", f'{HEAD}\n"Ann',
    b"\xff\xfe\x00"])
def test_bad_csv(tmp_path, content):
    path = tmp_path/"bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match="bad.csv"): read_answers(path)
    with pytest.raises(ValueError, match="bad.csv"): Study(films("xy"), path=path)


def test_lost_rows_are_noticed(tmp_path):
    path = tmp_path/"a.csv"
    study = Study(films("xy"), path=path)
    study.answer(study.next, none_but())
    lines = path.read_text().splitlines()
    for damaged in (lines[:-1], [*lines, lines[-1]]):
        path.write_text("\n".join(damaged) + "\n")
        with pytest.raises(ValueError, match="rows were lost"): Study(films("xy"), path=path)


def test_missing_csv(tmp_path):
    with pytest.raises(FileNotFoundError): Study.from_csv(tmp_path/"no.csv", films("xy"))
    with pytest.raises(FileNotFoundError): read_answers(tmp_path/"no.csv")


def test_rates_of_many_people():
    people = []
    for name in ("Ann", "Bob"):
        study = Study(films("xy"), rater=name)
        for item in study.order:
            study.answer(item, none_but(quality=[label for label, s in study.key[item].items() if s == "x"]))
        people += study.rows
    rates = selection_rates(people)
    best = next(r for r in rates if (r.question, r.system) == ("Visual Quality", "x"))
    assert (best.rate, best.answers) == (1, 8) and best.low > .6 and best.high == 1
    lines = rates_table(rates).splitlines()
    assert len(lines) == 3 and lines[1].startswith("x") and "100 % [68, 100] of 8" in lines[1]
    assert selection_rates([]) == [] and rates_table([]) == ""


def test_wilson_is_never_outside():
    for n in (1, 2, 50):
        for k in range(n+1):
            low, high = wilson(k, n)
            assert 0 <= low <= k/n <= high <= 1 and high - low > 0


# films

def test_films_from_everywhere(tmp_path):
    shots = [torch.zeros(1, 16, 16, 3, dtype=torch.uint8), torch.full((5, 16, 16, 3), 200, dtype=torch.uint8)]
    write_video(tmp_path/"a.mp4", torch.cat(shots))
    for source in (torch.cat(shots), shots, Film(shots, None, [], 0.), torch.cat(shots).numpy(), tmp_path/"a.mp4",
                   str(tmp_path/"a.mp4")):
        assert as_film(source).shape == (6, 16, 16, 3)
    for bad in (torch.zeros(2, 4, 4, 3), torch.zeros(4, 4, 3, dtype=torch.uint8), [],
                torch.zeros(0, 4, 4, 3, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="a film is"): as_film(bad)


def test_a_lost_film_is_a_message(tmp_path):
    room = StudyPanel(Study({"x": [tmp_path/"no.mp4"], "y": [film(1)]}))
    room.worker.join()
    assert "no such film" in room.status.value and "c0392b" in room.status.value
    room.close()


# widgets

def test_clips_play_to_the_end_and_again():
    clips = Clips()
    clips.load({"a": film(10, 6), "b": film(200, 3)})
    for _ in range(2):
        clips.play()
        limit = time.time() + 20
        while clips.at != 5 and time.time() < limit: time.sleep(.01)
        assert clips.slider.value == 5
    clips.close()


def test_a_slow_page_still_ends_on_the_last_frame(monkeypatch):
    monkeypatch.setattr(Metronome, "tick", lambda self: False)
    clips = Clips()
    clips.load({"a": film(10, 6)})
    clips.run(clips.turn)
    assert clips.slider.value == 5


def test_a_hand_on_the_slider_stops_the_player():
    clips = Clips()
    clips.load({"a": film(10, 200)})
    clips.play()
    while clips.at < 2: time.sleep(.01)
    clips.slider.value = 150
    time.sleep(.3)
    assert clips.slider.value == clips.at == 150
    clips.play()
    while not 2 <= clips.at < 150: time.sleep(.01)
    clips.load({"b": film(1, 3)})                                                 # other films stop it too
    time.sleep(.2)
    assert clips.slider.value == 0 and clips.slider.max == 2
    clips.close()


def test_clips_of_many_sizes():
    clips = Clips(width=400)
    clips.load({c: torch.zeros(1, 8*(k+1), 16*(k+1), 3, dtype=torch.uint8) for k,
                c in enumerate("ABCDE")} | {"long": torch.zeros(1, 48, 832, 3, dtype=torch.uint8)})
    assert all(int(p.width) <= 96 and p.value for p in clips.pictures)
    clips.load({})
    clips.play()
    assert clips.row.children == ()
    clips.close()


def ready_room(pipe, **kwargs):
    room = ABPanel(pipe, **kwargs)
    room.prompts.value, room.latents.value = "wide shot: the ball waves.", 1
    return room


@pytest.mark.parametrize("field, value, says", [
    ("prompts", "", "shots"), ("prompts", "  \n ", "shots"), ("prompts", "🦊 "*200, "shots"),
    ("prompts", "word"*2500, "shots"),
    ("caption", "", "caption"), ("caption", "a <b>dragon</b>.", "dragon"), ("number", -1, "seed")])
def test_mistakes_in_the_ab_room(pipe, field, value, says):
    room = ready_room(pipe)
    getattr(room, field).value = value
    room.guarded(room.film)
    if room.worker: room.worker.join()
    assert "c0392b" in room.status.value and says in room.status.value and len(room.status.value) < 1000
    assert "<b>" not in room.status.value and room.films == {}
    room.close()


def test_an_interrupted_click_says_so(pipe):
    "The kernel's interrupt may hit a click; it must not vanish in silence"
    room = ready_room(pipe)
    def interrupted(): raise KeyboardInterrupt
    assert not room.guarded(interrupted) and "interrupted" in room.status.value
    room.close()


def test_one_filming_at_a_time_and_stop(pipe):
    room = ready_room(pipe)
    room.latents.value = 21
    assert room.guarded(room.film)
    assert not room.guarded(room.film) and "still busy" in room.status.value
    room.stopping.set()
    room.worker.join(60)
    assert "stopped" in room.status.value and room.films == {}
    room.latents.value = 1
    assert room.guarded(room.film)                                                # and it works again
    room.worker.join()
    assert "same noise" in room.status.value and len(room.clips.pictures) == 2
    room.close()


def test_every_preset_films(pipe):
    room = ready_room(pipe)
    for name, settings in COMPARISONS.items():
        room.choice.value = name
        assert room.guarded(room.film)
        room.worker.join()
        assert list(room.films) == list(settings), room.status.value
    room.close()


def test_study_room_goes_on(tmp_path):
    path, prompts = tmp_path/"a.csv", [Script("a & b", (ShotPrompt("one"), ShotPrompt("two")))]*3
    room = StudyPanel(Study(films("xy", 3), path=path, prompts=prompts))
    room.worker.join()
    assert "a &amp; b\none\ntwo" in room.prompt.value and "Item 1 of 3" in room.head.value and room.bar.value == 0
    for row in room.toggles.values(): row[-1].value = True                        # none
    assert room.guarded(room.next_item) and "Item 2 of 3" in room.head.value
    assert not any(t.value for row in room.toggles.values() for t in row)
    room.close()
    room = StudyPanel(Study(films("xy", 3), path=path, prompts=prompts))
    room.worker.join()
    assert "Item 2 of 3" in room.head.value and room.bar.value == 1
    room.toggles["Visual Quality"][0].value = True
    assert not room.guarded(room.next_item) and "Visual Consistency, Prompt Following" in room.status.value
    assert len(read_answers(path)) == 6
    room.close()


def test_messages_are_text():
    room = Panel([])
    room.status = W.HTML()
    assert not room.guarded(lambda: 1/0) and "division" in room.status.value
    room.complain("<b>x</b> & "*1000)
    assert "&lt;b&gt;x" in room.status.value and "<b>" not in room.status.value and len(room.status.value) < 5000


def test_none_excludes_clips():
    room = StudyPanel(Study(films("xy", 1)))
    a, b, none = room.toggles["Visual Quality"]
    a.value = b.value = True
    assert a.value and b.value
    none.value = True
    assert (a.value, b.value, none.value) == (False, False, True)
    a.value = True
    assert (a.value, b.value, none.value) == (True, False, False)
    room.close()


def test_double_click_on_next(tmp_path):
    room = StudyPanel(Study(films("xy", 2)))
    room.worker.join()
    for row in room.toggles.values(): row[0].value = True
    assert room.guarded(room.next_item) and not room.guarded(room.next_item)
    assert len(room.study.done) == 1
    room.worker.join()
    assert len(room.clips.pictures) == 2
    room.close()


def test_no_answer_before_the_clips_are_there(monkeypatch):
    come = threading.Event()
    monkeypatch.setattr(Study, "clips", lambda self, item: come.wait(20) and {"A": film(1), "B": film(2)})
    room = StudyPanel(Study(films("xy", 2)))
    for row in room.toggles.values(): row[0].value = True
    assert not room.guarded(room.next_item) and room.study.rows == [] and "still coming" in room.status.value
    come.set()
    room.worker.join()
    assert room.guarded(room.next_item) and len(room.study.done) == 1
    room.close()


def test_save_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    room = StudyPanel(Study(films("xy", 1)))
    room.guarded(room.save)
    assert read_answers("out/answers.csv") == [] and "answers.csv" in room.status.value
    room.close()


def test_buttons_are_wired(pipe):
    room = ready_room(pipe)
    def buttons(widget):
        return [widget] if isinstance(widget,
                                      W.Button) else [b for c in getattr(widget, "children", ()) for b in buttons(c)]
    film_button = next(b for b in buttons(room) if b.description == "Film")
    film_button.click()
    room.worker.join()
    assert list(room.films) == list(COMPARISONS["cuts"])
    room.close()


def test_two_panels_of_one_rater(tmp_path):
    "Two tabs, one file: what one has answered the other does not write over"
    choices = {q: ["A"] for q in QUESTIONS}
    one, two = (Study(films(["x", "y"]), path=tmp_path/"a.csv") for _ in range(2))
    for study, item in ((one, 0), (two, 1), (one, 2), (two, 0)): study.answer(item, choices)
    assert sorted({r["item"] for r in read_answers(tmp_path/"a.csv")}) == [0, 1, 2]
    one.answer(0, {q: ["B"] for q in QUESTIONS})                                  # the newest answer counts
    rows = [r for r in read_answers(tmp_path/"a.csv") if r["item"] == 0]
    assert all(r["chosen"] == (r["label"] == "B") for r in rows) and len(rows) == len(QUESTIONS)*2


def test_answers_that_could_not_be_saved_are_saved_later(tmp_path):
    study = Study(films(["x", "y"]), path=tmp_path/"x"/"a.csv")
    (tmp_path/"x").write_text("")
    panel = StudyPanel(study)
    with pytest.raises(InputError): study.answer(0, {q: ["A"] for q in QUESTIONS})
    with pytest.raises(InputError): panel.close()                                 # still not; and said
    assert study.unsaved and study.rows
    (tmp_path/"x").unlink()
    StudyPanel(study).close()
    assert {r["item"] for r in read_answers(tmp_path/"x"/"a.csv")} == {0} and not study.unsaved


@pytest.mark.parametrize("item", ["9"*5000, "1"*10])
def test_an_item_of_many_digits(tmp_path, item):
    path = tmp_path/"a.csv"
    path.write_text(",".join(COLUMNS) + f"\n,{item},q,A,s,,1\n")
    with pytest.raises(InputError, match="row 2") as e: read_answers(path)
    assert len(str(e.value)) < 500


@pytest.mark.parametrize("films, questions", [
    ({"a": None, "b": None}, {"q": "?"}), ([[1], [2]], {"q": "?"}), ({1: [film(1)], "b": [film(2)]}, {"q": "?"}),
    ({"a": [film(1)], "b": [film(2)]}, ["q"])])
def test_what_is_no_study(films, questions):
    with pytest.raises(ValueError, match="a dict"): Study(films, questions)


def test_what_are_no_films_and_no_answers():
    odd = Study({"a": [[film(1), torch.zeros(1, 40, 48, 3, dtype=torch.uint8)]], "b": [None]})
    with pytest.raises(ValueError, match="all shots have one size"): as_film(odd.films["a"][0])
    with pytest.raises(ValueError, match="give a tensor, a list of shots"): as_film(None)
    study = Study(films("xy"))
    for wrong in (None, dict.fromkeys(QUESTIONS), ["A"]):
        with pytest.raises(ValueError, match="choices: a dict"): study.answer(0, wrong)
