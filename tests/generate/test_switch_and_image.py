"""A prompt that changes inside a shot, and a picture that a shot begins with"""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from shotstream.model.files import InputError
from shotstream.model.context import context_frames
from shotstream.data.script import StoryError, load_script, save_script
from shotstream.generate.stream import PromptSwitch, ShotRequest

CAPTION, WAITS, WAVES = ("a green cube wearing a crown lives in the meadow by day.", "wide shot: the cube waits.",
                         "wide shot: the cube waves in the city at night.")


def frames_of(stream): return torch.cat([f.video for f in stream])


def filmed(pipe, prompt=WAITS, switch=None, after=4, latents=8, **settings):
    "One shot; after so many latents the prompt is switched"
    stream = pipe.stream(CAPTION, seed=3, **settings)
    stream.next_shot(prompt, latents=latents)
    seen = [next(stream).video for _ in range(after)]
    if switch is not None: stream.switch_prompt(*switch)
    return torch.cat([*seen, frames_of(stream)]), stream


@pytest.fixture(scope="module")
def plain(pipe): return filmed(pipe)[0]


@pytest.mark.parametrize("recache", [False, True])
def test_the_same_prompt_changes_nothing(pipe, plain, recache):
    "Reading the same frames again under the same caption gives the same keys and values"
    assert torch.equal(filmed(pipe, switch=(WAITS, recache))[0], plain)


@pytest.mark.parametrize("after, chunk", [(1, 3), (3, 3), (4, 6)])
def test_it_begins_with_the_next_chunk(pipe, plain, after, chunk):
    film, _ = filmed(pipe, switch=(WAVES,), after=after)
    first = 4*chunk - 3
    assert torch.equal(film[:first], plain[:first])
    assert (film[first:first+4] != plain[first:first+4]).float().mean() > .3


def test_reading_again_matters(pipe):
    assert not torch.equal(filmed(pipe, switch=(WAVES, True))[0], filmed(pipe, switch=(WAVES, False))[0])


def test_a_request_can_know_its_switches(pipe):
    "What happened live can be asked for again"
    film, stream = filmed(pipe, switch=(WAVES,))
    again = pipe.stream(CAPTION, seed=3)
    shot = again.begin(ShotRequest(WAITS, 8, switches=(PromptSwitch(6, WAVES),)))
    assert torch.equal(frames_of(shot), film)
    assert shot.switches == [PromptSwitch(6, WAVES)] and shot.captions[0][0] == 21


def test_later_shots_read_what_a_frame_was_made_under(pipe):
    _, stream = filmed(pipe, switch=(WAVES,))
    latents, shots, reads, texts = stream.history.context()
    frames = [f for _, f in context_frames([(0, 29)], 6, "published")]
    assert texts.shape[1] == 2 and shots == [0]*6 and reads == [int(f >= 21) for f in frames] and set(reads) == {0, 1}
    assert torch.equal(texts[0, 1], pipe.caption_features(CAPTION, WAVES)[0])
    stream.next_shot(WAITS, latents=2)
    assert len(frames_of(stream)) == 5


def test_a_cut_forgets_a_switch_that_has_not_come(pipe):
    stream = pipe.stream(CAPTION, seed=3)
    stream.next_shot(WAITS, latents=9)
    next(stream)
    stream.switch_prompt(WAVES)
    stream.next_shot(WAITS, "now", latents=5)
    cut = frames_of(stream)
    other = pipe.stream(CAPTION, seed=3)
    other.next_shot(WAITS, latents=9)
    next(other)
    other.next_shot(WAITS, "now", latents=5)
    assert torch.equal(cut, frames_of(other))


def test_switches_that_cannot_be(pipe):
    stream = pipe.stream(CAPTION)
    with pytest.raises(ValueError, match="no shot is running"): stream.switch_prompt(WAVES)
    stream.next_shot(WAITS, latents=4)
    with pytest.raises(ValueError, match="has not begun"): stream.switch_prompt(WAVES)
    next(stream)
    with pytest.raises(ValueError, match="empty"): stream.switch_prompt(" ")
    with pytest.raises(ValueError, match="dragon"): stream.switch_prompt("wide shot: the dragon waits.")
    with pytest.raises(ValueError, match="switch_prompt"): stream.next_shot(WAITS, "blend")
    for _ in range(3): next(stream)
    with pytest.raises(ValueError, match="last chunk"): stream.switch_prompt(WAVES)


@pytest.fixture(scope="module")
def picture(pipe, plain): return plain[0]


def begun_with(pipe, picture, latents=5, **options):
    stream = pipe.stream(CAPTION, seed=3)
    stream.next_shot(WAITS, latents=latents, image=picture, **options)
    return frames_of(stream), stream


