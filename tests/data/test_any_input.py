"""Whatever lies in a file: a story, a list of clips or a film is read, or one of our errors says why not."""
import json
import time

import numpy as np
import pytest

from hypothesis import given, strategies as st
from shotstream.data.script import (
    MAX_CAPTION, MAX_SHOTS, MAX_STORY, Script, ShotPrompt, StoryError, check_script, load_clips, load_script,
    parse_script,
    save_script)
from shotstream.data.video import as_strip, contact_sheet, read_video, write_picture, write_video
from shotstream.model.files import LINE, SCREEN, InputError
from damage import EXAMPLES, PROPERTY, hypothesis

TEXT = st.text(st.characters(codec=None), max_size=30)                # lone surrogates, escape codes and all
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(SCALAR, lambda x: st.lists(x, max_size=4) | st.dictionaries(TEXT, x, max_size=4), max_leaves=12)
KEY = st.sampled_from(["title", "caption", "seed", "shots", "global_caption", "shot1", "shot2", "Shot2", "shot01",
                       "video_path", "spans"])
SHOT = JSON | st.fixed_dictionaries({"caption": JSON}, optional={"frames": JSON})
STORY = JSON | st.dictionaries(KEY | TEXT, JSON | st.lists(SHOT, max_size=4), max_size=8)
GOOD = json.dumps({"caption": "a red ball.", "title": "Grüße 🎬", "seed": 3,
                   "shots": ["it waits.", {"caption": "it jumps.", "frames": 9}]}, ensure_ascii=False).encode()
PUBLISHED = json.dumps({"global_caption": "a ball. ", "shot1": "it waits.", "shot2": " it jumps."}).encode()


def fits(error):
    "Our error, and a message of at most a screen that any terminal may see"
    lines = str(error).splitlines()
    assert isinstance(error, InputError) and 0 < len(lines) <= SCREEN+2 and max(map(len, lines)) < LINE+20
    assert all(line.isprintable() for line in lines), lines
    str(error).encode()


@PROPERTY
@given(STORY, st.booleans())
def test_any_content_is_a_story_or_our_error(data, exact):
    try: script = parse_script(data, "a.json", exact)
    except InputError as e: return fits(e)
    assert check_script(script) == script and 1 <= len(script.shots) <= MAX_SHOTS


@st.composite
def damaged(draw, *whole):
    "A good file with some bytes changed, lost, doubled or cut off"
    data = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(1, 6))):
        if not data: break
        i, n = draw(st.integers(0, len(data)-1)), draw(st.integers(1, 40))
        kind = draw(st.sampled_from("change lose double cut insert".split()))
        if kind == "change": data[i] = draw(st.integers(0, 255))
        if kind == "lose": del data[i:i+n]
        if kind == "double": data[i:i] = data[i:i+n]
        if kind == "cut": del data[i:]
        if kind == "insert":
            data[i:i] = draw(st.binary(max_size=8)
                             | st.sampled_from([b"\\ud83d", b"\0", b"1e999", b"9"*5000, b"[" * 3000]))
    return bytes(data)


@PROPERTY
@given(damaged(GOOD, PUBLISHED) | st.binary(max_size=60)
       | damaged(GOOD.decode().encode("utf-16"), GOOD.decode().encode("utf-8-sig")))
def test_any_bytes_are_a_story_or_our_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp()/"any.json"
    path.write_bytes(data)
    try: script = load_script(path)
    except InputError as e:
        fits(e)
        assert isinstance(e, StoryError) and str(e).startswith(f"{path}: ")      # the file's name comes first
        return
    save_script(script, path.with_name("again.json"))
    assert load_script(path.with_name("again.json")) == script                  # what can be read can be written


CLIPS = ('shot_num_from_caption,json_path,video_path,frame_number\n2,good.json,,"[[0, 9], [13, 20]]"\n'
         '2,good.json,../x.mp4,"[(0, 9)]"\n1,"two\nlines.json",a.mp4,\n').encode()


