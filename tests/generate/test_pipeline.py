"""The pipeline as diffusers users know it: the names of its arguments, its output, loading, and what it refuses."""
import inspect
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, WanPipeline, WanTransformer3DModel
from diffusers.utils import BaseOutput

from shotstream import ShotStreamPipeline
from shotstream.app.director import Director
from shotstream.generate.components import PARTS, ShotComponents, find_folder
from shotstream.generate.pipeline import ASSETS, PUBLISHED, Film, teacher_shots
from shotstream.data.script import Script, StoryError
from shotstream.generate.stream import Stream
from shotstream.generate.student import student_sigmas, whole_shot_noise
from shotstream.toy.networks import toy_text_encoder
from shotstream.toy.vocabulary import toy_tokenizer
from shotstream.model.files import InputError
from shotstream.model.text import names_file
from shotstream.model.transformer import ShotTransformer
from shotstream.model.wan_vae import WanVAE, tiny_wan_vae

CAPTION = "a red ball with a hat in the forest by day."
PROMPTS = ["wide shot: the ball waves.", "close up: the ball jumps."]
STORY = dict(caption=CAPTION, shots=[dict(caption=p, frames=9) for p in PROMPTS])

@pytest.fixture(scope="module")
def film(pipe): return pipe(STORY)


@pytest.fixture(scope="module")
def stock():
    "diffusers' own pipeline around a tiny Wan"
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=24, in_channels=16, out_channels=16,
                                        text_dim=32,
                                        freq_dim=32, ffn_dim=64, num_layers=2).eval()
    tokenizer = toy_tokenizer()
    tokenizer.model_max_length = 64
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
    vae = AutoencoderKLWan.from_config(tiny_wan_vae().config).eval()
    return WanPipeline(tokenizer, toy_text_encoder(len(tokenizer), 32).eval(), vae, UniPCMultistepScheduler(),
                       transformer)


def test_every_form_of_prompt_films_the_same(pipe, film, tmp_path):
    (tmp_path/"a.json").write_text(json.dumps(STORY))
    script = pipe.read(STORY)
    forms = [(PROMPTS, dict(caption=CAPTION, num_frames=9)), (tuple(PROMPTS), dict(caption=CAPTION, num_frames=[9, 9])),
             (script, {}), (tmp_path/"a.json", {}),
             (str(tmp_path/"a.json"), {}), (STORY | dict(shots=PROMPTS), dict(num_frames=9)),
             (STORY, dict(height=64, width=64, num_inference_steps=4)),
             (STORY, dict(size=(64, 64), seed=0, progress=False, steps=4))]
    for prompt, named in forms: assert torch.equal(pipe(prompt=prompt, **named).frames, film.frames), prompt
    one = pipe(PROMPTS[0], caption=CAPTION, num_frames=9)
    assert torch.equal(one.frames, film.shots[0]) and len(one.script.shots) == 1
    assert [s.frames for s in pipe._script_of(PROMPTS, CAPTION).shots] == [33, 33]


def test_the_output(pipe, film):
    assert isinstance(film, BaseOutput) and isinstance(film.script, Script)
    assert film.first > 0 and len(film.seconds) == 2
    assert film[0] is film.frames is film["frames"] and film.to_tuple()[1] is film.shots
    assert film.frames.dtype == torch.uint8 and [len(s) for s in film.shots] == [9, 9]
    assert torch.equal(torch.cat(film.shots), film.frames)
    # no second copy of a film
    assert film.shots[1].untyped_storage().data_ptr() == film.frames.untyped_storage().data_ptr()
    (frames,) = pipe(STORY, return_dict=False)
    assert torch.equal(frames, film.frames)
    arrays, images, latents = (pipe(STORY, output_type=t) for t in ("np", "pil", "latent"))
    assert arrays.frames.dtype == np.float32 and np.array_equal((arrays.frames*255).round().astype("uint8"),
                                                                film.frames.numpy())
    assert [s.shape for s in arrays.shots] == [(9, 64, 64, 3)]*2
    assert [len(s) for s in images.shots] == [9, 9] and np.array_equal(np.stack([np.asarray(i) for i in images.frames]),
                                                                       film.frames.numpy())
    assert latents.frames.shape == (1, 6, 32, 8, 8)
    # decoded latent by latent, or all at once: a number on the edge may be rounded the other way
    assert (pipe.decode(latents.shots[1]).int() - film.shots[1].int()).abs().max() <= 1
    assert torch.equal(Film(film.shots, None, [], 0.).frames, film.frames)


