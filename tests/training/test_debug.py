"""What one checks first: a step of everything, a batch learned by heart, and what the doctor says of a training."""

import json
import os
import re
import signal
import sqlite3
from contextlib import closing

import pytest
from conftest import compose_small, content, in_mlflow, job, same

from asr import train
from asr.training import checkpoint, doctor, loop
from asr.training.monitor import example_lines
from asr.training.signals import Interrupted

pytestmark = pytest.mark.pictures


def query(folder, sql):
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return database.execute(sql).fetchall()


def test_fast_runs_one_step_of_everything(config, tmp_path, capsys):
    results = train.run(config(in_mlflow(tmp_path), "debug=fast", "data.eval_utterances=2", "augment=wave_spec"), job())
    assert {part: rates.utterances for part, rates in results.items()} == {"test-clean": 2, "test-other": 2}
    (record,) = checkpoint.load(tmp_path / "run/last.pt").history
    assert (record["step"], len(record["dev_examples"])) == (1, 2)
    files = ("results.json", "learning_curves.png", "errors/test-clean.tsv", "augmentation/all.png", "best.pt")
    assert all((tmp_path / "run" / name).exists() for name in files)
    assert query(tmp_path, "SELECT status, experiments.name FROM runs JOIN experiments USING (experiment_id)") == [
        ("FINISHED", "debug")
    ]
    logged = {key for (key,) in query(tmp_path, "SELECT key FROM metrics")}
    assert logged >= {"step/loss", "train/loss", "dev/blank_share", "dev/symbol_ratio", "test-other/cer"}
    assert "dev/examples" not in logged
    assert re.search(r"dev +dev-clean +2 ", capsys.readouterr().out)


def test_one_batch_is_learned_by_heart_and_resumed(corpus, tmp_path, monkeypatch, capsys):
    """The run stops as soon as the batch is learned, and says so; a stop in between changes nothing."""
    real, seen = loop.train_step, []

    def recorded(model, micro_batches, *given):
        seen.append([id for batch in micro_batches for id in batch.ids])
        if len(seen) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(model, micro_batches, *given)

    def run(name):
        return train.run(compose_small(corpus, tmp_path, "debug=overfit", f"output_dir={tmp_path / name}"), job())

    monkeypatch.setattr(loop, "train_step", recorded)
    stop_at = 0
    run("whole")
    told, history = capsys.readouterr().out, checkpoint.load(tmp_path / "whole/last.pt").history
    assert len(seen[0]) == 8
    assert all(ids == seen[0] for ids in seen)
    assert "the first batch alone, until an epoch's loss is below 0.1" in told
    assert told.count(f"The batch is learned: after {len(seen)} steps on it") == 1
    assert [record["train_loss"] < 0.1 for record in history] == [False] * (len(history) - 1) + [True]
    assert len(history) < 40
    seen, stop_at = [], len(seen) - 30
    with pytest.raises(Interrupted):
        run("stopped")
    run("stopped")
    for name in ("last.pt", "best.pt"):
        same(content(tmp_path / "whole" / name), content(tmp_path / "stopped" / name))


def test_a_rate_that_is_too_low_is_named_and_three_utterances_are_shown(config, tmp_path, monkeypatch, capsys):
    """A real training that writes blanks: what is said, and where."""
    monkeypatch.setattr(doctor, "STEPS", 60)
    rate = ("optimizer=sgd", "optimizer.lr=1.9e-3", "scheduler=constant")
    train.run(config(in_mlflow(tmp_path), *rate, "epochs=9", "steps_per_epoch=12"), job())
    told, history = capsys.readouterr().out, checkpoint.load(tmp_path / "run/last.pt").history
    assert history[-1]["dev_symbol_ratio"] < doctor.WRITTEN < history[-1]["dev_blank_share"]
    assert told.count("The model writes nothing but blanks and spaces after") == 1
    assert re.search(r"The likely cause is the learning rate, 1\.9e-03 now.*too low for SGD", told)
    ((tag,),) = query(tmp_path, "SELECT value FROM tags WHERE key = 'doctor'")
    assert tag in told
    shown = history[-1]["dev_examples"]
    assert [[one["id"] for one in record["dev_examples"]] for record in history] == [[one["id"] for one in shown]] * 9
    assert len({one["id"] for one in shown}) == 3
    for one in shown:
        assert re.search(rf"^ +{one['reference']} +-> \(nothing\)", told, re.MULTILINE)
    table = json.loads((tmp_path / "run/dev_examples.json").read_text())
    assert table["columns"] == ["epoch", "id", "reference", "hypothesis"]
    assert [row[0] for row in table["data"]] == [epoch for epoch in range(1, 10) for _ in range(3)]
    (stored,) = tmp_path.rglob("mlartifacts/*/artifacts/dev_examples.json")
    assert json.loads(stored.read_text()) == table


def test_examples_fill_the_console_and_no_more():
    long, short = {"reference": "a b " * 50, "hypothesis": " c" * 90}, {"reference": "ab", "hypothesis": "  "}
    first, second = example_lines([long, short], width=80)
    assert len(first) == 80
    assert first.startswith("    a b a b ")
    assert first.endswith(" c...")
    assert second == f"    ab{' ' * 34} -> (nothing)"
    assert example_lines([short], width=80) == ["    ab -> (nothing)"]
