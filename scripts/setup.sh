#!/usr/bin/env bash
# Make .venv and install the project with the extras that every script here needs. Does nothing when it is up to date.
#   bash scripts/setup.sh            PYTHON=python3.12 picks the interpreter
# Python 3.11 gets the versions in constraints-3.11.txt. Another Python gets the newest that pyproject.toml allows,
# unless there is a constraints file for it.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/installed-from
if [ -f "$stamp" ] && cat pyproject.toml constraints-*.txt | cmp -s - "$stamp"; then
  exit 0
fi
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' 2>/dev/null; then
  echo "$python is not Python 3.11.4 or newer; name one that is: PYTHON=python3.12 bash $0" >&2
  exit 1
fi
echo "Installing into .venv (a few minutes and about 7 GB the first time: torch is most of it)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
constraints=constraints-$(.venv/bin/python -c 'import sys; print("{}.{}".format(*sys.version_info))').txt
if [ -f "$constraints" ]; then
  set -- --constraint "$constraints"
else
  echo "There is no $constraints: the newest versions that pyproject.toml allows are installed, tested or not"
  set --
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" --editable '.[synthetic,dev]'
cat pyproject.toml constraints-*.txt > "$stamp"