def test_generator_latents_and_noise(pipe):
    "One generator draws for all shots in turn; latents are the initial noise; noise is all of it"
    def seeded(s=5): return torch.Generator().manual_seed(s)
    one = pipe(STORY, generator=seeded())
    assert torch.equal(one.frames, pipe(STORY, generator=seeded()).frames)
    assert not torch.equal(one.frames, pipe(STORY, generator=seeded(6)).frames)
    each = pipe(STORY, generator=[seeded(0), seeded(1)])
    assert torch.equal(each.shots[0], pipe(STORY, seed=0).shots[0]) and not torch.equal(each.shots[0], one.shots[0])
    z = torch.randn(1, 3, 32, 8, 8, generator=seeded())
    a, b = (pipe(PROMPTS[0], caption=CAPTION, num_frames=9, latents=z, generator=seeded(7)) for _ in range(2))
    assert torch.equal(a.frames, b.frames)
    c = pipe(PROMPTS[0], caption=CAPTION, num_frames=9, latents=-z, generator=seeded(7))
    assert (a.frames.float() - c.frames.float()).abs().mean() > 1
    teacher = dict(teacher=True, steps=2)
    assert torch.equal(pipe(STORY, latents=[z, z], **teacher).shots[0], pipe(STORY, noise=[z, z], **teacher).shots[0])
    d = pipe(PROMPTS[0], caption=CAPTION, num_frames=9, noise=lambda k, shape: whole_shot_noise(shape, seeded()))
    e = pipe(PROMPTS[0], caption=CAPTION, num_frames=9, latents=torch.randn(1, 3, 32, 8, 8, generator=(g := seeded())),
             generator=g)
    assert torch.equal(d.frames, e.frames)


@pytest.mark.parametrize("teacher", [False, True])
def test_callback_on_step_end(pipe, teacher):
    "Every step of the call in turn, with its time and latents; what it returns is used"
    seen, named = [], dict(caption=CAPTION, num_frames=17, seed=1, teacher=teacher, num_inference_steps=3)
    def look(p, step, timestep, given):
        seen.append((p is pipe, step, round(timestep, 2), tuple(given["latents"].shape)))
        return {}
    plain, heard = pipe(PROMPTS[0], **named), pipe(PROMPTS[0], callback_on_step_end=look, **named)
    assert torch.equal(plain.frames, heard.frames)
    if teacher: times, shapes = [1000., 857.14, 600.], [(1, 5, 32, 8, 8)]*3
    else:
        times, shapes = [round(1000*s, 2) for s in student_sigmas(3., 3)]*2, [(1, 3, 32, 8, 8)]*3 + [(1, 2, 32, 8, 8)]*3
    assert seen == [(True, i, t, s) for i, (t, s) in enumerate(zip(times, shapes, strict=True))]
    other = pipe(PROMPTS[0], callback_on_step_end=lambda p, i, t, given: dict(latents=0*given["latents"]),
                 output_type="latent", **named)
    assert not other.frames.any()
    assert pipe(PROMPTS[0], callback_on_step_end=lambda p, i, t, given: given and None,
                callback_on_step_end_tensor_inputs=[], **named).frames.shape == plain.frames.shape


def test_the_teacher_takes_guidance_and_a_negative_prompt(pipe):
    named = dict(teacher=True, num_inference_steps=2)
    plain = pipe(STORY, **named).frames
    assert torch.equal(pipe(STORY, guidance_scale=2., **named).frames,
                       plain) and torch.equal(pipe(STORY, guidance=2., negative_prompt="", **named).frames, plain)
    assert not torch.equal(pipe(STORY, guidance_scale=4., **named).frames, plain)
    assert not torch.equal(pipe(STORY, negative_prompt="close up: the ball waves.", **named).frames, plain)
    with pytest.raises(TypeError): pipe(STORY, window=5, **named)


