"""Films laid out and read back: every pixel where it belongs."""
import random

import numpy as np
import pytest
import torch

from shotstream.data import video
from shotstream.data.video import as_strip, contact_sheet, read_video, upright, write_video
from shotstream.model.files import InputError


def test_a_strip_ends_with_its_last_frame():
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(3, 2).repeat(3, 3)
    strip = as_strip(frames, 3)
    assert strip.shape == (2, 3*3 + 2*2, 3)                                  # walls between frames, none behind
    assert strip[0, :, 0].tolist() == [0, 0, 0, 255, 255, 2, 2, 2, 255, 255, 4, 4, 4]


def test_a_sheet_that_is_too_large_is_refused_before_it_is_made(monkeypatch):
    shots = [np.zeros((1, 10, 20, 3), np.uint8), np.zeros((2, 10, 20, 3), np.uint8)]
    assert contact_sheet(shots, scale=3).shape == (3*24, 3*42, 3)
    monkeypatch.setattr(video, "MAX_PIXELS", 3*24*3*42)
    assert contact_sheet(shots, scale=3).shape == (72, 126, 3)
    with pytest.raises(InputError, match="504 x 288|168 x 96"): contact_sheet(shots, scale=4)


@pytest.mark.parametrize("degrees, corner", [(0, (0, 0)), (90, (2, 0)), (180, (1, 2)), (-90, (0, 1))])
def test_a_phone_says_how_to_turn(degrees, corner):
    "FFmpeg counts against the clock: 90 brings the left upper corner to the left lower one"
    class Frame: rotation = degrees
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[0, 0] = 9
    turned = upright(picture, Frame)
    assert tuple(np.argwhere(turned[..., 0] == 9)[0]) == corner


def test_pictures_that_are_missing_at_the_end(tmp_path, monkeypatch):
    "A decoder that keeps its last pictures to itself makes no shorter film"
    path = tmp_path/"film.mp4"
    write_video(path, torch.randint(0, 256, (12, 16, 16, 3), dtype=torch.uint8))
    assert len(read_video(path)) == 12
    class Last:                                          # the flush at the end brings nothing
        def __init__(self, film): self.film = film
        def __getattr__(self, name): return getattr(self.film, name)
        def demux(self, stream): return (p for p in self.film.demux(stream) if p.size)
    whole = video.open_film
    @video.contextmanager
    def cut(path):
        with whole(path) as (film, stream): yield Last(film), stream
    monkeypatch.setattr(video, "open_film", cut)
    with pytest.raises(InputError, match="pictures are missing"): read_video(path)


@pytest.mark.parametrize("sound", [False, True])
def test_a_length_that_is_the_sounds(tmp_path, sound):
    "A container's length counts for the pictures only if there is nothing else in it"
    class Film: duration, streams = 5_000_000, [0]*(1 + sound)
    class Stream: duration, time_base = None, None
    assert video._length(Film, Stream) == (0. if sound else 5.)


def test_a_folder_is_no_film(tmp_path):
    with pytest.raises(InputError, match="a folder, not a film"): read_video(tmp_path)


def test_a_broadcast_that_lost_a_piece(tmp_path):
    "A transport stream has no index: most holes are found all the same, and none makes a shorter film without a word"
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(2))
    film = np.stack([np.roll(first, 2*k, 1) for k in range(40)] + [np.roll(second, 3*k, 0) for k in range(40)])
    write_video(tmp_path/"a.ts", film)
    whole, data, wrong = read_video(tmp_path/"a.ts"), (tmp_path/"a.ts").read_bytes(), 0
    for seed in range(12):
        at = random.Random(seed).randrange(len(data)//4, len(data) - 200)
        (tmp_path/"b.ts").write_bytes(data[:at] + bytes(100) + data[at+100:])
        try: got = read_video(tmp_path/"b.ts")
        except InputError: continue
        assert len(got) == len(whole)
        wrong += (got.int() - whole.int()).abs().float().mean((1, 2, 3)).max().item() > 1
    assert wrong <= 2                                    # 4 where decoders may paint over what is missing
