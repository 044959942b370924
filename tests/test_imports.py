"""The house rule: a module imports only modules that stand above it."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]/"shotstream"
ORDER = ("core world render truth video story codec text flow rope context cache transformer float8 wan wan_video footage teacher student "
         "ode dmd rollout metrics facts data train recipes distill evaluate preview components stream pipeline bench plan"
         " bench_gpu director desk study viz learn cli").split()
ALLOWED = dict(flow={"core"}, rope={"core"}, context={"core"}, cache={"core"}, dmd={"core", "flow"})
ONLY_HERE = {"viz": {"viz"}, "learn": {"learn"}}   # matplotlib stays out of the library


def imports(path):
    "Modules of the package that a file names, anywhere in it"
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level: found |= {node.module.split(".")[0]} if node.module else {n.name for n in node.names}
            elif node.module == "shotstream": found |= {n.name for n in node.names}
            elif node.module.startswith("shotstream."): found.add(node.module.split(".")[1])
        if isinstance(node, ast.Import): found |= {n.name.split(".")[1] for n in node.names if n.name.startswith("shotstream.")}
    return {name for name in found if not name.startswith("_")}     # the version is everybody's


def test_imports_are_found(tmp_path):
    (tmp_path/"m.py").write_text("from .core import x\nfrom shotstream.flow import y\ndef f():\n    import shotstream.rope\n    from . import world\n")
    assert imports(tmp_path/"m.py") == {"core", "flow", "rope", "world"}


MODULES = sorted(p.stem for p in ROOT.glob("*.py") if not p.stem.startswith("_"))


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_upwards(name):
    assert name in ORDER, f"{name} has no place in the order of modules"
    for other in imports(ROOT/f"{name}.py"):
        assert ORDER.index(other) < ORDER.index(name), f"{name} must not import {other}"
        assert other in ALLOWED.get(name, {other}), f"{name} may only import {ALLOWED.get(name)}"
        assert name == "cli" or other not in ONLY_HERE, f"only notebooks may import {other}"


def test_library_runs_without_matplotlib():
    import subprocess
    import sys
    code = "import sys; sys.modules['matplotlib'] = None; import shotstream.pipeline, shotstream.recipes, shotstream.cli"
    subprocess.run([sys.executable, "-c", code], check=True)