@pytest.mark.parametrize("named, message", [
    (dict(height=60), "multiples of 8"), (dict(num_frames=10), "1 \\+ 4k"),
    (dict(num_frames=[9]), "one for each of 2"), (dict(output_type="mp4"), "output_type"),
    (dict(guidance_scale=3.), "teacher=True"), (dict(negative_prompt="rain"), "teacher=True"),
    (dict(callback_on_step_end_tensor_inputs=["prompt_embeds"]), "latents"),
    (dict(latents=torch.zeros(1, 3, 32, 8, 8)), "one for each of 2"),
    (dict(latents=torch.zeros(1, 3, 32, 8, 8), noise=[]), "says everything"),
    (dict(latents=[torch.zeros(1, 32, 3, 8, 8)]*2), "latents: numbers of shape"),
    (dict(latents=3), "one for each of 2"),
    (dict(latents=[torch.full((1, 3, 32, 8, 8), torch.nan)]*2), "not finite"), (dict(latents=["a", "b"]), "latents"),
    (dict(generator=3), "torch.Generator"), (dict(noise="ab"), "a list or a function"), (dict(noise=[3, 3]), "noise"),
    (dict(noise=lambda k, shape: lambda *a: torch.zeros(2)), "a source draws"), (dict(num_frames=10**5000), "1 \\+ 4k"),
    (dict(pinned=((2, 0),)), "no frame 0 of shot 2"), (dict(pinned=((0, 9),)), "no frame 9 of shot 0"),
    (dict(callback_on_step_end=3), "a function"), (dict(callback_on_step_end=lambda *a: 3), "returns a dict"),
    (dict(callback_on_step_end=lambda *a: {"latents": torch.zeros(2)}), "numbers of shape"),
    (dict(teacher=True, guidance_scale=torch.nan), "guidance"), (dict(teacher=True, guidance="7"), "guidance"),
    (dict(teacher=True, guide_above=2.), "guide_above"), (dict(teacher=True, negative_prompt="a dragon"), "dragon"),
    (dict(generator=[torch.Generator()]), "generator"), (dict(num_inference_steps=99), "1 to 50"),
    (dict(caption="a story."), "own caption")])
def test_bad_arguments(pipe, named, message):
    with pytest.raises(ValueError, match=message): pipe(STORY, **named)


def test_bad_prompts(pipe):
    wrong = {TypeError: (None, 7, ["wide shot: the ball waves.", 3]), ValueError: ("", []),
             StoryError: ("the dragon jumps.",)}
    for kind, prompt in ((kind, prompt) for kind, prompts in wrong.items() for prompt in prompts):
        with pytest.raises(kind): pipe(prompt)
    with pytest.raises(StoryError, match="no such file"): pipe("nowhere.json")


def test_encode_prompt(pipe):
    embeds, negative = pipe.encode_prompt(PROMPTS, caption=CAPTION)
    assert embeds.shape[0] == 2 and negative is None
    assert torch.equal(embeds[1:], pipe.caption_features(CAPTION, PROMPTS[1], 1))
    assert torch.equal(pipe.encode_prompt(PROMPTS[0], negative_prompt="the ball waves.")[1],
                       pipe.features("the ball waves."))
    with pytest.raises(ValueError, match="dragon"): pipe.encode_prompt("the dragon jumps.")


def test_progress_bar(pipe, capfd):
    def said(**named):
        pipe(PROMPTS[0], caption=CAPTION, num_frames=5, **named)
        return capfd.readouterr().err
    assert said() == "" and "5/5" in said(progress=True) and said() == ""
    try:
        pipe.set_progress_bar_config(desc="filming")
        assert "filming" in said() and said(progress=False) == ""
    finally: pipe.set_progress_bar_config(disable=True)


