"""Story files: every mistake is named, all at once, and the command line answers with one message and exit code 2."""
import json
import re
from pathlib import Path

import pytest

from shotstream.app.cli import main
from shotstream.data.script import (
    MAX_FRAMES, MAX_SEED, MAX_SHOTS, Script, ShotPrompt, StoryError, inside, load_clips, load_script, parse_script,
    read_video, save_script, shots_of)
from shotstream.toy.world import (
    ACCESSORIES, ACTIONS, BODIES, CAMERAS, COLOURS, PLACES, PLURAL, SYNONYMS, TIMES, draw_story)

SAMPLES = Path(__file__).parents[2]/"data_samples"
STORIES = sorted((SAMPLES/"stories").glob("*.json"))
GOOD = {"title": "t", "caption": "a red ball with a hat in the forest by day.", "seed": 3,
        "shots": [{"caption": "close up: the ball waves.", "frames": 9}]}


def shots(*s): return GOOD | {"shots": list(s)}


def problems(data):
    with pytest.raises(StoryError) as e: parse_script(data, "a.json")
    assert str(e.value).startswith("a.json: ")
    for p in e.value.problems: assert f"\n  - {p}" in str(e.value)
    return e.value.problems


# one kind of mistake each: what is wrong, and words of the message that lead to it
MISTAKES = {
    "a list": ([1], "a story is an object"),
    "a text": ("hello", "a story is an object"),
    "nothing": (None, "a story is an object"),
    "no caption": ({k: v for k, v in GOOD.items() if k != "caption"}, "caption: say who plays"),
    "blank caption": (GOOD | {"caption": " \n"}, "caption: say who plays"),
    "caption is a number": (GOOD | {"caption": 5}, "caption: say who plays"),
    "no shots": ({k: v for k, v in GOOD.items() if k != "shots"}, "shots: a list"),
    "shots is a text": (GOOD | {"shots": "x"}, "shots: a list"),
    "shots is an object": (GOOD | {"shots": {"0": "x"}}, "shots: a list"),
    "0 shots": (shots(), f"shots: 1 to {MAX_SHOTS} shots, got 0"),
    "1000 shots": (shots(*["the ball waits."]*1000), f"shots: 1 to {MAX_SHOTS} shots, got 1000"),
    "seed is a text": (GOOD | {"seed": "3"}, "seed: a whole number"),
    "seed is true": (GOOD | {"seed": True}, "seed: a whole number"),
    "seed is a fraction": (GOOD | {"seed": 1.5}, "seed: a whole number"),
    "seed below zero": (GOOD | {"seed": -1}, "seed: a whole number"),
    "seed without end": (GOOD | {"seed": MAX_SEED+1}, "seed: a whole number"),
    "title is a number": (GOOD | {"title": 5}, "title: a text"),
    "unknown key": (GOOD | {"captoin": "x"}, "captoin: unknown key"),
    "fps": (GOOD | {"fps": 16}, "fps: unknown key"),
    "shot is a number": (shots("the ball waits.", 5), "shots[1]: a shot is"),
    "shot is null": (shots(None), "shots[0]: a shot is"),
    "shot says nothing": (shots({"frames": 9}), "shots[0].caption: say who does what"),
    "empty prompt": (shots(""), "shots[0].caption: say who does what"),
    "shot's unknown key": (shots({"caption": "x", "frame": 9}), "shots[0].frame: unknown key"),
    "frames is a text": (shots({"caption": "x", "frames": "9"}), "shots[0].frames: a whole number"),
    "frames is true": (shots({"caption": "x", "frames": True}), "shots[0].frames: a whole number"),
    "frames is a fraction": (shots({"caption": "x", "frames": 9.0}), "shots[0].frames: a whole number"),
    "frames is null": (shots({"caption": "x", "frames": None}), "shots[0].frames: a whole number"),
    "no frames": (shots({"caption": "x", "frames": 0}), "write 1"),
    "34 frames": (shots({"caption": "x", "frames": 34}), "write 33"),
    "too many frames": (shots({"caption": "x", "frames": 85}), f"write {MAX_FRAMES}"),
    "frames without end": (shots({"caption": "x", "frames": 10**400}), f"write {MAX_FRAMES}"),
    "published: no shot": ({"global_caption": "x"}, "shots: 1 to"),
    "published: a hole": ({"global_caption": "x", "shot1": "a", "shot3": "b"}, "shot3: shots are called shot1"),
    "published: from 0": ({"global_caption": "x", "shot0": "a"}, "shot0: shots are called shot1"),
    "published: shot01": ({"global_caption": "x", "shot01": "a"}, "shot01: shots are"),
    "published: blank": ({"global_caption": " ", "shot1": "a"}, "global_caption: say who plays"),
    "published: wrong type": ({"global_caption": "x", "shot1": 7}, "shot1: a shot is"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_one_mistake_one_problem(name):
    data, says = MISTAKES[name]
    found = problems(data)
    assert len(found) == 1 and says in found[0] and len(found[0]) < 250, found


def test_all_mistakes_at_once():
    data = {"title": 7, "caption": "", "seed": "x", "extra": 1,
            "shots": [{"caption": "", "frames": 2, "camera": "close"}, 5]}
    assert len(problems(data)) == 8


def test_good_stories():
    assert parse_script(GOOD) == Script(GOOD["caption"], (ShotPrompt("close up: the ball waves.", 9),), "t", 3)
    assert parse_script(shots(" the ball waits. ")).shots == (ShotPrompt("the ball waits.", 33),)
    published = {"global_caption": "a ball.", "video_path": "a.mp4"} | {f"shot{i}": f"{i}" for i in range(1, 13)}
    assert [s.caption for s in parse_script(published).shots] == [str(i) for i in range(1, 13)]      # 10 comes after 9
    assert len(parse_script(shots(*["x"]*MAX_SHOTS)).shots) == MAX_SHOTS
    lengths = list(range(1, MAX_FRAMES+1, 4))
    assert [parse_script(shots({"caption": "x", "frames": n})).shots[0].frames for n in lengths] == lengths


def test_files(tmp_path):
    save_script(parse_script(GOOD | {"title": "Grüße"}), tmp_path/"a.json")
    assert load_script(tmp_path/"a.json") == parse_script(GOOD | {"title": "Grüße"})
    (tmp_path/"bom.json").write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert load_script(tmp_path/"bom.json") == parse_script(GOOD)


BROKEN = {"no such file": (None, "no such file"), "a folder": ("folder", "a folder"),
          "broken JSON": (b'{"caption": "x",\n "shots": [1,]}', "line 2, column 1"),
          "empty": (b"", "empty; a story file is JSON"), "not text": (b"\xff\xfe\x00\x01", "not a text file"),
          "deep": (b"["*200_000, "brackets inside brackets"),
          "key twice": (b'{"global_caption": "x", "shot1": "a", "shot1": "b"}', "shot1: written twice"),
          "outside": (b'{"global_caption": "x", "shot1": "a", "video_path": "../../secret.mp4"}',
                      "../../secret.mp4: leaves the folder"),
          "absolute": (b'{"global_caption": "x", "shot1": "a", "video_path": "/etc/passwd"}',
                       "/etc/passwd: leaves the folder"),
          "path is a number": (b'{"global_caption": "x", "shot1": "a", "video_path": 7}', "a path is a text")}


def refused(capsys, *args):
    "What the command line says when it refuses: exit code 2, one message, no traceback"
    with pytest.raises(SystemExit) as stop: main([str(a) for a in args])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and "Traceback" not in out+err and err.startswith("shotstream: ")
    return err


@pytest.mark.parametrize("name", BROKEN)
def test_command_line_refuses_broken_files(name, tmp_path, capsys):
    content, says = BROKEN[name]
    path = tmp_path/"a.json"
    if content == "folder": path.mkdir()
    elif content is not None: path.write_bytes(content)
    assert says in refused(capsys, "story", path, "-o", tmp_path/"a.mp4")
    assert not (tmp_path/"a.mp4").exists()


@pytest.mark.parametrize("name", MISTAKES)
def test_command_line_refuses_wrong_stories(name, tmp_path, capsys):
    data, says = MISTAKES[name]
    (tmp_path/"a.json").write_text(json.dumps(data))
    err = refused(capsys, "story", tmp_path/"a.json", "-o", tmp_path/"a.mp4")
    assert says in err and "a.json: 1 problem" in err


@pytest.mark.parametrize("args, says", [("story data_samples/stories/small_king.json -o {}", "is a folder"),
                                        ("story data_samples/stories/small_king.json -o {}/a.mp4 --device gpu",
                                         "cpu or cuda, got gpu"),
                                        ("evaluate --steps 5", "add --teacher"),
                                        ("prepare {} -o {}/b --latents toy --size 90x160", "16 divides"),
                                        ("bench --suite gpu --device cpu --model tiny --shots 0",
                                         "from 1 to 1000000, got 0")])
def test_command_line_refuses_before_any_work(args, says, tmp_path, capsys):
    (tmp_path/"f.mp4").mkdir()
    folder = tmp_path/"f.mp4"
    assert says in refused(capsys, *args.format(*[folder]*2).split())
    assert not list(folder.iterdir())


def test_command_line_refuses_unknown_words(tmp_path, capsys):
    data = shots("close up: the dragn is jumpign.", "the ball waits.", "wide shot: the robot waves.")
    (tmp_path/"a.json").write_text(json.dumps(data))
    err = refused(capsys, "story", tmp_path/"a.json", "-o", tmp_path/"a.mp4")
    assert "2 problems" in err and "shots[0]" in err and "shots[2]" in err
    assert "'dragn'" in err and "'jumpign' (did you mean 'jumping'?)" in err and "'robot'" in err


def test_paths_stay_inside(tmp_path):
    home = tmp_path/"home"
    (home/"films").mkdir(parents=True)
    (home/"door").symlink_to(tmp_path)
    for name in ("a.mp4", "films/a.mp4", "films/../a.mp4", "./a.mp4"):
        assert inside(home, name) == (home/name).resolve()
    for name in ("../a.mp4", "films/../../a.mp4", "/etc/passwd", "../home-twin/a.mp4", "door/a.mp4"):
        with pytest.raises(StoryError, match="leaves the folder"): inside(home, name)


def clips_file(folder, *rows, columns="shot_num_from_caption,json_path,video_path,frame_number"):
    (folder/"a.json").write_text('{"global_caption": "a ball.", "shot1": "it waits.", "shot2": "it jumps."}')
    (folder/"clips.csv").write_text("\n".join([columns, *rows]))
    return folder/"clips.csv"


def test_clips_keep_gaps(tmp_path):
    clip, = load_clips(clips_file(tmp_path, '2,a.json,a.mp4,"[[0, 9], [13, 20]]"'))
    assert clip.spans == ((0, 9), (13, 20)) and clip.video == (tmp_path/"a.mp4").resolve()
    assert [list(s) for s in shots_of(list(range(25)), clip.spans)] == [list(range(9)), list(range(13, 20))]
    with pytest.raises(StoryError, match="the film has 19 frames"): shots_of(list(range(19)), clip.spans)
    clip, = load_clips(clips_file(tmp_path, '1,a.json,,"[(0, 9)]"'))      # one range, so the second caption has no film
    assert [s.caption for s in clip.captions.shots] == ["it waits."] and clip.video is None
    # prompts without films
    clip, = load_clips(clips_file(tmp_path, "2,a.json", columns="shot_num_from_caption,json_path"))
    assert len(clip.captions.shots) == 2 and clip.spans == ()


@pytest.mark.parametrize("row, says", [
    ('2,a.json,,"[[0, 9], [8, 20]]"', "range 1 is [8, 20)"), ('2,a.json,,"[[9, 0]]"', "range 0 is [9, 0)"),
    ('2,a.json,,"[[-1, 5]]"', "range 0 is [-1, 5)"),
    ('2,a.json,,"[[0, 2.5]]"', "range 0"), ('2,a.json,,"[0, 9]"', "ranges like"),
    ('2,a.json,,"open(1)"', "ranges like"), ('2,a.json,,"[[0, 9"', "ranges like"),
    ('3,a.json,,"[[0, 1], [1, 2], [2, 3]]"', "3 ranges for 2 captions"), ("2,,,", "json_path: missing"),
    ("2,b.json,,", "no such file"),
    ("2,../a.json,,", "leaves the folder"), ('2,a.json,../a.mp4,"[[0, 9]]"', "../a.mp4: leaves the folder")])
def test_clips_explain_mistakes(tmp_path, row, says):
    with pytest.raises(StoryError) as e: load_clips(clips_file(tmp_path, '2,a.json,,"[[0, 9]]"', row))
    assert len(e.value.problems) == 1 and says in e.value.problems[0] and e.value.problems[0].startswith("line 3")


def test_clips_list_every_mistake(tmp_path):
    with pytest.raises(StoryError) as e:
        load_clips(clips_file(tmp_path, "2,b.json,,", "2,a.json,,", '2,a.json,,"[[5, 1], [9, 9]]"'))
    assert [p[:6] for p in e.value.problems] == ["line 2", "line 4", "line 4"]


# the samples

def any_of(names, table=SYNONYMS):
    return "(?:" + "|".join(sorted((re.escape(p) for n in names for p in table[n]), key=len, reverse=True)) + ")"


COLOUR, BODY, THING, PLACE, TIME, CAMERA = map(any_of, (COLOURS, BODIES, ACCESSORIES, PLACES, TIMES, CAMERAS))
WHO = f"(?:an? {COLOUR} {BODY} (?:with|wearing|who wears) an? {THING}|an? {BODY} in {COLOUR} with an? {THING})"
WHO, NAME = f"{WHO}(?: and {WHO})?", f"the (?:{COLOUR} )?{BODY}"
WHERE = f"(?:in the {PLACE} {TIME}|{TIME} in the {PLACE})"
GLOBAL = re.compile(f"(?:{WHO} {WHERE}|{WHERE}, there (?:is|are) {WHO}|a story about {WHO} {WHERE}|{WHO} lives? "
                    f"{WHERE})\\.")
ACT = f"(?:{NAME} {any_of(ACTIONS)}|{NAME} and {NAME} {any_of(ACTIONS, PLURAL)})(?: {WHERE})?"
SHOT = re.compile(f"(?:{CAMERA}[:,] {ACT}|{ACT}, {CAMERA})\\.")


def test_the_grammar_is_the_worlds():
    for story in map(draw_story, range(100)):
        assert GLOBAL.fullmatch(story.caption), story.caption
        for shot in story.shots: assert SHOT.fullmatch(shot.caption), shot.caption


@pytest.mark.parametrize("path", STORIES, ids=[p.stem for p in STORIES])
def test_sample_story_speaks_the_worlds_language(path):
    from shotstream.toy.vocabulary import check_prompt, toy_tokenizer
    from shotstream.model.text import compose_prompt
    script, tokenizer = load_script(path), toy_tokenizer()
    assert script.title and 2 <= len(script.shots) <= 6
    assert GLOBAL.fullmatch(script.caption), script.caption
    for shot in script.shots:
        assert SHOT.fullmatch(shot.caption), shot.caption
        check_prompt(compose_prompt(script.caption, shot.caption), tokenizer)


def test_sample_stories():
    assert len(STORIES) == 12
    assert [s.frames for s in load_script(SAMPLES/"stories"/"lost_hat.json").shots] == [33]*3


def test_sample_clips():
    clips = load_clips(SAMPLES/"clips"/"clips.csv")
    assert len(clips) == 8 and all(len(c.spans) == len(c.captions.shots) > 1 for c in clips)
    assert any(a[1] < b[0] for c in clips for a, b in zip(c.spans, c.spans[1:])), "no clip has a gap"
    assert sum(p.stat().st_size for p in (SAMPLES/"clips").iterdir()) < 600_000
    film = read_video(clips[-1].video)
    assert film.shape == (clips[-1].spans[-1][1], 128, 128, 3)


def test_a_span_may_end_with_the_film():
    film = list(range(9))
    assert shots_of(film, ((0, 4), (4, 9))) == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    with pytest.raises(StoryError, match="9 frames"): shots_of(film, ((0, 10),))


WHOLE = '{"title": "t", "caption": "a red ball.", "seed": 3,\n "shots": [{"caption": "it waits.", "frames": 5}, null]}'


@pytest.mark.parametrize("end", range(1, len(WHOLE), 3))
def test_a_file_that_was_cut_short_is_called_so(tmp_path, end):
    "Wherever it ends: in a word, a number, an escape, between two shots"
    for text in (WHOLE, WHOLE.replace("it", "\\u0069t")):
        (tmp_path/"cut.json").write_text(text[:end])
        with pytest.raises(StoryError, match="as if cut short; a story file is JSON"): load_script(tmp_path/"cut.json")


@pytest.mark.parametrize("text, says", [("# A story", "no JSON: it begins with # A story"),
                                        ("{'caption': 1}", "double"),
                                        ('{"a": 1 "b": 2}', "line 1, column 9"), ("  \n", "empty"),
                                        ('{"a": "x\ny"}', "control character"), ('{"a":1} {}', "Extra data")])
def test_what_is_no_story_file_is_called_what_it_is(tmp_path, text, says):
    (tmp_path/"x.json").write_text(text)
    with pytest.raises(StoryError, match=says) as e: load_script(tmp_path/"x.json")
    assert "cut short" not in str(e.value)
