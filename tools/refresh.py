"""Run notebooks from top to bottom and keep their outputs: `python tools/refresh.py [nbs/01_world.ipynb ...]`."""
import subprocess
import sys
from pathlib import Path

root = Path(__file__).parents[1]
chosen = [Path(p).resolve() for p in sys.argv[1:]] or sorted((root/"nbs").rglob("*.ipynb"))
for path in chosen:
    print(path.relative_to(root), flush=True)
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", "--log-level", "ERROR", path], check=True)
subprocess.run([Path(sys.executable).parent/"nbdev-clean"], cwd=root, check=True)
