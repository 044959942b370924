#!/usr/bin/env bash
# On a machine without a network: put the wheels of tools/offline_wheels.sh beside the machine's own packages,
# then run a `shotstream` command.
#   bash tools/offline.sh train toy --minutes 8.5 --device cuda --folder runs/toy
set -euo pipefail
cd "$(dirname "$0")/.."
site=$(mktemp -d)
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl
export PYTHONPATH="$site:$PWD" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
exec python3 -m shotstream "$@"
