"""Every file is whole or not at all: on a full disk, after an exception, after a kill at any moment; and one error says
what is wrong."""
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from shotstream.data.script import Script, ShotPrompt, save_script
from shotstream.data.video import write_picture, write_video
from shotstream.model import files
from shotstream.model.files import (
    LINE, SCREEN, InputError, MissingFile, WriteError, check_target, foreign, read_text, shown, whole_file, write_json,
    write_tensors, write_text, write_whole)
from shotstream.train.loop import save_checkpoint, save_text

FILM = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
STORY = Script("c", (ShotPrompt("s", 9),)*50)
# every way to write a file: name, and what writes it
WRITERS = {
    "a.txt": lambda p: write_text(p, "new"*50_000), "b.json": lambda p: write_json(p, ["new"]*20_000),
    "c.safetensors": lambda p: write_tensors(p, {"x": torch.rand(50_000)}), "d.json": lambda p: save_script(STORY, p),
    "e.mp4": lambda p: write_video(p, FILM.repeat(20, 0), crf=1),
    "f.png": lambda p: write_picture(p, FILM.reshape(-1, 96, 3)),
    "g.gif": lambda p: write_picture(p, FILM[0]), "h.pt": lambda p: save_checkpoint(p, {"x": torch.rand(50_000)}),
    "done": lambda p: save_text(p, "1"*100_000)}


@pytest.mark.parametrize("name", WRITERS)
def test_a_new_file_takes_the_old_ones_place(tmp_path, name):
    path = tmp_path/name
    path.write_bytes(b"old")
    path.chmod(0o640)
    WRITERS[name](path)
    assert path.read_bytes() != b"old" and [p.name for p in tmp_path.iterdir()] == [name]
    assert path.stat().st_mode & 0o777 == 0o640


class Full:
    "A small disk: after so many bytes nothing can be written"
    def __init__(self, file, room): self.file, self.room = file, room
    def write(self, data):
        if len(data) > self.room: raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return self.file.write(data)
    def __getattr__(self, name): return getattr(self.file, name)


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    "A real file system of 64 kB, where we may make one"
    folder = tmp_path_factory.mktemp("disk")
    made = sys.platform == "linux" and not subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder],
                                                         capture_output=True).returncode
    if not made: pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder])


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_keeps_the_old_file(small_disk, name):
    path, filler = small_disk/name, small_disk/"filler"
    path.write_bytes(b"old")
    filler.write_bytes(bytes(58_000))
    try:
        if name == "g.gif": pytest.skip("too small to fill it")
        with pytest.raises(WriteError, match="could not be written|cannot be written") as e: WRITERS[name](path)
        assert path.read_bytes() == b"old" and sorted(p.name for p in small_disk.iterdir()) == sorted(["filler", name])
        assert "\n" not in str(e.value) and "kept" in str(e.value)
        filler.unlink()                                               # room again: the same call succeeds
        if path.suffix not in (".pt", ".safetensors", ".json", ".txt", ".mp4") and name != "done": WRITERS[name](path)
    finally:
        for p in small_disk.iterdir(): p.unlink()


@pytest.mark.parametrize("at", ["open", "write", "fsync", "replace"])
def test_a_disk_may_fail_at_every_step(tmp_path, monkeypatch, at):
    path = tmp_path/"a.txt"
    path.write_bytes(b"old")
    def fail(*_): raise OSError(errno.EIO, "Input/output error")
    if at == "fsync": monkeypatch.setattr(files.os, "fsync", fail)
    if at == "replace": monkeypatch.setattr(files.os, "replace", fail)
    if at == "open": monkeypatch.setattr(Path, "write_bytes", fail)
    def write(part):
        with open(part, "wb") as f: Full(f, 5 if at == "write" else 10**6).write(b"new data")
    with pytest.raises(WriteError, match="Input/output|No space") as e:
        write_text(path, "new") if at == "open" else write_whole(path, write)
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    assert e.value.errno in (errno.EIO, errno.ENOSPC) and isinstance(e.value, OSError)
    assert isinstance(e.value, InputError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, KeyError, GeneratorExit])
def test_an_exception_in_the_middle_keeps_the_old_file(tmp_path, error):
    path = tmp_path/"a.txt"
    path.write_bytes(b"old")
    with pytest.raises(error), whole_file(path) as part:
        part.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


