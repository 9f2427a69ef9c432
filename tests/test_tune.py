"""asr.search search=decode with a model that has learned nothing: what it writes, prints and refuses."""

import csv
import shlex
import sys

import pytest
import torch
from conftest import COMMANDS, compose_small
from omegaconf import OmegaConf

from asr.config.build import build_recognizer
from asr.training import checkpoint
from asr.training.checkpoint import Checkpoint

ARPA = """\\data\\
ngram 1=5
ngram 2=1

\\1-grams:
-2\t<unk>
-99\t<s>
-1\t</s>
-0.5\tdad
-0.5\tabba

\\2-grams:
-0.2	dad abba

\\end\\
"""


@pytest.fixture
def tune(corpus, tmp_path, monkeypatch):
    """Call the search with more arguments; it returns the exit code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lm.arpa").write_text(ARPA)

    def call(*arguments):
        given = [f"checkpoint={tmp_path / 'best.pt'}", f"data.root={corpus}", "workers=0", "output_dir=tuned"]
        monkeypatch.setattr(sys, "argv", ["asr.search", "search=decode", *given, *arguments])
        COMMANDS["search"]()

    return call


@pytest.fixture
def best(corpus, tmp_path):
    """A checkpoint with the weights that a training starts from."""
    config = compose_small(corpus, tmp_path)
    weights = build_recognizer(config, seed=1).model.state_dict()
    settings = OmegaConf.to_container(config, resolve=True)
    progress = {"position": (0, 0), "epoch": 0, "step": 0, "non_finite_in_a_row": 0, "this_epoch": {}}
    optimizer = {"state": {}, "param_groups": []}
    saved = Checkpoint(settings, weights, optimizer, {}, progress, [], None, {"cpu": torch.get_rng_state()})
    checkpoint.save(saved, tmp_path / "best.pt")


def test_the_best_settings_are_those_of_the_printed_command(tune, best, tmp_path, capsys):
    tune(
        "decode.lm=lm.arpa", "trials=3", "space.beam={choices: [5, 10]}", "+space.threshold={low: 5, high: 9, step: 1}"
    )
    with open(tmp_path / "tuned" / "trials.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["decoder"] for row in rows] == ["greedy", "beam", "trial 0", "trial 1", "trial 2"]
    lowest = min(float(row["wer"]) for row in rows[2:])
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    settings = dict(one.split("=", 1) for one in command[3:])
    assert command[:3] == ["python", "-m", "asr.evaluate"]
    assert (settings["decode"], settings["decode.lm"]) == ("beam_lm", "lm.arpa")
    assert not {"trials", "output_dir", "parts", "space.beam"} & settings.keys()
    (chosen,) = [
        row
        for row in rows[2:]
        if all(
            float(row[key]) == pytest.approx(float(settings[f"decode.{key}"]))
            for key in ("lm_weight", "word_score", "beam", "threshold")
        )
    ]
    assert float(chosen["wer"]) == lowest
    for kind in ("png", "svg"):
        assert (tmp_path / "tuned" / f"tuning.{kind}").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["parts=[dev-clean,test-clean]", "decode.lm=lm.arpa"], "test-clean is a test part"),
        ([], "decode.lm is not given"),
        (["decode.lm=lm.arpa", "+space.lm_wight={low: 0, high: 1}"], "did you mean decode.lm_weight?"),
        (["decode.lm=lm.arpa", "space.lm_weight=1"], "give low and high, or choices"),
        (["decode.lm=lm.arpa", "space.lm_weight={low: 2, high: 1}"], "low"),
        (["decode.lm=lm.arpa", "trials=0"], "trials=0: it must be"),
    ],
)
def test_mistakes_are_one_paragraph(arguments, message, tune, best, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        tune(*arguments)
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "tuned").exists()
