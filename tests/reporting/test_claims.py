"""Claims of a user's own, from a YAML file to a verdict, and files that are refused."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import log_to, mlflow_store
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from asr import cli, report
from asr.artifacts.error_table import error_rows
from asr.errors import InputError
from asr.metrics import ErrorRates, score
from asr.reporting.claims import read_claims
from asr.tracking.run import Description

REFERENCE = "the old boat can see the other boat"
CLAIM = """
text: mine makes fewer errors than exp1.
kind: hypothesis
rule: mean
parts: [test-clean]
pairs:
  - {worse: {experiment: exp1}, better: {experiment: exp2_other}}
"""


def log_run(uri: str, experiment: str, augment: str, lost: int) -> None:
    """Log what a training leaves; of every utterance of test-clean the last letters are lost."""
    scored = [score(f"id-{n}", REFERENCE, REFERENCE[: len(REFERENCE) - lost - n % 2]) for n in range(30)]
    files: dict[str, Any] = {
        "plan.json": {
            "name": experiment, "command": "python -m asr.train", "overrides": [f"experiment={experiment}"],
            "device": "cpu", "parameters": 1, "total_steps": 1, "parts": [],
        },
        "history.jsonl": {"train_utterances": 1},
        "results.json": {"test-clean": ErrorRates.of(scored).to_json()},
    }  # fmt: skip
    choices = {"experiment": experiment, "augment": augment}
    with log_to(uri, Description(experiment, choices)) as run:
        for path, content in files.items():
            run.log_text(json.dumps(content), path)
        run.log_table(error_rows(scored), "errors/test-clean")


def claim(**changes: Any) -> dict[str, Any]:
    """A claim; a field that is changed to None is left out."""
    return {key: value for key, value in (yaml.safe_load(CLAIM) | changes).items() if value is not None}


def pair(worse: dict[str, str], better: dict[str, str]) -> list[dict[str, dict[str, str]]]:
    return [{"worse": worse, "better": better}]


EXP1, EXP2 = {"experiment": "exp1"}, {"experiment": "exp2_other"}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"rule": "median"}, ["rule", "median", "mean", "each", "failure"]),
        ({"rule": None}, ["mine is better", "rule"]),
        ({"text": None}, ["mine is better", "text"]),
        ({"because": "I say so"}, ["because"]),
        ({"measure": "ser"}, ["measure", "ser", "mean_wer"]),
        ({"measure": "wer", "rule": "failure"}, ["measure=wer", "CER"]),
        ({"kind": "guess"}, ["guess", "finding"]),
        ({"pairs": []}, ["pairs is empty"]),
        ({"pairs": pair({"experiment": "exp7"}, EXP2)}, ["experiment 'exp7'", "did you mean exp", "quickstart"]),
        ({"pairs": pair(EXP1 | {"augment": "wave_speck"}, EXP2)}, ["augment 'wave_speck'", "did you mean wave_spec"]),
        ({"pairs": pair({"augment": "none"}, EXP2)}, ["experiment"]),
        ({"pairs": pair(EXP1 | {"part": "test-other"}, EXP2)}, ["named once"]),
        ({"parts": None}, ["named once"]),
        ({"sweep": "everything"}, ["sweep 'everything'", "writeup"]),
        ({"sweep": ["a"]}, ["sweep"]),
    ],
)
def test_a_bad_claim_is_refused_with_a_paragraph(changes: dict, names: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        read_claims(OmegaConf.create({"claims": {"mine is better": claim(**changes)}}))
    paragraph = str(refused.value)
    assert paragraph.startswith("claims")
    assert "\n" not in paragraph
    assert [name for name in names if name not in paragraph] == []


@pytest.mark.parametrize("file", [{}, {"claims": {}}, {"claims": ["a"]}, {"hypotheses": {}}])
def test_a_file_without_claims_is_refused(file: dict) -> None:
    with pytest.raises(InputError, match=r"claims.*conf/claims/writeup\.yaml"):
        read_claims(OmegaConf.create(file))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Runs of exp1 and of an experiment of the user's own."""
    uri = mlflow_store(tmp_path_factory.mktemp("claims"))
    log_run(uri, "exp1", "none", lost=15)
    log_run(uri, "mine", "speed_spec", lost=5)
    return uri


def test_a_part_that_nobody_has_is_refused_and_nothing_is_written(store: str, tmp_path: Path) -> None:
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        config = compose("report", [f"tracking.uri={store}", f"output_dir={tmp_path / 'out'}"])
    config.claims = {"claims": {"mine is better": claim(parts=["test-tidy"])}}
    with pytest.raises(InputError, match=r"mine is better.*no test part 'test-tidy'.*test-clean, test-other"):
        report.run(config)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def make_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Call python -m asr.report, with what is said on its command line; tmp_path holds configs of the user's own."""

    def run(*arguments: str) -> None:
        monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
        monkeypatch.setattr(sys, "argv", ["report", f"--config-dir={tmp_path}", *arguments])
        report.main()

    return run


def test_a_file_that_is_no_yaml_is_a_paragraph(make_report, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "mine.yaml").write_text("claims:\n  mine: it: fails\n")
    with pytest.raises(SystemExit) as stop:
        make_report("claims=mine")
    assert stop.value.code == 2
    assert re.fullmatch(r"error: .*claims/mine\.yaml.*line 2.*\n", capsys.readouterr().err)


def test_a_hypothesis_of_a_users_own_gets_its_verdict_without_python(store: str, make_report, tmp_path: Path) -> None:
    """Its experiment and its claims are files in a folder of the user's."""
    files = {
        "experiment/mine.yaml": "# @package _global_\n# mine: exp1, faster and slower.\ndefaults:\n  - exp1\n"
        "  - override /augment: speed_spec\n  - _self_\n",
        "claims/mine.yaml": yaml.safe_dump({
            "claims": {
                "mine is better": claim(pairs=pair(EXP1, {"experiment": "mine"})),
                "words too": claim(pairs=pair({"experiment": "mine"}, EXP1), measure="wer"),
                "noise": claim(pairs=pair(EXP1, EXP1 | {"augment": "wave_spec"})),
            }
        }),
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    make_report("claims=mine", "bootstrap_samples=50", f"tracking.uri={store}", f"output_dir={tmp_path / 'out'}")
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "#### mine is better: test-clean: supported\n" in markdown
    assert "#### words too: test-clean: contradicted\n" in markdown
    assert "| exp1, none (test-clean) |" in markdown
    assert "| mine, speed_spec (test-clean) |" in markdown
    assert "| mine | exp1, faster and slower. |" in markdown
    assert "| noise | `python -m asr.train experiment=exp1 augment=wave_spec` |" in markdown
    assert "H1a" not in markdown, "the writeup's claims are in another file"
