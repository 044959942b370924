#!/usr/bin/env bash
# Runs the tests with the lowest (or the newest) versions that settings.ini allows:
#   tools/test_bounds.sh oldest|newest PYTHON [TESTS]
# In a folder of its own, .venv-oldest or .venv-newest, which is made when settings.ini has changed.
set -euo pipefail
which=$1 python=$2 venv=.venv-$1
shift 2
cd "$(dirname "$0")/.."
if [ ! -e "$venv/ready" ] || [ settings.ini -nt "$venv/ready" ]; then
    rm -rf "$venv"
    mkdir "$venv"
    if [ "$which" = oldest ]; then python3 tools/lowest.py; fi >"$venv/constraints.txt"
    bash tools/install.sh "$python" "$venv" "$venv/constraints.txt"
    touch "$venv/ready"
fi
"$venv/bin/python" -c 'import sys, torch, diffusers
print("Python", sys.version.split()[0], "torch", torch.__version__, "diffusers", diffusers.__version__)'
"$venv/bin/python" -m pytest -n 2 --dist worksteal "$@"
