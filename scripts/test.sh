#!/usr/bin/env bash
# Installs if needed and passes the tests.
#   bash scripts/test.sh                   arguments are pytest's, e.g. -k model
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh
# Two processes of one thread each: many tests wait for processes, servers and databases, and two threads win little.
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
