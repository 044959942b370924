"""The wheel works without the checkout: its own weights make a shot in an environment that never saw the source."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

FILM = """
import shotstream, sys, torch
torch.set_num_threads(1)
assert "site" in shotstream.__file__, shotstream.__file__
from shotstream import ShotStreamPipeline
pipe = ShotStreamPipeline.from_pretrained("toy")
film = pipe({"caption": "a red ball with a hat in the forest by day.",
             "shots": [{"caption": "wide shot: the ball waves.", "frames": 9}]})
assert film.frames.shape == (9, 64, 64, 3), film.frames.shape
assert film.frames.float().std() > 20, "a flat picture"
print("made a film")
"""


def test_wheel_makes_a_film(tmp_path):
    run = lambda *args, **kw: subprocess.run([str(a) for a in args], check=True, capture_output=True, text=True, **kw)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path/"dist", ROOT)
    # an empty environment that borrows only the libraries of this one
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path/"env")
    # two, where a person's own torch is used
    libraries = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    site = next((tmp_path/"env"/"lib").glob("python*"))/"site-packages"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site,
        next((tmp_path/"dist").glob("*.whl")))
    (site/"libraries.pth").write_text("\n".join(libraries) + "\n")
    # a person's PYTHONPATH would lead back to the checkout
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    out = run(tmp_path/"env"/"bin"/"python", "-c", FILM, cwd=tmp_path, env=clean)
    assert "made a film" in out.stdout
