"""Streaming multi-shot video generation, built and explained in notebooks."""
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from shotstream._version import __version__ as __version__

_FACE = {   # public name -> where it lives; loaded when it is first asked for, so that the version alone costs no torch
    "ShotStreamPipeline": "generate.pipeline", "Film": "generate.pipeline", "Guidance": "model.flow",
    "Sampling": "model.flow", "toy_student": "generate.pipeline", "Stream": "generate.stream",
    "Settings": "generate.stream", "Frames": "generate.stream", "ShotRequest": "generate.stream",
    "Preview": "generate.preview", "Director": "app.director", "Desk": "app.desk", "Study": "app.study",
    "Script": "data.script", "ShotPrompt": "data.script", "StoryError": "data.script", "load_script": "data.script",
    "save_script": "data.script", "read_video": "data.video", "write_video": "data.video",
    "contact_sheet": "data.video", "FrameTable": "model.frame_table", "ShotTransformer": "model.transformer",
    "KVCache": "model.kv_cache", "StaticKVCache": "model.kv_cache", "WanVAE": "model.wan_vae",
    "load_shotstream": "model.checkpoints", "convert": "model.checkpoints", "fp8_linears": "model.float8",
    "ToyVAE": "toy.vae", "draw_story": "toy.world", "render_shot": "toy.render",
}
if _TYPE_CHECKING:                          # for editors and type checkers: the same names, written out
    from shotstream.generate.pipeline import ShotStreamPipeline as ShotStreamPipeline
    from shotstream.generate.pipeline import Film as Film
    from shotstream.model.flow import Guidance as Guidance
    from shotstream.model.flow import Sampling as Sampling
    from shotstream.generate.pipeline import toy_student as toy_student
    from shotstream.generate.stream import Stream as Stream
    from shotstream.generate.stream import Settings as Settings
    from shotstream.generate.stream import Frames as Frames
    from shotstream.generate.stream import ShotRequest as ShotRequest
    from shotstream.generate.preview import Preview as Preview
    from shotstream.app.director import Director as Director
    from shotstream.app.desk import Desk as Desk
    from shotstream.app.study import Study as Study
    from shotstream.data.script import Script as Script
    from shotstream.data.script import ShotPrompt as ShotPrompt
    from shotstream.data.script import StoryError as StoryError
    from shotstream.data.script import load_script as load_script
    from shotstream.data.script import save_script as save_script
    from shotstream.data.video import read_video as read_video
    from shotstream.data.video import write_video as write_video
    from shotstream.data.video import contact_sheet as contact_sheet
    from shotstream.model.frame_table import FrameTable as FrameTable
    from shotstream.model.transformer import ShotTransformer as ShotTransformer
    from shotstream.model.kv_cache import KVCache as KVCache
    from shotstream.model.kv_cache import StaticKVCache as StaticKVCache
    from shotstream.model.wan_vae import WanVAE as WanVAE
    from shotstream.model.checkpoints import load_shotstream as load_shotstream
    from shotstream.model.checkpoints import convert as convert
    from shotstream.model.float8 import fp8_linears as fp8_linears
    from shotstream.toy.vae import ToyVAE as ToyVAE
    from shotstream.toy.world import draw_story as draw_story
    from shotstream.toy.render import render_shot as render_shot

__all__ = ["__version__", *_FACE]


def __getattr__(name):
    "`from shotstream import ShotStreamPipeline`"
    if name not in _FACE: raise AttributeError(f"module 'shotstream' has no attribute {name!r}")
    globals()[name] = value = getattr(_import_module(f"shotstream.{_FACE[name]}"), name)
    return value


def __dir__(): return sorted({*globals(), *__all__})
