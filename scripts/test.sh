#!/usr/bin/env bash
# Installs if needed and passes the tests.
#   bash scripts/test.sh                   arguments are pytest's, e.g. -k model
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh
.venv/bin/python -m pytest "$@"