def test_help_reads_like_diffusers():
    text = inspect.getdoc(ShotStreamPipeline.__call__)
    for name in inspect.signature(ShotStreamPipeline.__call__).parameters: assert name == "self" or name in text, name
    for word in ("Args:", "Returns:", "Raises:", "Examples:"): assert word in text
    theirs = set(inspect.signature(WanPipeline.__call__).parameters)
    ours = set(inspect.signature(ShotStreamPipeline.__call__).parameters)
    assert theirs - ours == {"guidance_scale_2", "num_videos_per_prompt", "prompt_embeds", "negative_prompt_embeds",
                             "attention_kwargs", "max_sequence_length"}


# Loading

def test_parts_that_are_there_are_not_loaded(pipe):
    again = ShotStreamPipeline.from_pretrained("toy", transformer=pipe.teacher, vae=pipe.vae, teacher=None, shift=5.,
                                               dtype=torch.bfloat16)
    assert (again.transformer is pipe.teacher and again.vae is pipe.vae and again.teacher is None
            and again.config.shift == 5.)
    assert again.text_encoder.dtype == torch.bfloat16 and pipe.transformer.dtype == torch.float32
    mixed = ShotStreamPipeline.from_pretrained("toy",
                                               torch_dtype={"transformer": torch.bfloat16, "default": torch.float32})
    assert mixed.transformer.dtype == torch.bfloat16 and mixed.teacher.dtype == torch.float32
    with pytest.raises(TypeError, match="nonsense"): ShotStreamPipeline.from_pretrained("toy", nonsense=1)
    with pytest.raises(NotImplementedError, match="device_map"):
        ShotStreamPipeline.from_pretrained("toy", device_map="balanced")


def test_arguments_reach_hub_and_diffusers(monkeypatch, pipe, tmp_path):
    asked = {}
    def hub(name, **named):
        asked.update(named, name=name)
        return str(ASSETS/"toy")
    monkeypatch.setattr("shotstream.generate.components.snapshot_download", hub)
    again = ShotStreamPipeline.from_pretrained("some/where", revision="r1", cache_dir=tmp_path, token="t",
                                               local_files_only=True, teacher=None)
    assert again.is_toy and (asked["name"], asked["revision"], asked["cache_dir"], asked["token"],
                             asked["local_files_only"]) == ("some/where", "r1", tmp_path, "t", True)
    assert "transformer/*" in asked["allow_patterns"] and "teacher/*" not in asked["allow_patterns"]
    monkeypatch.undo()
    pipe.save_pretrained(tmp_path/"half", variant="fp16")
    assert any("fp16" in p.name for p in (tmp_path/"half"/"transformer").iterdir())
    assert ShotStreamPipeline.from_pretrained(tmp_path/"half", variant="fp16").config.shift == 3.
    with pytest.raises(OSError): ShotStreamPipeline.from_pretrained(tmp_path/"half")
    with pytest.raises(OSError, match="the hub did not give it"): find_folder("nobody/nothing", local_files_only=True)


def test_saved_without_its_text_encoder(tmp_path, film):
    "A pipeline whose text encoder was released can be saved, and loaded again; then it needs one to read"
    from transformers import UMT5EncoderModel
    lean = ShotStreamPipeline.from_pretrained("toy")
    lean.release_text(STORY)
    lean.save_pretrained(tmp_path)
    again = ShotStreamPipeline.from_pretrained(tmp_path)
    assert again.text_encoder is None
    with pytest.raises(ValueError, match="released"): again(STORY)
    reader = UMT5EncoderModel.from_pretrained(ASSETS/"toy"/"text_encoder", dtype=torch.float32)
    assert torch.equal(ShotStreamPipeline.from_pretrained(tmp_path, text_encoder=reader)(STORY).frames, film.frames)
    (tmp_path/"model_index.json").unlink()
    with pytest.raises(FileNotFoundError, match="text_encoder"): ShotStreamPipeline.from_pretrained(tmp_path)


