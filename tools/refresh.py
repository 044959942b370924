"""Run notebooks, keep their outputs, make pictures small: `python tools/refresh.py [nbs/01_world.ipynb ...]`."""
import base64
import io
import subprocess
import sys
from pathlib import Path

import nbformat
from PIL import Image

root = Path(__file__).parents[1]


def smaller(png, colours=192):
    "The same picture with a palette, if that saves anything (base64 in and out)"
    picture, out = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    new = base64.b64encode(out.getvalue()).decode()
    return new if len(new) < len(png) else png


def shrink_pictures(path):
    "Palette pictures in all outputs of a notebook, and drop its warnings"
    nb = nbformat.read(path, 4)
    nb.metadata.pop("widgets", None)
    code = [c for c in nb.cells if c.cell_type == "code"]
    # warnings name paths of this machine
    for cell in code: cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    for output in (o for c in code for o in c.outputs if "image/png" in o.get("data", {})):
        output.data["image/png"] = smaller(output.data["image/png"])
    nbformat.write(nb, path)


def skip_what_waits_for_a_person(path, skip):
    "Cells marked `eval: false` open a desk or a panel: they are not run, and keep no output"
    nb = nbformat.read(path, 4)
    for cell in nb.cells:
        if not cell.source.startswith("#| eval: false"): continue
        cell.outputs, cell.metadata = [], dict(tags=["skip-execution"]) if skip else {}
    nbformat.write(nb, path)


if __name__ == "__main__":
    chosen = [Path(p).resolve() for p in sys.argv[1:]] or sorted((root/"nbs").rglob("*.ipynb"))
    for path in chosen:
        print(path.relative_to(root), flush=True)
        skip_what_waits_for_a_person(path, True)
        subprocess.run([sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", "--log-level",
                        "ERROR", path], check=True)
        skip_what_waits_for_a_person(path, False)
        shrink_pictures(path)
    subprocess.run([Path(sys.executable).parent/"nbdev-clean"], cwd=root, check=True)
