"""What people write, for pyright alone (`make test` runs it): arguments are accepted, and results have a type."""
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from shotstream import (
    Desk, Director, Film, Frames, FrameTable, Guidance, KVCache, Preview, Sampling, Script, Settings, ShotPrompt,
    ShotRequest, ShotStreamPipeline, ShotTransformer, StaticKVCache, StoryError, Stream, Study, ToyVAE, WanVAE,
    contact_sheet, convert, draw_story, fp8_linears, load_script, load_shotstream, read_video, render_shot,
    save_script, toy_student, write_video)

if TYPE_CHECKING:
    from typing_extensions import assert_type


def films(pipe:ShotStreamPipeline, story:Script, generator:torch.Generator):
    film = pipe("the ball waves.", "blurry", num_frames=9, num_inference_steps=4, guidance_scale=2., caption="a ball.")
    assert_type(film, Film)
    pipe(["the ball waves.", "the ball jumps."], height=64, width=64, generator=generator, output_type="np")
    pipe(story, generator=[generator, generator], callback_on_step_end=lambda *args: {})
    pipe(Path("story.json"), teacher=True, negative_prompt="")
    assert_type(film.shots, list)
    assert_type(film.script, Script)
    assert_type(ShotStreamPipeline.from_pretrained("toy"), ShotStreamPipeline)
    ShotStreamPipeline.from_pretrained(Path("folder"), torch.bfloat16, weights="merged.pt", revision="main")
    assert_type(pipe.sampling, Sampling)
    assert_type(pipe.teacher_guidance(2., negative_prompt="blur"), Guidance)
    assert_type(pipe.device, torch.device)
    assert_type(pipe.new_cache((64, 64), budget=6), StaticKVCache)
    assert_type(pipe.caption_features("a red ball.", "it waves."), torch.Tensor)


def streams(pipe:ShotStreamPipeline):
    stream = pipe.stream("a red ball.", seed=1, window=6)
    assert_type(stream, Stream)
    stream.next_shot("the ball waves.", when="now", latents=9, seed=None)
    for frames in stream:
        assert_type(frames, Frames)
        assert_type(frames.video, torch.Tensor)
        assert_type(frames.shot, int)
    assert_type(stream.settings, Settings)
    stream.change(phi=.1)


def people(pipe:ShotStreamPipeline):
    director = Director(pipe, caption="a red ball.")
    director.next_shot("the ball waves.")
    assert_type(director.film, torch.Tensor)
    Desk(pipe)
    director.save(Path("story"))


def data():
    script = Script("a red ball.", (ShotPrompt("the ball waves.", 9),))
    save_script(script, Path("a.json"))
    try: assert_type(load_script("a.json"), Script)
    except StoryError as e: print(e)
    write_video(torch.zeros(9, 64, 64, 3, dtype=torch.uint8), "a.mp4")


def networks(table:FrameTable, z:torch.Tensor, text:torch.Tensor, vae:ToyVAE, wan:WanVAE):
    model = ShotTransformer(num_layers=2)
    model(z, None, text, table=table, cache=KVCache(2))
    assert_type(model.encode_text_kv(text), list)
    assert_type(wan.channels_last().fuse_padding(), WanVAE)
    assert_type(table.at(.5), FrameTable)
    assert_type(table[2:], FrameTable)
    assert_type(load_shotstream("merged.pt"), ShotTransformer)
    assert_type(convert("merged.pt", Path("folder"), to="diffusers"), Path)
    fp8_linears(model)
    vae.decode_next(z)


NAMES = (Preview, ShotRequest, Study, contact_sheet, draw_story, read_video, render_shot, toy_student)