KILLS = """
import json, os, signal, sys
from pathlib import Path
from shotstream.model import files
def killed_at(step, path):
    "Write in a process that is killed before the given line of the writer: was it killed?"
    if not (pid := os.fork()):
        count = 0
        def stop(frame, event, arg):
            nonlocal count
            if frame.f_code.co_filename != files.__file__: return None
            if event == "line":
                count += 1
                if count == step: os.kill(os.getpid(), signal.SIGKILL)
            return stop
        try:
            sys.settrace(stop)
            files.write_text(path, "new")
        finally: os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
folder, seen, parts = Path(sys.argv[1]), [], []
for step in range(1, 1000):
    for p in folder.iterdir(): p.unlink()
    (folder/"a.txt").write_bytes(b"old")
    if not killed_at(step, folder/"a.txt"): break
    seen.append((folder/"a.txt").read_text())
    parts.append(len(list(folder.glob(".part-*"))))
    if parts[-1] and 1 not in parts[:-1]:                           # the next writer clears up
        for p in folder.glob(".part-*"): os.utime(p, (0, 0))
        files.write_text(folder/"a.txt", "last")
        assert [p.name for p in folder.iterdir()] == ["a.txt"]
print(json.dumps([seen, parts]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_kill_at_every_line_leaves_the_old_file_or_the_new(tmp_path):
    "Before each line that the writer runs: what has the name is whole"
    env = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLS, tmp_path], capture_output=True, text=True, env=env)
    assert not done.returncode, done.stderr
    seen, parts = json.loads(done.stdout)
    assert len(seen) > 20 and seen[0] == "old" and seen[-1] == "new" and set(seen) == {"old", "new"} and 1 in parts


def test_what_a_living_process_writes_is_not_swept(tmp_path):
    path = tmp_path/"a.txt"
    mine, fresh = files._part(path), files._part(path)
    other = tmp_path/mine.name.replace(str(os.getpid()), "1", 1)
    fresh = tmp_path/mine.name.replace(str(os.getpid()), "999999999", 1)
    for p in (other, fresh): p.write_text("being written")
    os.utime(other, (0, 0))
    write_text(path, "new")
    assert other.exists() and fresh.exists()                          # process 1 lives; the other wrote a moment ago
    os.utime(fresh, (0, 0))
    write_text(path, "new")
    assert not fresh.exists()


def test_links_devices_and_rights(tmp_path):
    (tmp_path/"real").write_text("old")
    (tmp_path/"link").symlink_to("real")
    write_text(tmp_path/"link", "new")
    assert (tmp_path/"link").is_symlink() and (tmp_path/"real").read_text() == "new"
    for path in (tmp_path, "/dev/null", tmp_path/"real"/"x", tmp_path/("x"*300), tmp_path/"a\0b"):
        with pytest.raises(WriteError): write_text(path, "x")
    with pytest.raises(InputError, match="ends in .mp4"): check_target(tmp_path/"a", "-o", (".mp4",))
    check_target(tmp_path/"new"/"folder"/"a.mp4", "-o", (".mp4",))
    assert not (tmp_path/"new").exists()
    if os.geteuid():
        (tmp_path/"real").chmod(0o400)
        with pytest.raises(WriteError): write_text(tmp_path/"real", "x")


@pytest.mark.parametrize("write",
                         [lambda p: write_text(p, "half an emoji \ud83d"), lambda p: write_json(p, float("nan")),
                                   lambda p: write_json(p, {"a": {1}}), lambda p: save_script(Script("\udc00", ()), p)])
def test_what_cannot_be_written_is_refused_before(tmp_path, write):
    path = tmp_path/"a.json"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match="not written"): write(path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


# --- what is said ----------------------------------------------------------------------------------------------------

def test_messages_fit_on_a_screen_and_hold_nothing_raw():
    error = InputError(["\x1b[31m\nred\u202e" + "x"*10**6]*10**5, "a\nb\ud800.json")
    assert len(str(error).splitlines()) <= SCREEN+2 and len(str(error)) < (LINE+20)*(SCREEN+2)
    assert len(error.problems) == 10**5
    assert all(line.isprintable() for line in str(error).splitlines()) and "and 99980 more" in str(error)
    str(error).encode("utf-8")
    assert str(InputError("a: b")) == "a: b" and str(InputError("b", "a")) == "a: b"
    assert shown("ü 漢 🎬") == "ü 漢 🎬" and shown(10**5000).startswith("a") and shown("x"*100).count("...") == 1


@pytest.mark.parametrize("content, says",
                         [("ü".encode("utf-16"), "UTF-16"), ("ü".encode("latin-1"), "another encoding"),
                                           (b"\xff\xd8\0\0", "no text"), (b"x"*101, "at most")])
def test_texts_say_what_they_are(tmp_path, content, says):
    (tmp_path/"a").write_bytes(content)
    with pytest.raises(InputError, match=says) as e: read_text(tmp_path/"a", most=100)
    assert str(e.value).startswith(f"{tmp_path/'a'}: ")
    with pytest.raises(FileNotFoundError): read_text(tmp_path/"b")
    assert issubclass(MissingFile, InputError)
    with pytest.raises(InputError, match="a folder"): read_text(tmp_path)
    with pytest.raises(InputError): read_text("a\0b")


def test_foreign_exceptions_become_ours():
    for error in (ValueError("a\nb"), RecursionError(), EOFError(), MemoryError(), OverflowError("x"*1000),
                  AssertionError()):
        with pytest.raises(InputError, match="f.mp4: ") as e, foreign("f.mp4", "do this"): raise error
        assert "do this" in str(e.value) and "\n" not in str(e.value) and len(str(e.value)) < LINE
    with pytest.raises(WriteError, match="No space"), foreign("f", "x"): raise OSError(errno.ENOSPC, "No space left")
    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error), foreign("f", "x"): raise error


def test_a_byte_order_mark_is_no_text(tmp_path):
    "Windows' Notepad writes one"
    path = tmp_path/"story.txt"
    path.write_bytes(b"\xef\xbb\xbfa red ball.\r\n")
    assert read_text(path) == "a red ball.\r\n"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a system without /proc")
@pytest.mark.parametrize("path", ["/proc/x.mp4", "/proc/a/b/x.json", "/proc/self/x.png"])
def test_a_place_that_only_says_yes(path):
    "`os.access` tells root that /proc can be written; the work before the file would be lost"
    with pytest.raises(WriteError, match="-o: .*choose another place"): check_target(path, "-o")


def test_trying_leaves_nothing_behind(tmp_path):
    (tmp_path/"old.json").write_text("old")
    assert all(check_target(tmp_path/name) for name in ("old.json", "new.json", "a/b.json"))
    assert [p.name for p in tmp_path.iterdir()] == ["old.json"] and (tmp_path/"old.json").read_text() == "old"


def test_a_disk_without_room_for_a_name_is_told_before_the_work(tmp_path, monkeypatch):
    def full(*args): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("shotstream.model.files.os.open", full)
    with pytest.raises(WriteError, match="No space left") as e: check_target(tmp_path/"x.json")
    assert e.value.errno == errno.ENOSPC
