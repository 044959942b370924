"""The order of the wings: a wing imports only wings above it, no circles, and the library needs no notebook."""
import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]/"shotstream"
WINGS = "model data toy generate train evaluate app notebook".split()      # from the top down
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in sorted(ROOT.rglob("*.py"))
           if p.name != "__init__.py" and p.parent != ROOT}
# Libraries for people in front of a screen, and the wings that may need them
SCREEN = {"matplotlib": {"notebook"}, "mediapy": {"notebook"}, "IPython": {"app", "notebook"},
          "ipywidgets": {"app", "notebook"},
          "nbdev": {"notebook"}, "nbformat": {"notebook"}, "nbclient": {"notebook"}, "fastcore.test": {"notebook"},
          "playwright": set()}


def imports(path, name):
    """Dotted names that a module imports, anywhere in it, with what is taken from them: `.flow` in `model.x` is
    `shotstream.model.flow`"""
    found, package = set(), ["shotstream", *name.split(".")[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import): found |= {n.name for n in node.names}
        if isinstance(node, ast.ImportFrom):
            start = package[:len(package)+1-node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{n.name}" for n in node.names}
    return found


def inside(path, name):
    "Modules of this package that a module imports"
    found = imports(path, name)
    return {m for m in MODULES if f"shotstream.{m}" in found} - {name}


def test_imports_are_found(tmp_path):
    (tmp_path/"m.py").write_text("from .flow import y\nfrom ..toy.world import x\nfrom . import rope\ndef f():\n    "
                                 "import shotstream.model.text\n"
                                 "    from shotstream.data import video\n    import matplotlib.pyplot as plt\n")
    assert inside(tmp_path/"m.py", "model.m") == {"model.flow", "toy.world", "model.rope", "model.text", "data.video"}
    assert "matplotlib.pyplot" in imports(tmp_path/"m.py", "model.m")


def test_every_module_has_a_wing():
    assert len(MODULES) > 30
    assert {m.split(".")[0] for m in MODULES} == set(WINGS)
    assert {p.name for p in ROOT.glob("*.py")} <= {"__init__.py", "__main__.py", "_modidx.py", "_version.py"}


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_says_what_it_is(wing):
    assert ast.get_docstring(ast.parse((ROOT/wing/"__init__.py").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_upwards(name):
    wing = name.split(".")[0]
    for other in inside(MODULES[name], name):
        below = WINGS.index(other.split(".")[0]) > WINGS.index(wing)
        assert not below, f"{name} must not import {other}: its wing stands below"


def test_no_circles():
    left = {name: inside(path, name) for name, path in MODULES.items()}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free: del left[name]
    assert not left, f"these import each other: {', '.join(left)}"


@pytest.mark.parametrize("name", MODULES)
def test_screens_stay_out_of_the_library(name):
    found = imports(MODULES[name], name)
    for library, wings in SCREEN.items():
        if any(f == library or f.startswith(library + ".") for f in found):
            assert name.split(".")[0] in wings, f"{name} must not import {library}"


def run(code): return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_library_runs_without_screens():
    without = ", ".join(repr(x) for x in SCREEN)
    modules = [f"shotstream.{m}" for m in MODULES if m.split(".")[0] not in ("app", "notebook")]
    modules += ["shotstream.app.cli", "shotstream.app.director"]
    run(f"import sys\nfor m in ({without}): sys.modules[m] = None\nimport importlib\nfor m in {modules}: "
        f"importlib.import_module(m)")


def test_model_runs_without_the_toy():
    modules = [f"shotstream.{m}" for m in MODULES if m.startswith("model.")]
    run(f"import importlib, sys\nfor m in {modules}: importlib.import_module(m)\n"
        "assert not [m for m in sys.modules if m.startswith('shotstream.') and m.split('.')[1] not in ('model', "
        "'_version')]")


def test_public_face():
    import shotstream
    names = run("import sys\nfrom shotstream import *\nprint(*sorted(k for k in globals() if not k.startswith('_') "
                "and k != 'sys'))").split()
    assert set(names) == {n for n in shotstream.__all__ if not n.startswith("_")}
    assert {"ShotStreamPipeline", "Stream", "Director", "Desk", "Script", "FrameTable", "ShotTransformer"} <= set(names)
    assert set(shotstream.__all__) <= set(dir(shotstream))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"): shotstream.Nothing     # noqa: B018


# what is installed under another name, or by something that is asked for: its owner
OWNERS = {"scenedetect": "scenedetect-headless", "PIL": "matplotlib", "huggingface_hub": "diffusers",
          "typing_extensions": "torch"}


def test_what_is_imported_is_asked_for():
    text = (ROOT.parent/"settings.ini").read_text(encoding="utf-8")
    asked = set(re.findall(r"^(?:\w*requirements = |    )([\w-]+)", text, re.M))
    used = {f.split(".")[0] for name, path in MODULES.items() for f in imports(path, name)}
    used -= {*sys.stdlib_module_names, "shotstream"}
    assert len(used) > 15 and {OWNERS.get(u, u) for u in used} <= asked


@pytest.mark.parametrize("name", MODULES)
def test_every_name_that_is_promised_is_there(name):
    module = importlib.import_module(f"shotstream.{name}")
    assert [n for n in module.__all__ if not hasattr(module, n)] == []


def test_the_version_costs_no_torch():
    run("import sys, shotstream\nshotstream.__version__\nassert 'torch' not in sys.modules")
