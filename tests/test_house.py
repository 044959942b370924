"""The house rules that a reader sees: short lines, few parameters, the field's own names, bounds that are installed."""
import ast
import builtins
import importlib
import inspect
import re
import subprocess
import sys
import types
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
# A git commit is one, and byte order marks are
OTHER = {("evaluate/bench_gpu.py", "commit"), ("model/files.py", "MARKS")}
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
             "secrets": "uncaptioned", "knob": "setting", "knobs": "settings", "judge": "classifier",
             "FramePlaces": "KVSlots", "Stills": "ContextStore", "GrowingStills": "GrowingContextStore",
             "looked": "updated", "blank": "null_text or no_history", "strangers": "chance", "Clock": "ShotRope",
             "marks": "provenance or scores"}
# What is written once: a pattern, and the only module that may have it
HOMES = {r"to_uint8\([^\n]*\.decode\(": "model/pixels.py",      # `decode_frames`
         r"1000 ?\* ?(\w+\.)?seed": "generate/components.py",  # `shot_seed`
         r"lora.* @ ": "model/checkpoints.py",                 # `merge_lora`
         r"scale=-1": "generate/pipeline.py",                  # `without_lora`
         r"(?<!12), 8, 8\b|\(8, 8\)": None}                    # `LATENT_SIDE`


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


@pytest.mark.parametrize("pattern", HOMES)
def test_no_second_copies(pattern):
    found = {name for path, name in zip(MODULES, NAMES) for line in path.read_text(encoding="utf-8").splitlines()
             if re.search(pattern, line.split("#")[0])}
    assert found <= {HOMES[pattern]}


CHECKS = {"whole", "number", "choice", "check_seed", "check_fps", "check_size"}     # of `model.checks`: an `InputError`
# Not errors but how Python itself is told something
SIGNALS = {"StopIteration", "AttributeError", "SystemExit"}


CATCHERS = {"ValueError", "InputError", "StoryError", "TypeError", "Exception"}


def caught(node): # The body of a `try` whose errors go no further
    if not isinstance(node, ast.Try): return []
    kinds = {n.id for h in node.handlers if h.type for n in ast.walk(h.type) if isinstance(n, ast.Name)}
    again = any(isinstance(n, ast.Raise) and n.exc is None for h in node.handlers for n in ast.walk(h))
    return node.body if kinds & CATCHERS and not again else []


def unnested(node): # All nodes below that are not inside another function or class, nor in vain
    for child in ast.iter_child_nodes(node):
        if child in caught(node): continue
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)): continue
        yield child
        yield from unnested(child)


def raised(function, checks=()): # Names of the errors that it raises itself, or by one of the `checks`
    nodes, found = [*unnested(function)], set()
    own = {a.arg for a in ast.walk(function) if isinstance(a, ast.arg)}
    own |= {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own |= {n.name for n in ast.walk(function) if isinstance(n, ast.FunctionDef) and n is not function}
    for n in nodes:
        if isinstance(n, ast.Raise) and n.exc is not None:
            error = n.exc.func if isinstance(n.exc, ast.Call) else n.exc
            found.add(ast.unparse(error).split(".")[-1])
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in {*checks} - own:
            found.add("InputError")
    return {name for name in found if name[0].isupper()} - SIGNALS


def public_functions(tree): # [(name, function, docstring)]; a constructor's docstring is its class's
    named = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)
                  and ast.unparse(n.targets[0]) == "__all__"), ())
    for node in tree.body:
        if getattr(node, "name", None) not in named: continue
        if isinstance(node, ast.FunctionDef): yield node.name, node, ast.get_docstring(node) or ""
        for m in node.body if isinstance(node, ast.ClassDef) else ():
            if not isinstance(m, ast.FunctionDef): continue
            made, called = m.name in ("__init__", "__post_init__"), m.name == "__call__"
            if m.name.startswith("_") and not made and not called: continue
            yield f"{node.name}.{m.name}", m, ast.get_docstring(node if made else m) or ""


def classes_of(name): # An error's name, and those of what it is
    from shotstream.data import script
    from shotstream.model import files
    from shotstream.train import loop
    error = next((getattr(where, name) for where in (builtins, files, script, loop) if hasattr(where, name)), None)
    return {c.__name__ for c in error.__mro__} - {"Exception", "BaseException", "object"} if error else {name}


