#!/usr/bin/env bash
# For a GPU machine without a network that has torch, transformers and accelerate: collects what else the package
# needs there into .whl/ (6 MB; with --video also av, 36 MB more, to write films there). Run it in the project's folder
# on a machine with a network, copy the folder over, and start everything through tools/offline.sh.
#   bash tools/offline_wheels.sh [--video] [PYTHON VERSION, default 3.12]
set -euo pipefail
cd "$(dirname "$0")/.."
packages="diffusers peft fastcore ftfy wcwidth importlib_metadata requests"
if [ "${1:-}" = --video ]; then packages="$packages av"; shift; fi
python=${1:-3.12}
platforms=""
for p in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
    platforms="$platforms --platform ${p}_x86_64"
done
rm -rf .whl
# shellcheck disable=SC2086
python3 -m pip download -q --no-deps --only-binary=:all: --python-version "$python" --implementation cp $platforms \
    -c constraints.txt -d .whl $packages
du -sh .whl
