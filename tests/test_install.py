"""A fresh install gets the versions that the tests passed with."""

import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT

# Stands in for .venv/bin/python: writes down what pip would have been asked.
PYTHON = """#!/bin/sh
case "$1$2" in
  -mpip) echo "$@" >> pip.log ;;
  *) echo VERSION ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """The files that setup.sh needs, and a .venv whose Python installs nothing; call it with a version to set up."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/setup.sh", tmp_path / "scripts")
    for name in ("pyproject.toml", "constraints-3.11.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def set_up(version):
        python, log = tmp_path / ".venv/bin/python", tmp_path / "pip.log"
        python.write_text(PYTHON.replace("VERSION", version))
        python.chmod(0o755)
        log.write_text("")
        environment = {**os.environ, "PYTHON": sys.executable}
        command = ["bash", "scripts/setup.sh"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return log.read_text(), done.stdout

    set_up.folder = tmp_path
    return set_up


def test_setup_installs_the_fixed_versions_and_again_when_they_change(clone):
    assert "--constraint constraints-3.11.txt" in clone("3.11")[0]
    assert clone("3.11") == ("", "")
    with (clone.folder / "constraints-3.11.txt").open("a") as file:
        file.write("# renewed\n")
    assert "--constraint constraints-3.11.txt" in clone("3.11")[0]


def test_setup_says_when_there_are_no_fixed_versions_for_a_python(clone):
    asked, told = clone("3.12")
    assert "install" in asked
    assert "--constraint" not in asked
    assert "no constraints-3.12.txt" in told


def test_the_fixed_versions_cover_every_dependency():
    lines = (ROOT / "constraints-3.11.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.+]+", pin)] == []  # no paths, no addresses
    pinned = {re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower() for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.match(r"[\w.-]+", line)[0].lower() for group in groups for line in group} - {"asr-ctc-suite"}
    assert names - pinned == set()