def test_components_and_from_pipe(pipe, film, stock):
    assert set(pipe.components) == set(PARTS)
    twin = ShotStreamPipeline.from_pipe(pipe)
    assert twin.transformer is pipe.transformer and dict(twin.config)["shift"] == 3.
    assert torch.equal(twin(STORY).frames, film.frames)
    assert ShotStreamPipeline.from_pipe(pipe, shift=4.).config.shift == 4.
    assert torch.equal(ShotStreamPipeline(**pipe.components)(STORY).frames, film.frames)
    ours = ShotStreamPipeline.from_pipe(stock, size=(32, 48))
    assert (type(ours.transformer) is ShotTransformer and type(ours.vae) is WanVAE
            and ours.config.shift == PUBLISHED["shift"] and ours.config.size == (32, 48))
    assert ours.transformer.proj_out.weight.data_ptr() == stock.transformer.proj_out.weight.data_ptr()
    assert ours("wide shot: the ball waves.", num_frames=5).frames.shape == (5, 32, 48, 3)
    direct = ShotStreamPipeline(stock.vae, stock.text_encoder, stock.tokenizer, stock.transformer)
    assert type(direct.transformer) is ShotTransformer and type(direct.vae) is WanVAE


def test_a_stock_folder_loads(stock, tmp_path):
    "diffusers' own folder, which names WanPipeline and stock classes, gives the same film as its parts"
    stock.save_pretrained(tmp_path)
    loaded = ShotStreamPipeline.from_pretrained(tmp_path, size=(32, 48))
    assert type(loaded.transformer) is ShotTransformer and loaded.config.prompt_style == "published"
    a, b = (p("the ball waves.", num_frames=5).frames for p in (loaded,
                                                                ShotStreamPipeline.from_pipe(stock, size=(32, 48))))
    assert torch.equal(a, b)


def test_what_cannot_work_refuses(pipe):
    for refused in (pipe.enable_attention_slicing, pipe.enable_xformers_memory_efficient_attention):
        with pytest.raises(NotImplementedError, match="fused kernel"): refused()
    pipe.disable_attention_slicing()
    public = {n for n in dir(DiffusionPipeline) if n.startswith(("enable_", "disable_", "set_"))}
    assert public <= {"enable_attention_slicing", "disable_attention_slicing",
                      "enable_xformers_memory_efficient_attention", "set_attention_slice",
                      "disable_xformers_memory_efficient_attention", "enable_model_cpu_offload",
                      "enable_sequential_cpu_offload", "enable_group_offload",
                      "set_progress_bar_config",
                      "set_use_memory_efficient_attention_xformers"}, "diffusers has a new promise: keep it, or refuse"


def test_parts_without_a_pipeline_stream(pipe, film):
    "A stream needs components, not a pipeline"
    parts = ShotComponents(**pipe.components, config=pipe.config)
    stream = Stream(parts, CAPTION)
    for p in PROMPTS: stream.next_shot(p, latents=3)
    assert torch.equal(torch.cat([f.video for f in stream]), film.frames)


def test_teacher_shots_yield_latents(pipe):
    from shotstream.generate.pipeline import shot_noise
    script = pipe.read(STORY)
    for video, z in teacher_shots(pipe, script, (64, 64), shot_noise(None, 0), pipe.sampling, pipe.teacher_guidance()):
        assert torch.equal(pipe.decode(z), video)


def test_paths_are_paths(pipe):
    assert pipe._script_of(Path(__file__).parents[2]/"data_samples"/"stories"/"lost_hat.json").title


def test_sizes_that_nobody_trained_for_are_told(caplog):
    "A habit from other models, 480 x 832, takes the toy minutes"
    pipe = ShotStreamPipeline.from_pretrained("toy")
    for size, told in (((64, 64), 0), ((128, 128), 0), ((136, 136), 1)):
        caplog.clear()
        pipe("a red ball in the forest by day.", size=size, num_frames=1, num_inference_steps=1)
        assert sum("which this model has learned" in r.message for r in caplog.records) == told


