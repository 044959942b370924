"""Do modules and notebooks agree? Exports the notebooks into a temporary copy and compares file by file."""
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# written by hand: the public face, one plain line for every wing, and these
def by_hand(package):
    return {p.relative_to(package) for p in package.rglob("__init__.py")} | {Path("__main__.py"), Path("_version.py")}


def differences(root):
    "One line per module that is missing, left over or different"
    with tempfile.TemporaryDirectory() as copy:
        copy = Path(copy)
        shutil.copytree(root/"nbs", copy/"nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        for name in ("pyproject.toml", "settings.ini", "README.md"): shutil.copy(root/name, copy/name)
        hands = by_hand(root/"shotstream")
        for name in hands:
            (copy/"shotstream"/name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root/"shotstream"/name, copy/"shotstream"/name)
        subprocess.run([Path(sys.executable).parent/"nbdev-export"], cwd=copy, check=True)
        here, there = ({p.relative_to(r) for p in r.rglob("*.py")} for r in (root/"shotstream", copy/"shotstream"))
        return ([f"no notebook exports {p}" for p in sorted(here - there)]
                + [f"never exported: {p}" for p in sorted(there - here)] +
                [f"differs from its notebook: {p}" for p in sorted((here & there) - hands)
                 if not filecmp.cmp(root/"shotstream"/p, copy/"shotstream"/p, shallow=False)])


if __name__ == "__main__":
    found = differences(Path(__file__).parents[1])
    print("\n".join(found) or "modules and notebooks agree")
    sys.exit(bool(found))
