"""Pixels for people and for models, pictures of any kind, and a stream's memory."""
import numpy as np
import warnings

import pytest
import torch
from PIL import Image

from shotstream.model.files import InputError, MissingFile
from shotstream.model.pixels import Latents, VideoStream, as_frame, decode_frames, to_float, to_uint8
from shotstream.toy.vae import ToyVAE


def test_every_grey_level_there_and_back():
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 2, 4, 32, 1).expand(3, 2, 4, 32, 3).contiguous()
    frames[1], frames[..., 1] = 255 - frames[1], frames[..., 1].flip(1)
    video = to_float(frames)
    assert video.shape == (3, 3, 2, 4, 32) and torch.equal(to_uint8(video), frames)
    assert (video.min(), video.max()) == (-1, 1) and video[1, 1, 0, 2, 5] == frames[1, 0, 2, 5, 1]/127.5 - 1
    assert torch.equal(to_float(frames[0]), video[:1])                        # one film becomes a batch of one


def test_levels_are_rounded_and_clamped():
    video = (torch.tensor([-300., -.4, 100.4, 100.6, 254.6, 999.])/127.5 - 1).reshape(1, 1, 1, 1, 6)
    assert to_uint8(video).flatten().tolist() == [0, 0, 100, 101, 255, 255]


def quarters(height=20, width=40):
    "Red, green / blue, white"
    picture = torch.zeros(height, width, 3, dtype=torch.uint8)
    h, w = height//2, width//2
    for rows, columns, colour in ((slice(h), slice(w), [0]), (slice(h), slice(w, None), [1]),
                                  (slice(h, None), slice(w), [2]), (slice(h, None), slice(w, None), [0, 1, 2])):
        picture[rows, columns, colour] = 255
    return picture


def corners(frame): return [frame[y, x].tolist() for y in (0, -1) for x in (0, -1)]


def test_a_picture_covers_and_is_cropped_around_its_centre():
    picture = quarters()
    assert torch.equal(as_frame(picture, (20, 40)), picture)                  # nothing to do
    for size in ((20, 20), (10, 30), (40, 20)):
        frame = as_frame(picture, size)
        assert frame.shape == (*size, 3) and frame.dtype == torch.uint8 and corners(frame) == corners(picture)
    stripes = picture.clone()
    stripes[:, :8], stripes[:, -8:] = 0, 0                                    # outside of a square around the centre
    assert torch.equal(as_frame(stripes, (20, 20)), as_frame(picture, (20, 20)))


def test_pictures_stand_upright_and_have_colours(tmp_path):
    picture = Image.fromarray(quarters().numpy())
    turned = picture.transpose(Image.Transpose.ROTATE_90)                     # as a phone held sideways writes it
    exif = Image.Exif()
    exif[0x0112] = 6                                                          # "turn me clockwise"
    turned.save(tmp_path/"a.png", exif=exif)
    assert torch.equal(as_frame(tmp_path/"a.png", (20, 40)), quarters())
    assert torch.equal(as_frame(str(tmp_path/"a.png"), (20, 40)), quarters())
    for mode in ("L", "RGBA", "P", "1"): assert as_frame(picture.convert(mode), (20, 40)).shape == (20, 40, 3)
    assert torch.equal(as_frame(np.array(picture), (20, 40)), quarters())


def test_what_is_no_picture(tmp_path):
    (tmp_path/"a.png").write_text("no")
    with pytest.raises(MissingFile, match="no such file"): as_frame(tmp_path/"b.png", (8, 8))
    with pytest.raises(InputError, match="not a picture"): as_frame(tmp_path/"a.png", (8, 8))
    byte = torch.uint8
    for wrong in (torch.zeros(8, 8, 3), torch.zeros(3, 8, 8, dtype=byte), torch.zeros(0, 8, 3, dtype=byte)):
        with pytest.raises(InputError, match="got \\("): as_frame(wrong, (8, 8))


def test_a_distribution_without_spread():
    mean = torch.randn(3)
    assert Latents(mean).mode() is mean and Latents(mean).sample(torch.Generator()) is mean


def test_a_stream_hands_its_memory_on():
    "The first call has none; every other has what the one before returned; no graph is kept"
    calls, weight = [], torch.ones((), requires_grad=True)
    class VAE:
        def decode_next(self, z, state):
            calls.append(state)
            return z*weight, z.sum().item()
    stream = VideoStream(VAE())
    out = [stream(torch.full((1,), float(i))) for i in (5, 7, 9)]
    assert calls == [None, 5., 7.] and [x.item() for x in out] == [5., 7., 9.]
    assert not any(x.requires_grad for x in out) and VideoStream(VAE()).state is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_shots_become_bytes(dtype):
    "Frames in front, colours behind, clamped and rounded; whatever number type the codec has, and without a graph"
    torch.manual_seed(0)
    vae, z = ToyVAE(z_dim=4, dims=(8, 8, 8)).to(dtype), 99*torch.randn(2, 3, 4, 2, 2)
    frames, video = decode_frames(vae, z), vae.decode(z.to(dtype).permute(0, 2, 1, 3, 4)).sample
    assert frames.shape == (2, 9, 16, 16, 3) and frames.dtype == torch.uint8 and video.requires_grad
    expected = ((video.detach().clamp(-1, 1) + 1)*127.5).round().permute(0, 2, 3, 4, 1)
    assert torch.equal(frames, expected.to(torch.uint8)) and 0 < (frames == 255).float().mean() < .9


# pictures of other kinds

def grey16(): return Image.fromarray(np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1)))


def test_sixteen_bits_are_the_same_grey(tmp_path):
    grey16().save(tmp_path/"g.png")
    files = [tmp_path/"g.png"] if Image.open(tmp_path/"g.png").mode == "I;16" else []     # older Pillows open it as "I"
    for picture in (grey16(), *files):
        frame = as_frame(picture, (64, 64))
        assert frame[0, 0].tolist() == [0]*3 and frame[0, -1].tolist() == [255]*3
        assert (frame[0, :, 0].float() - torch.linspace(0, 255, 64)).abs().max() <= 1


@pytest.mark.parametrize("picture", [Image.new("F", (8, 8), .5), Image.fromarray(np.full((8, 8), -5, np.int32)),
                                     Image.fromarray(np.full((8, 8), 200, np.int32)), Image.new("RGB", (0, 0))])
def test_numbers_that_are_no_colours(picture):
    with pytest.raises(InputError, match="nobody says what is white|shows nothing"): as_frame(picture, (8, 8))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode):
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 4, 8))
    frame = as_frame(picture.convert(mode), (8, 8))
    assert frame[:, 5:].min() > 250 and frame[:, :3, 0].max() < 60


def test_arrays_that_run_backwards_or_cannot_be_written():
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    locked = picture.copy()
    locked.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(as_frame(picture[..., ::-1], (8, 8)), as_frame(picture[..., ::-1].copy(), (8, 8)))
        assert torch.equal(as_frame(locked, (8, 8)), as_frame(picture, (8, 8)))


def test_a_name_that_no_disk_takes():
    with pytest.raises(InputError, match="no name of a file"): as_frame("a"*5000, (8, 8))