def test_an_unknown_argument_points_to_the_right_list():
    pipe = ShotStreamPipeline.from_pretrained("toy")
    with pytest.raises(TypeError, match=r"'num_step'; help\(pipe.__call__\)"):
        pipe("a red ball in the forest by day.", num_step=1)


@pytest.mark.parametrize("name", ["README.md", "notes.txt", "film.mp4", "./mine.yaml", "folder/story.json ", "X.JSON"])
def test_a_files_name_is_no_prompt(pipe, name):
    "Published weights would film it; the toy would complain about words"
    doors = [lambda: pipe([name]), lambda: pipe.stream(CAPTION).next_shot(name), lambda: pipe.encode_prompt(name),
             lambda: pipe.stream(name).next_shot(PROMPTS[0]), lambda: Director(pipe, CAPTION).next_shot(name)]
    for door in doors if "json" in name.lower() else [*doors, lambda: pipe(name)]:
        with pytest.raises(InputError, match="is the name of a file; a story file ends in .json"): door()


def test_a_sentence_is_no_files_name(pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"the ball waits.now").write_text("")
    assert names_file("the ball waits.now") and not names_file("the ball waits.soon") and not names_file("jumps.")
    assert not names_file("wide shot: the ball waves.") and not names_file("x"*300 + ".md")
    assert not names_file("\0.md\0 a")
    assert not names_file("shown in the README.md") and names_file("README.md\n")


def test_diffusers_own_loader_is_told_what_to_call(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match="ShotStreamPipeline.from_pretrained"):
        DiffusionPipeline.from_pretrained(tmp_path)


def test_names_without_end_stay_short():
    with pytest.raises(InputError, match="no name of a folder") as e: ShotStreamPipeline.from_pretrained("x"*10**6)
    assert len(str(e.value)) < 500
    with pytest.raises(TypeError, match="does not know x0") as e:
        ShotStreamPipeline.from_pretrained("toy", **{f"x{i}": 1 for i in range(10**4)})
    assert len(str(e.value)) < 500


@pytest.mark.parametrize("said, says", [
    (dict(teacher="no"), "teacher: True or False, got no"), (dict(teacher=1), "teacher: True or False"),
    (dict(callback_on_step_end_tensor_inputs=3), "a list of latents, got 3"),
    (dict(callback_on_step_end_tensor_inputs="latents"), "a list of latents"),
    (dict(callback_on_step_end_tensor_inputs=["noise"]), "a list of latents, got")])
def test_a_text_is_no_yes_and_a_number_no_list(pipe, said, says):
    with pytest.raises(InputError, match=says): pipe(PROMPTS[0], num_frames=1, **said)


# as diffusers users call it

def test_the_second_argument_is_the_negative_prompt(pipe):
    "In every diffusers pipeline it is; taken for a caption it would become part of the prompt"
    with pytest.raises(InputError, match="negative_prompt|guidance"): pipe(PROMPTS[0], "blurry")
    embeds, negative = pipe.encode_prompt(PROMPTS[0], "the ball waves.")
    assert torch.equal(negative, pipe.features("the ball waves."))
    assert pipe(PROMPTS[0], caption=None, num_frames=1).script.caption == ""


@pytest.mark.parametrize("teacher", [False, True])
def test_an_interrupted_call_keeps_what_was_made(pipe, teacher):
    calls = []
    def stop(p, step, timestep, tensors):
        calls.append((step, p.interrupt, p.num_timesteps, p.guidance_scale))
        if len(calls) == (6 if teacher else 10): p._interrupt = True
        return tensors
    more = dict(teacher=True, num_inference_steps=4, guidance_scale=2.) if teacher else {}
    film = pipe(PROMPTS, caption=CAPTION, num_frames=[9, 13], callback_on_step_end=stop, **more)
    whole = pipe(PROMPTS, caption=CAPTION, num_frames=[9, 13], **more)
    assert len(calls) == (6 if teacher else 10) and calls[0] == (0, False, 4, 2. if teacher else 1.)
    made = len(film.frames)
    assert 0 < made < len(whole.frames) and torch.equal(film.frames, whole.frames[:made])
    assert sum(map(len, film.shots)) == made and len(film.seconds) == len(film.shots)
    assert len(pipe(PROMPTS[0], num_frames=1).frames) == 1                  # the next call is not interrupted


