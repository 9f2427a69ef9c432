"""The tutorial runs, with a model and a training of a second."""

import os
import re

import nbformat
import pytest
from conftest import ROOT, SMALL, compose_small, job

from asr.train import run

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
MADE_WITH_TESTS = ["steps_per_epoch=1", "epochs=1"]


def outputs(notebook):
    """What its code cells gave, one string a cell."""
    return [str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]


def test_the_tutorial_runs(corpus, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="the extra `notebook` is not installed")
    run(compose_small(corpus, tmp_path, *MADE_WITH_TESTS), job())
    for name in ("conf", "asr"):  # the notebook's root, in which it writes
        (tmp_path / name).symlink_to(ROOT / name)
    notebook = nbformat.read(NOTEBOOK, 4)
    parameters = notebook.cells[1]
    assert parameters.source.startswith("# Parameters")
    parameters.source = (
        f"checkpoint, corpus = {str(tmp_path / 'run' / 'best.pt')!r}, {str(corpus)!r}\n"
        f"training = {[*SMALL, *MADE_WITH_TESTS, 'tracking.uri=null']!r}"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    nbclient.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    _loaded, transcript, spectrogram, errors, trained, history = outputs(notebook)[1:]
    assert "said:" in transcript
    assert "image/png" in spectrogram
    assert re.search(r"6 utterances: WER \d", errors)
    assert "best.pt on the test parts" in trained
    assert "dev_cer" in history
    assert (tmp_path / "outputs" / "runs" / "tutorial" / "best.pt").exists()


def test_the_committed_tutorial_shows_a_whole_run_without_paths_of_a_machine():
    text = NOTEBOOK.read_text()
    assert all(cell.execution_count for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code")
    assert "best.pt on the test parts" in text
    assert re.findall(r"(?:/root|/home|/Users|/tmp|/work)/\w+", text) == []
    assert len(text) < 500_000
