#!/usr/bin/env bash
# From a fresh clone to a trained recogniser: installs, makes the synthetic corpus, trains the quickstart, shows results.
#   bash scripts/quickstart.sh             KEY=VALUE ... are passed on to the training
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh
.venv/bin/python -m asr.prepare synthetic
.venv/bin/python -m asr.train experiment=quickstart "$@"