def unsaid(source): # {function: errors that its docstring does not name}
    tree = ast.parse(source)
    checks = {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.module or "").endswith("checks")
              for a in n.names} & CHECKS
    for name, function, doc in public_functions(tree):
        silent = {e for e in raised(function, checks) if not any(f"`{c}`" in doc for c in classes_of(e))}
        if silent: yield name, silent


def test_unsaid_errors_are_found():
    source = '''
from .model.checks import whole
__all__ = ["f", "g", "h", "A", "B"]
def f(n): "`ValueError` if n"; raise ValueError(n)
def g(n):
    "Says nothing"
    if n: raise errors.InputError("x") from None
    return whole("n", n)
def h(n):
    "What it makes raises, not it"
    def inner(): raise TypeError
    number, whole = len, max
    return whole(n, 1), number(n), inner
class A:
    "`ValueError`: wider than what is raised"
    def __init__(self): raise InputError("x")
    def _own(self): raise KeyError
    def __call__(self): raise MissingFile
class B:
    def go(self): whole("n", 1)
    def told(self):
        try: raise InputError("x")
        except ValueError: pass
    def again(self):
        try: raise InputError("x")
        except ValueError: raise
def private(): raise OSError
'''
    found = {"g": {"InputError"}, "A.__call__": {"MissingFile"}, "B.go": {"InputError"},
             "B.again": {"InputError"}}
    assert dict(unsaid(source)) == found


# Commands of `app.cli`: `main` turns errors into one line, and the exit code says that there was one
@pytest.mark.parametrize("path", [p for p in MODULES if p.name not in ("cli.py", "__init__.py")], ids=lambda p: p.stem)
def test_errors_are_documented(path):
    assert not dict(unsaid(path.read_text(encoding="utf-8")))


# Of ipywidgets: to set one is to ask for it
TRAITS = {"value", "description", "tooltip", "icon", "children", "options", "max", "disabled", "visibility", "display",
          "button_style"}


def foreign_writes(source): # Attributes of an attribute that are assigned: `self.stream.switching = ...`
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del)):
            if isinstance(node.value, ast.Attribute) and node.attr not in TRAITS: yield ast.unparse(node)


def test_foreign_writes_are_found():
    source = "self.a.b, c = 1, 2\nx.y.z += 1\ndel p.q.r\nself.a = self.b.c\nself.text.value = 1\nself.d[0].e = f.g"
    assert sorted(foreign_writes(source)) == ["p.q.r", "self.a.b", "x.y.z"]


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name in ("app", "generate")], ids=lambda p: p.stem)
def test_no_object_writes_another_s_attributes(path):
    "It asks: who owns an attribute knows what else changes with it. A `caption` is there to be set"
    assert set(foreign_writes(path.read_text(encoding="utf-8"))) <= {"self.director.caption"}


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
    "pytest imports them all under their bare name, but for fixtures of a folder"
    files = [p.name for p in (ROOT/"tests").rglob("*.py") if p.name != "conftest.py"]
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


def undocumented(module): # Public functions, classes and methods without a docstring; those that override need none
    def function(f): return f.fget if isinstance(f, property) else getattr(f, "__func__", f)
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__: continue
        if (inspect.isfunction(thing) or inspect.isclass(thing)) and not thing.__doc__: yield name
        if not inspect.isclass(thing): continue
        for member, raw in vars(thing).items():
            inherited = any(member in vars(base) for base in thing.__mro__[1:])
            if member.startswith("_") or inherited or not inspect.isfunction(f := function(raw)): continue
            if not f.__doc__: yield f"{name}.{member}"


def test_everything_public_says_what_it_is():
    source = ("def f(): pass\ndef _g(): pass\nclass A:\n  'x'\n  def a(self): pass\n"
              "  @property\n  def p(self): return 1\n"
              "class B(A):\n  'x'\n  def a(self): pass\n  def _b(self): pass\n  @classmethod\n  def c(cls): pass\n")
    made = types.ModuleType("made")
    exec(source, made.__dict__)
    assert [*undocumented(made)] == ["f", "A.a", "A.p", "B.c"]
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in MODULES
             if p.stem not in ("__init__", "__main__")]
    assert {n: found for n in names if (found := [*undocumented(importlib.import_module(n))])} == {}
