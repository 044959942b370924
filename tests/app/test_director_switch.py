"""A director changes the prompt inside a shot, and begins a shot with a picture"""
import numpy as np
import pytest
import torch

from shotstream.app.director import Director, Timeline, as_python, export_shots
from shotstream.data.script import load_script
from shotstream.generate.stream import PromptSwitch, ShotRequest
from shotstream.model.files import InputError
from shotstream.model.pixels import as_frame

CAPTION, WAITS, WAVES = ("a green cube wearing a crown lives in the meadow by day.", "wide shot: the cube waits.",
                         "wide shot: the cube waves in the city at night.")


@pytest.fixture(scope="module")
def story(pipe, tmp_path_factory):
    "Two shots: one whose prompt changes, one that begins with the first shot's last frame"
    folder = tmp_path_factory.mktemp("story")
    with Director(pipe, CAPTION, seed=3, folder=folder) as director:
        def seen(frames):
            if (frames.shot, frames.latent) == (0, 3): director.switch_prompt(WAVES)
        director.on("frames", seen)
        director.next_shot(WAITS, latents=12)
        director.wait()
        director.next_shot(WAITS, latents=4, image=director.shots[0].video[-1])
        director.wait()
        shots = director.shots
        with pytest.raises(InputError, match="no shot is being made"): director.switch_prompt(WAVES)
        with pytest.raises(InputError, match="switch_prompt"): director.next_shot(WAITS, "blend")
    return shots, folder


def test_what_was_filmed_can_be_filmed_again(pipe, story):
    (first, second), _ = story
    (switch,) = first.switches
    assert switch.prompt == WAVES and switch.latent in (6, 9) and first.later[0][0] == 4*switch.latent - 3
    stream = pipe.stream(CAPTION, seed=3)
    shot = stream.begin(ShotRequest(WAITS, 12, switches=(PromptSwitch(switch.latent, WAVES),)))
    assert torch.equal(torch.cat([f.video for f in shot]), first.video)
    assert torch.equal(second.video[:1], pipe.decode(pipe.encode(first.video[-1:])))


def test_it_is_saved_and_goes_on(pipe, story):
    (first, second), folder = story
    with Director(pipe, folder=folder) as director:
        a, b = director.shots
        assert (a.switches, b.switches) == (first.switches, ()) and torch.equal(b.image, second.image)
        assert a.image is None
        assert torch.equal(a.later[0][1], first.later[0][1]) and torch.equal(a.video, first.video)
        director.rewrite(0)                                       # the same again, and what comes after it
        director.wait()
        assert all(torch.equal(x.video, y.video) for x, y in zip(director.shots, (first, second), strict=True))


def test_the_program_films_it_again(pipe, story, monkeypatch, tmp_path):
    "Pictures lie beside it"
    shots, _ = story
    monkeypatch.setattr("shotstream.ShotStreamPipeline.from_pretrained", lambda name: pipe)
    export_shots(tmp_path/"again.py", shots, seed=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again-2.png", "again.py"]
    space = dict(__file__=str(tmp_path/"again.py"), __name__="again")
    exec((tmp_path/"again.py").read_text(), space)
    assert torch.equal(space["film"], torch.cat([s.video for s in shots]))
    with pytest.raises(InputError, match="beside it"): as_python(shots)


def test_a_prompt_that_comes_too_late_is_said(pipe):
    with Director(pipe, CAPTION, seed=3) as director:
        errors = []
        director.on("error", errors.append)
        def seen(frames):
            if frames.latent == 3:
                with pytest.raises(InputError, match="last chunk"): director.switch_prompt(WAVES)
                errors.append("refused")
        director.on("frames", seen)
        director.next_shot(WAITS, latents=5)
        director.wait()
        assert errors == ["refused"] and director.shots[0].switches == ()


def test_a_switch_is_never_anothers(pipe):
    "Meant for a shot that was cut before its next chunk, it is gone with it; a rewriting before it keeps it"
    with Director(pipe, CAPTION, seed=3, paced=True, ahead=0) as director:
        director.next_shot(WAITS, latents=9)
        director.watch(60)
        director.switch_prompt(WAVES)
        director.next_shot(WAITS, "now", latents=9)
        while director.watch() is not None: pass
        director.wait(60)
        assert [s.switches for s in director.shots] == [(), ()]


def test_a_rewriting_before_it_keeps_a_live_switch():
    timeline = Timeline()
    for _ in range(2): timeline.ask(ShotRequest(WAITS, 9, caption=CAPTION))
    first, _ = timeline.start()
    first.switches.append(PromptSwitch(3, WAVES))
    assert [r.switches for r in timeline.plan()] == [(PromptSwitch(3, WAVES),), ()]


def test_a_saved_story_for_people_names_its_pictures(pipe, story):
    (first, second), folder = story
    script = load_script(folder/"story.json")
    assert script.shots[0].image is None and torch.equal(as_frame(script.shots[1].image, (64, 64)), second.image)


def test_numbers_of_numpy_can_be_saved(pipe, tmp_path):
    with Director(pipe, CAPTION, seed=np.int64(3), folder=tmp_path, phi=np.float32(.1), budget=np.int64(5)) as director:
        director.next_shot(WAITS, latents=np.int64(1), seed=np.int64(2))
        director.wait()
        assert not director.unsaved and len(director.shots) == 1
    assert (tmp_path/"story.json").exists()
