"""Every notebook runs from top to bottom with the solutions of its exercises in place, and agrees with its module."""
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from kernels import KERNELS
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
sys.path.insert(0, str(ROOT/"tools"))


def with_solutions(nb):
    "Replace every exercise stub by the folded solution below it; returns how many there were"
    count = 0
    for i, cell in enumerate(nb.cells):
        if cell.cell_type != "code" or not cell.source.startswith("#| exercise"): continue
        fences = re.findall(r"```python\n(.*?)```", nb.cells[i+1].source, re.S)
        assert len(fences) == 1, f"the cell after exercise stub {i} holds one solution, found {len(fences)}"
        cell.source, count = fences[0], count + 1
    return count


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])
def test_notebook(path):
    nb = nbformat.read(path, 4)
    exercises = with_solutions(nb)
    # the latter wait for a person
    nb.cells = [c for c in nb.cells if "nbdev_export()" not in c.source and not c.source.startswith("#| eval: false")]
    client = NotebookClient(nb, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}},
                            kernel_manager_class=KERNELS)
    # not in this process: nbdev-export does nothing under IN_TEST
    client.execute(env={**os.environ, "IN_TEST": "1", "OMP_NUM_THREADS": "1"})
    printed = "".join(o.get("text", "") for c in nb.cells if c.cell_type == "code" for o in c.outputs)
    assert printed.count("🟢") >= exercises, f"{exercises} exercises, but not as many green lights:\n{printed[-2000:]}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])
def test_notebook_is_fit_for_readers(path):
    nb = nbformat.read(path, 4)
    code = [c for c in nb.cells if c.cell_type == "code"]
    assert not [o for c in code for o in c.outputs if o.output_type == "error"], "an error is committed"
    assert path.stat().st_size < 600_000, "too big: fewer or smaller pictures"
    assert not [c for c in nb.cells if "video/mp4" in str(c.get("outputs", ""))], "embedded video"
    if path.parent.name == "nbs":
        assert any("image/png" in o.get("data",
                                        {}) for c in code for o in c.outputs), "no picture: run tools/refresh.py"
    # the studio is an app: its page is the desk, a heading would push it off the screen
    assert path.stem == "studio" or nb.cells[0].source.startswith("# ")


def test_modules_match_notebooks():
    from check_modules import differences
    assert differences(ROOT) == []