@pytest.mark.parametrize("output_type", ["pt", "np", "pil", "latent"])
def test_interrupted_before_anything_was_made(pipe, output_type):
    def stop(p, *rest):
        p._interrupt = True
        return {}
    film = pipe(PROMPTS[0], num_frames=5, callback_on_step_end=stop, output_type=output_type)
    assert film.shots == [] and film.frames is not None
    assert film.frames.shape[1] == 0 if output_type == "latent" else len(film.frames) == 0


def test_torch_s_default_type_changes_nothing(pipe):
    films = []
    try:
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            torch.set_default_dtype(dtype)
            films.append(pipe(PROMPTS, num_frames=5).frames)
            films.append(pipe(PROMPTS, num_frames=5, teacher=True, num_inference_steps=2).frames)
    finally: torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(films, films[2:]))


def test_latents_of_several_shots_are_decoded_one_by_one(pipe):
    film, frames = (pipe(PROMPTS, num_frames=13, output_type=t) for t in ("latent", "pt"))
    decoded = torch.cat([pipe.decode(z) for z in film.shots])
    assert len(decoded) == 26 and (decoded.int() - frames.frames.int()).abs().max() <= 1   # a last bit, see VideoStream


def test_parts_that_are_missing_or_no_models(pipe):
    load = partial(ShotStreamPipeline.from_pretrained, "toy")
    for name in ("vae", "transformer"):
        with pytest.raises(InputError, match=f"{name}: a pipeline cannot do without one"): load(**{name: None})
        with pytest.raises(InputError, match=f"{name}: a loaded model, got folder"): load(**{name: "folder"})
    with pytest.raises(InputError, match="from_pipe: a pipeline, got toy"): ShotStreamPipeline.from_pipe("toy")
    other = load()
    other.transformer = None
    for door in (lambda: other(PROMPTS[0]), lambda: other.stream(CAPTION)):
        with pytest.raises(InputError, match="transformer: a pipeline cannot do without one"): door()


def test_a_stock_transformer_may_be_put_in_its_place():
    pipe = ShotStreamPipeline.from_pretrained("toy")
    config = {k: v for k, v in pipe.transformer.config.items() if not k.startswith("_") and k != "prediction_type"}
    stock = WanTransformer3DModel(**config)
    stock.load_state_dict(pipe.transformer.state_dict())
    pipe.transformer = stock
    assert len(pipe(PROMPTS[0], num_frames=5).frames) == 5 and type(pipe.transformer) is ShotTransformer


def test_stock_weights_are_said_to_be_no_students(tmp_path, caplog, pipe):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path/"model_index.json").read_text())
    (tmp_path/"model_index.json").write_text(json.dumps(index | {"_class_name": "WanPipeline"}))
    ShotStreamPipeline.from_pretrained(tmp_path, transformer=pipe.transformer)
    assert "fifty" not in caplog.text
    ShotStreamPipeline.from_pretrained(tmp_path)
    assert "weights of a WanPipeline" in caplog.text and "weights=" in caplog.text


def test_text_encoders_that_are_gone():
    pipe = ShotStreamPipeline.from_pretrained("toy")
    with pytest.raises(InputError, match="rests: True or False, got cpu"): pipe.rest_text("cpu")
    pipe.release_text(PROMPTS, CAPTION)
    assert len(pipe(PROMPTS, caption=CAPTION, num_frames=1).shots) == 2
    with pytest.raises(InputError, match="released"): pipe.rest_text()
    one = ShotStreamPipeline.from_pretrained("toy")
    one.release_text(PROMPTS[0])
    assert len(one(PROMPTS[0], num_frames=1).frames) == 1


@pytest.mark.parametrize("noise, says", [
    (lambda k, shape: torch.zeros(3), "noise of shape"), (lambda shape: None, r"a function of \(shot number, shape\)"),
    (lambda k, shape: "x", "noise: a tensor")])