def test_a_picture_is_the_first_frame(pipe, picture):
    "As the codec shows it; it is the first shot's context too, where there is no other"
    film, stream = begun_with(pipe, picture)
    assert len(film) == 17 and torch.equal(film[:1], pipe.decode(pipe.encode(picture[None])))
    other = picture.flip(1)
    assert not torch.equal(begun_with(pipe, other)[0][1:], film[1:])
    alone = begun_with(pipe, picture, latents=1)[0]
    assert torch.equal(alone, film[:1])
    assert stream.history.shots[0].frames == 17


def test_pictures_of_all_kinds(pipe, picture, tmp_path):
    film = begun_with(pipe, picture)[0]
    Image.fromarray(picture.numpy()).save(tmp_path/"hero.png")
    for same in (picture.numpy(), Image.fromarray(picture.numpy()), tmp_path/"hero.png", str(tmp_path/"hero.png")):
        assert torch.equal(begun_with(pipe, same)[0], film)
    assert len(begun_with(pipe, Image.new("L", (300, 20)))[0]) == 17          # any size, any mode
    for wrong in (picture.float(), picture[0], tmp_path/"nowhere.png", 3):
        with pytest.raises(ValueError, match="picture|no such file"): begun_with(pipe, wrong)


def test_whole_shot_noise_belongs_to_its_latents(pipe, picture):
    "The noise of the latent that is given is not used, that of the others stays at its place"
    noise = torch.randn(1, 5, *pipe.latent_shape((64, 64)), generator=torch.Generator().manual_seed(0))
    film = begun_with(pipe, picture, noise=noise)[0]
    other = noise.clone()
    other[:, 0] = 0
    assert torch.equal(begun_with(pipe, picture, noise=other)[0], film)
    other[:, 4] = 0
    changed = begun_with(pipe, picture, noise=other)[0]
    assert torch.equal(changed[:13], film[:13]) and not torch.equal(changed[13:], film[13:])


def test_a_picture_in_a_later_shot(pipe, picture):
    "The past is the past; the picture only begins the shot; a prompt may still be switched behind it"
    stream = pipe.stream(CAPTION, seed=3)
    stream.next_shot(WAITS, latents=3)
    frames_of(stream)
    stream.next_shot(WAITS, latents=5, image=picture)
    first = next(stream)
    assert torch.equal(first.video, pipe.decode(pipe.encode(picture[None])))
    stream.switch_prompt(WAVES)
    assert len(frames_of(stream)) == 16
    assert stream.history.shots[1].later[0][0] == 1


@pytest.fixture
def story_file(tmp_path, picture):
    Image.fromarray(picture.numpy()).save(tmp_path/"hero.png")
    path = tmp_path/"story.json"
    def write(image): path.write_text(json.dumps(dict(caption=CAPTION, seed=3, shots=[
        dict(caption=WAITS, frames=17, image=image), WAVES])), encoding="utf-8")
    write("hero.png")
    return path, write


def test_a_story_file_names_its_picture(pipe, picture, story_file, tmp_path):
    "Stream, story file, dict and call make one film; a saved script finds its picture again"
    path, _ = story_file
    film = pipe(path, num_frames=[17, 5])
    assert torch.equal(film.shots[0], begun_with(pipe, picture)[0])
    called = pipe([WAITS, WAVES], caption=CAPTION, num_frames=[17, 5], seed=3, image=picture)
    assert torch.equal(called.frames, film.frames)
    script = load_script(path)
    save_script(script, tmp_path/"again.json")
    assert load_script(tmp_path/"again.json") == script and '"image": "hero.png"' in (tmp_path/"again.json").read_text()


@pytest.mark.parametrize("image, said", [("../hero.png", "leaves the folder"), ("nowhere.png", "no such file"),
                                         (7, "name of a picture"), ("story.json", "not a picture"), ("", "name of a")])
def test_pictures_that_cannot_be_used(pipe, story_file, image, said):
    path, write = story_file
    write(image)
    with pytest.raises(StoryError, match=rf"(?s)shots\[0\].*{said}"): pipe(path)


def test_only_the_student_begins_with_a_picture(pipe, picture):
    with pytest.raises(ValueError, match="only the student"): pipe(WAITS, image=picture, teacher=True)
    with pytest.raises(ValueError, match="one for each of 2"): pipe([WAITS, WAVES], image=[picture])


@pytest.mark.parametrize("picture", [object(), {}, [[1], [2, 3]], np.zeros((0, 5, 3), np.uint8)])
def test_what_is_no_picture(pipe, picture):
    with pytest.raises(InputError, match="picture"): pipe.stream(CAPTION).next_shot(WAITS, image=picture)


def test_the_teachers_options_are_checked_first(pipe):
    for wrong, said in ((dict(rule="nope"), "rule"), (dict(budget=99), "budget"),
                        (dict(seed="x"), "seed"), (dict(seed=-1), "seed"), (dict(steps=()), "steps")):
        with pytest.raises(InputError, match=said): pipe(WAITS, teacher=True, **wrong)
