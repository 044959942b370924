"""The house rules that a reader sees: short lines, few parameters, the field's own names, bounds that are installed."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT/"shotstream"
MODULES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "_modidx.py"]
NAMES = [p.relative_to(PACKAGE).as_posix() for p in MODULES]
MOST = 8                                                 # parameters of a function
# Constructors and what has diffusers' or torch's own signature may have more
SHAPED = {"__init__", "__call__", "forward", "from_pretrained"}
# A git commit is one
OTHER = {("evaluate/bench_gpu.py", "commit")}
# Names that these pages once had for what the field has a word for, with the words that replace them (the glossary)
OLD_NAMES = {"film_chunk": "denoise_chunk", "film_shot": "generate_shot", "film_chunks": "generate_chunks",
             "film_paths": "generate_ode_pairs", "path_loss": "ode_regression_loss", "sees_past": "causal_mask",
             "without_past": "drop_history", "exit_look": "exit_step", "part_of_the_way": "lerp_weights",
             "same_everywhere": "broadcast", "multiplies_bytes": "supports_scaled_mm", "fewer_copies": "fuse_padding",
             "strip_again": "refresh_timeline", "commit": "append", "new_shot": "reset", "remember": "write_clean_kv",
             "TwoOptimizers": "MuonAdamW", "Examiner": "ProbeLoss", "Judge": "AttributeClassifier", "Room": "Panel",
             "Still": "ContextFrames", "Wish": "ShotRequest", "Reel": "RunningShot", "Take": "Shot",
             "Order": "ShotRequest",
             "Memory": "KVCache", "Exam": "Evaluation", "told": "captioned", "secret": "uncaptioned",
             "secrets": "uncaptioned", "knob": "setting", "knobs": "settings", "judge": "classifier"}


def too_many(source): # [(function, parameters)], `self` and `cls` not counted
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name in SHAPED: continue
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        if count > MOST: found.append((node.name, count))
    return found


def identifiers(source): # All names that a module gives: of functions, classes, parameters, variables, attributes
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): yield node.name
        if isinstance(node, ast.arg): yield node.arg
        if isinstance(node, ast.keyword) and node.arg: yield node.arg
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store): yield node.id
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store): yield node.attr


def old_parts(name): # What of an identifier is an old name
    whole = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return {old for old in OLD_NAMES if name == old or (old.islower() and old in whole.split("_"))
            or ("_" in old and old in whole)}


def test_rules_find_what_breaks_them():
    nine, self_and_eight = ", ".join("abcdefghi"), ", ".join(["self", *"abcdefgh"])
    assert too_many(f"def f({nine}): pass") == [("f", 9)]
    assert too_many(f"def f(a, /, b, *, c, d, e, f, g, h, i): pass\nclass A:\n  def f({self_and_eight}): pass\n"
                    f"  def __init__({self_and_eight}, i): pass") == [("f", 9)]
    code = "class A:\n  def f(self, told): x = told; self.y = 1; g(z=2)"
    assert set(identifiers(code)) == set("A f self told x y z".split())
    assert old_parts("DeskKnobs") == {"knobs"} and old_parts("film_chunk_now") == {"film_chunk"}
    assert old_parts("Order") == {"Order"} and not old_parts("order") | old_parts("recommit") | old_parts("retold")


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_few_parameters(path):
    found = too_many(path.read_text(encoding="utf-8"))
    assert not found, f"more than {MOST} parameters: {found}"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_names_of_the_field(path):
    name, names = path.relative_to(PACKAGE).as_posix(), identifiers(path.read_text(encoding="utf-8"))
    found = {n: [OLD_NAMES[o] for o in old_parts(n)] for n in names if (name, n) not in OTHER}
    assert not {n: o for n, o in found.items() if o}, "the glossary has other words for these"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_short_lines(path):
    "ruff holds it in notebooks, tests and tools; what is exported has one more line, the module's docstring"
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^__all__ = \[.*?\]$", "", text, flags=re.M | re.S)              # nbdev wraps it at 130
    long = [line for line in text.splitlines() if len(line) > 120]
    assert not long, f"more than 120 columns: {long}"


MIRRORED = [name for name in NAMES if name.count("/") == 1 and not name.endswith("__init__.py")]


@pytest.mark.parametrize("name", MIRRORED)
def test_every_module_has_a_test_file_of_its_name(name):
    wing, file = name.split("/")
    path = ROOT/"tests"/wing/f"test_{file}"
    assert path.exists() and "def test_" in path.read_text(encoding="utf-8"), f"write tests/{wing}/test_{file}"


def test_test_files_have_names_of_their_own():
    "pytest imports them all under their bare name"
    files = [p.name for p in (ROOT/"tests").rglob("*.py")]
    assert len(MIRRORED) > 50 and sorted(files) == sorted(set(files))


@pytest.mark.parametrize("path", sorted((ROOT/"nbs").rglob("*.ipynb")), ids=lambda p: p.stem)
def test_no_patched_methods(path):
    "Editors and type checkers see whole classes only"
    for cell in nbformat.read(path, 4).cells:
        assert cell.cell_type != "code" or not re.search(r"^@patch\b", cell.source, re.M), cell.source[:80]


def lower_bounds():
    sys.path.insert(0, str(ROOT/"tools"))
    from lowest import lowest
    return lowest


def test_lower_bounds_are_complete():
    lowest = lower_bounds()
    found = dict(line.split("==") for line in lowest((ROOT/"settings.ini").read_text(encoding="utf-8")))
    assert {"torch", "diffusers", "transformers", "pytest"} <= set(found)
    ini = "[DEFAULT]\nname = x\nrequirements = a>=1.2\n    b-c[d]>=3\ndev_requirements = {}\n"
    assert lowest(ini.format("a>=1.2")) == ["a==1.2", "b-c==3"]
    for bad, words in (("e", "no lowest version"), ("e>2", "no lowest version"), ("a>=1.3", "two bounds")):
        with pytest.raises(ValueError, match=words): lowest(ini.format(bad))


def test_constraints_agree_with_the_bounds():
    "Whatever constraints.txt pins is allowed by settings.ini, for every Python"
    from packaging.requirements import Requirement
    from packaging.version import Version
    bounds = dict(line.split("==") for line in lower_bounds()((ROOT/"settings.ini").read_text(encoding="utf-8")))
    pinned = [Requirement(line) for line in (ROOT/"constraints.txt").read_text().splitlines()]
    for python in ("3.10", "3.11", "3.12", "3.13"):
        here = [p for p in pinned if p.marker is None or p.marker.evaluate({"python_version": python})]
        assert len({p.name for p in here}) == len(here), f"pinned twice for Python {python}"
        for p in here:
            version = next(iter(p.specifier)).version
            assert Version(version) >= Version(bounds.get(p.name, "0")), f"{p.name} {version} on Python {python}"


def test_the_command_line_of_lowest():
    out = subprocess.run([sys.executable, ROOT/"tools"/"lowest.py"], capture_output=True, text=True, check=True).stdout
    assert re.search(r"^torch==[\d.]+$", out, re.M) and "[" not in out
