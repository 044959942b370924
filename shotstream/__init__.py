"""Streaming multi-shot video generation, built and explained in notebooks."""
from shotstream._version import __version__ as __version__


def __getattr__(name):
    "`from shotstream import ShotStreamPipeline`, without loading torch for those who only want the version"
    if name == "ShotStreamPipeline":
        from shotstream.pipeline import ShotStreamPipeline
        return ShotStreamPipeline
    raise AttributeError(f"module 'shotstream' has no attribute {name!r}")