@PROPERTY
@given(damaged(CLIPS) | st.binary(max_size=60))
def test_any_bytes_are_a_list_of_clips_or_our_error(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    (folder/"good.json").write_bytes(PUBLISHED)
    (folder/"any.csv").write_bytes(data)
    try: clips = load_clips(folder/"any.csv")
    except InputError as e: return fits(e)
    for c in clips: assert c.video is None or c.video.is_relative_to(folder)


@pytest.fixture(scope="module", params=["mp4", "mkv", "ts"])
def film(request, tmp_path_factory):
    "Bytes of a small film"
    path = tmp_path_factory.mktemp("film")/f"a.{request.param}"
    noise = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    write_video(path, np.stack([np.roll(noise, i, 1) for i in range(24)]))
    return path.with_name(f"any.{request.param}"), path.read_bytes()


@hypothesis.settings(PROPERTY, max_examples=-(-EXAMPLES//8))          # decoding is slow, and there are three kinds
@given(st.data())
def test_any_film_is_whole_or_our_error(film, data):
    path, whole = film
    path.write_bytes(data.draw(damaged(whole)))
    try: frames = read_video(path)
    except InputError as e:
        fits(e)
        return
    assert frames.shape[-1] == 3 and frames.ndim == 4


# --- limits ----------------------------------------------------------------------------------------------------------

def seconds(f):
    start = time.process_time()
    f()
    return time.process_time() - start


LONG = {"100,000 published shots": {"global_caption": "x"} | {f"shot{i}": "y" for i in range(1, 100_001)},
        "100,000 shots": {"caption": "x", "shots": ["y"]*100_000}, "10^5 unknown keys": {"caption": "x", "shots": ["y"]}
        | {f"k{i}": 1 for i in range(10**5)}, "a word of 99 kB": {"caption": "x"*99_000, "shots": ["y"]},
        "10^5 shots that are none": {"caption": "x", "shots": [None]*10**5}}


@pytest.mark.parametrize("name", LONG)
def test_time_is_linear_and_messages_fit(tmp_path, name):
    (tmp_path/"a.json").write_text(json.dumps(LONG[name]))
    def read():
        with pytest.raises(StoryError) as e: load_script(tmp_path/"a.json")
        fits(e.value)
    assert seconds(read) < 5


def test_a_list_of_films_reaches_no_other_file(tmp_path):
    write_video(tmp_path/"secret.mp4", np.zeros((9, 32, 32, 3), np.uint8))
    (tmp_path/"a.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:1,\n"
                                  f"{tmp_path}/secret.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path/"b.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(InputError, match="a list of films|not a film"): read_video(tmp_path/name)


@pytest.mark.parametrize("end", ["mp4", "mkv"])
def test_a_film_is_the_same_bytes_again_whatever_the_machine(tmp_path, end):
    film = np.random.default_rng(0).integers(0, 256, (5, 24, 40, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    def written(name): write_video(tmp_path/f"{name}.{end}", film); return (tmp_path/f"{name}.{end}").read_bytes()
    first = written("a")
    assert written("b") == first and b" threads=1 " in first


@pytest.mark.parametrize("bad", [lambda f: as_strip(f, 0), lambda f: as_strip(f, -1),
                                 lambda f: as_strip([f[0], f[0, :9]]),
                                 lambda f: contact_sheet([f], scale=10**6), lambda f: contact_sheet(None),
                                 lambda f: write_picture("a.png", f), lambda f: write_picture("a.png", f[0]/255)])
def test_pictures_that_are_none_are_refused(bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError): bad(np.zeros((3, 16, 16, 3), np.uint8))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("bad", [{"caption": "a"}, Script(3, (ShotPrompt("s"),)), Script("a", (ShotPrompt("s", 4),)),
                                 Script("a", (ShotPrompt("s"),), 3), Script("a", (ShotPrompt("s"),), "", -1)], ids=repr)
def test_what_could_not_be_read_is_not_saved(bad, tmp_path):
    with pytest.raises(InputError): save_script(bad, tmp_path/"a.json")
    assert not [*tmp_path.iterdir()]
    save_script(Script("", ()), tmp_path/"a.json")                # a director's story that has not begun


def test_numbers_without_end(tmp_path):
    data = {"caption": "x", "seed": 10**5000, "shots": [{"caption": "y", "frames": 10**5000}]}
    with pytest.raises(StoryError) as e: parse_script(data)
    fits(e.value)
    (tmp_path/"a.json").write_text('{"caption": "x", "shots": ["y"], "seed": %s}' % ("9"*5000))
    with pytest.raises(StoryError, match="thousands of digits"): load_script(tmp_path/"a.json")


def test_limits_are_said(tmp_path):
    with pytest.raises(StoryError, match=f"{MAX_CAPTION+1} characters; a caption has at most {MAX_CAPTION}"):
        parse_script({"caption": "x"*(MAX_CAPTION+1), "shots": ["y"]})
    assert len(parse_script({"caption": "x"*MAX_CAPTION, "shots": ["y"*MAX_CAPTION]*MAX_SHOTS}).shots) == MAX_SHOTS
    (tmp_path/"a.json").write_bytes(b" "*(MAX_STORY+1))
    with pytest.raises(StoryError, match="a story file has at most 4 MB"): load_script(tmp_path/"a.json")


@pytest.mark.parametrize("shots, says",
                         [((), "1 to 100 shots"), ((ShotPrompt("x", 34),), "write 33"), ((ShotPrompt(" "),), "say who"),
                                         (("x",), "a ShotPrompt"), ((ShotPrompt("x", True),), "whole number"),
                                         (None, "1 to 100")])
def test_a_script_made_in_python_is_checked_too(shots, says):
    with pytest.raises(StoryError, match=says): check_script(Script("c", shots))


# --- the published format --------------------------------------------------------------------------------------------

def test_published_stories_as_the_public_code_reads_them(tmp_path):
    from shotstream.model.text import compose_prompt
    (tmp_path/"a.json").write_text('{"global_caption": "G. ", "shot1": " One.", "shot2": "Two. "}')
    script = load_script(tmp_path/"a.json", as_published=True)
    assert script == Script("G. ", (ShotPrompt(" One.", 81), ShotPrompt("Two. ", 81)))
    assert compose_prompt(script.caption, script.shots[0].caption, 0, "published") == "G. shot0: One."
    assert load_script(tmp_path/"a.json").shots == (ShotPrompt("One.", 33), ShotPrompt("Two.", 33))
    ours = parse_script({"caption": " G. ", "shots": [" One. "]}, as_published=True)      # our own format stays ours
    assert ours == Script("G.", (ShotPrompt("One.", 33),))


@pytest.mark.parametrize("extra, says",
                         [({"Shot2": "b"}, "Shot2: shots are called"), ({"SHOT1": "b"}, "SHOT1: shots are"),
                                         ({"global_captoin": "b"}, "global_captoin: unknown key"),
                                         ({"shots": []}, "shots: shots are")])
def test_nothing_in_a_published_story_is_dropped_silently(extra, says):
    with pytest.raises(StoryError, match=says): parse_script({"global_caption": "G.", "shot1": "a"} | extra)
