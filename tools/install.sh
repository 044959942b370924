#!/usr/bin/env bash
# Makes .venv with everything the notebooks, the package and its tests need: tools/install.sh [PYTHON [FOLDER CONSTRAINTS]]
# A torch that the calling Python already has is used as it is, but not where other constraints are given.
set -euo pipefail
python=${1:-python3}
cd "$(dirname "$0")/.."
venv=${2:-.venv}
constraints=${3:-constraints.txt}
pip() { "$venv/bin/python" -m pip --disable-pip-version-check -q "$@"; }
echo "Installing into $venv: a few minutes the first time, about 2 GB"
if [ $# -lt 3 ] && "$python" -c 'import torch' 2>/dev/null; then
    echo "  your own torch is used"
    "$python" -m venv --system-site-packages "$venv"
    constraints=$venv/constraints.txt
    grep -v '^torch==' constraints.txt >"$constraints"
else
    "$python" -m venv "$venv"
    torch=$(grep '^torch==' "$constraints" || echo torch)
    if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
        echo "  no GPU found: $torch for the CPU"
        pip install --index-url https://download.pytorch.org/whl/cpu --retries 1 --timeout 20 "$torch" ||
            pip install "$torch"
    else
        pip install "$torch"
    fi
fi
# compat: found by its path, so that a script beside the clone does not take the clone's folder for the package
pip install -c "$constraints" --config-settings editable_mode=compat -e '.[dev]'