def test_noise_functions_that_cannot_be(pipe, noise, says):
    with pytest.raises(InputError, match=says): pipe(PROMPTS, noise=noise, num_frames=1)


@pytest.mark.parametrize("prompt", [None, [], "", 7])
def test_nothing_to_encode(pipe, prompt):
    with pytest.raises(ValueError, match="prompt"): pipe.encode_prompt(prompt)


def test_what_a_callback_may_return(pipe):
    with pytest.raises(InputError, match="a dict of latents"):
        pipe(PROMPTS[0], num_frames=1, callback_on_step_end=lambda *a: {"latent": 1})


def test_folders_that_could_not_be_loaded_are_not_written(pipe, tmp_path):
    with pytest.raises(InputError, match="safe_serialization"):
        pipe.save_pretrained(tmp_path/"x", safe_serialization=False)
    (tmp_path/"file").write_text("mine")
    with pytest.raises(InputError, match="a file, not a folder"): pipe.save_pretrained(tmp_path/"file")
    assert not (tmp_path/"x").exists() and (tmp_path/"file").read_text() == "mine"


def test_numbers_in_quotes_are_shown_in_quotes(pipe):
    with pytest.raises(InputError, match="got '4'"): pipe(PROMPTS[0], num_inference_steps="4")
    with pytest.raises(InputError, match="got '3'"): pipe(PROMPTS[0], seed="3")


def test_a_film_prepares_for_no_shot_that_nobody_wants(pipe):
    calls = []
    handle = pipe.transformer.register_forward_hook(lambda *a: calls.append(1))
    try: pipe(PROMPTS[0], num_frames=1)
    finally: handle.remove()
    assert len(calls) == 6                              # context, captions, and four denoising steps


@pytest.mark.parametrize("story", [dict(caption="x", shots=[]), 7, None])
def test_a_stream_takes_a_caption_and_no_story(pipe, story):
    with pytest.raises(InputError, match="caption: a text that holds for all shots"): pipe.stream(story)


def test_a_variant_that_is_not_there_names_those_that_are(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, variant="fp16")
    assert ShotStreamPipeline.from_pretrained(tmp_path, variant="fp16").transformer.dtype == torch.float32
    with pytest.raises(OSError, match="no weights without a variant: give variant='fp16'"):
        ShotStreamPipeline.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="no weights of variant 'ema': give no variant"):
        ShotStreamPipeline.from_pretrained("toy", variant="ema")


@pytest.mark.parametrize("noise, says", [
    (lambda k, s: torch.full(s, torch.nan), "not finite"), (lambda k, s: 1e6*torch.ones(s), "standard normal"),
    ([lambda shape, start, step: torch.full(shape, torch.nan)], "not finite"), ([], "one for each of 1 shots, got 0")])
def test_noise_that_would_make_a_black_film(pipe, noise, says):
    with pytest.raises(InputError, match=says): pipe(PROMPTS[0], noise=noise, num_frames=1)


@pytest.mark.parametrize("change, says", [
    (lambda z: z*1e30, "standard normal"), (lambda z: z.to("meta"), "plain"), (lambda z: z.to_sparse(), "plain")])
def test_initial_noise_that_is_none(pipe, change, says):
    z = torch.randn(1, 1, *pipe.latent_shape(pipe.config.size))
    with pytest.raises(InputError, match=says): pipe(PROMPTS[0], latents=change(z), num_frames=1)


def test_callbacks_with_other_arguments_are_refused_before_any_work(pipe):
    with pytest.raises(InputError, match=r"a function of \(pipe, step, timestep, tensors\)"):
        pipe(PROMPTS[0], num_frames=1, callback_on_step_end=lambda a, b, c: None)


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_tokenizer_that_has_lost_its_limit(pipe, tmp_path, content):
    "It would pad to another length, and another film would come out"
    pipe.save_pretrained(tmp_path)
    file = tmp_path/"tokenizer"/"tokenizer_config.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(InputError, match="tokenizer"): ShotStreamPipeline.from_pretrained(tmp_path)
