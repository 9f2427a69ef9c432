"""One run in one directory: starts at the same moment do not mix, and a kill near the end leaves nothing undone."""

import json
import os
import random
import signal
import sqlite3
import time
from contextlib import closing

import pytest
from conftest import compose_small, exit_code, forked, in_mlflow, logged_points

from asr import train
from asr.config.naming import Job
from asr.tracking.journal import read

KILLS = 10
SHORT = ("epochs=1", "steps_per_epoch=2", "tracking.log_every=1")


def train_in(folder, corpus, name, *overrides):
    config = compose_small(corpus, folder, *SHORT, f"output_dir={folder / name}", in_mlflow(folder), *overrides)
    return train.run(config, Job(name, {}, [], "python -m asr.train ..."))


def query(folder, sql, *values):
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return database.execute(sql, values).fetchall()


def logged(folder, name):
    """A run's status, points and files' names in MLflow's database, without what depends on the clock."""
    runs = "SELECT run_uuid, status, artifact_uri FROM runs JOIN tags USING (run_uuid) WHERE key = 'directory'"
    ((run_id, status, artifacts),) = query(folder, f"{runs} AND value LIKE '%/' || ?", name)
    points = {
        point: values
        for point, values in logged_points(folder / "mlflow.db", run_id).items()
        if "wall_" not in point[0] and "per_second" not in point[0]
    }
    place = artifacts.removeprefix("file://")
    files = {os.path.relpath(os.path.join(at, file), place) for at, _, names in os.walk(place) for file in names}
    # MLflow gives a file its name when it is whole; a kill before that leaves what it had of it, which nobody sees.
    files = {file for file in files if not os.path.basename(file).startswith(".artifact.uploading.")}
    return status, points, {file for file in files if not file.startswith("resume_")}


def starts(directory):
    return sum(entry.event["kind"] == "start" for entry in read(directory / "journal.jsonl"))


def test_two_configs_that_start_at_once_in_one_directory_do_not_mix(corpus, tmp_path):
    rates = {lr: forked(lambda lr=lr: train_in(tmp_path, corpus, "run", f"optimizer.lr={lr}")) for lr in (1e-3, 3e-3)}
    codes = {lr: exit_code(child) for lr, child in rates.items()}
    assert sorted(codes.values()) == [0, 1], "one of them is refused"
    (winner,) = (lr for lr, code in codes.items() if code == 0)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["optimizer"]["lr"] == winner
    assert query(tmp_path, "SELECT value FROM params WHERE key = 'optimizer.lr'") == [(str(winner),)]
    assert starts(tmp_path / "run") == 1


def test_the_same_command_twice_at_once_trains_and_scores_once(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("asr.tracking.journal.LOCK_SECONDS", 120)  # a busy machine may train for longer than 10 s
    children = [forked(lambda: train_in(tmp_path, corpus, "run")) for _ in range(2)]
    assert [exit_code(child) for child in children] == [0, 0]
    assert starts(tmp_path / "run") == 1
    assert query(tmp_path, "SELECT status FROM runs") == [("FINISHED",)]


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """The folder of a run that nothing disturbed, and the seconds from its last epoch to its end."""
    folder = tmp_path_factory.mktemp("ends")
    child = forked(lambda: train_in(folder, corpus, "whole"))
    wait_for_the_last_epoch(folder / "whole")
    start = time.monotonic()
    assert exit_code(child) == 0
    return folder, time.monotonic() - start


def wait_for_the_last_epoch(directory):
    deadline = time.monotonic() + 60
    while not (directory / "history.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("moment", [random.Random(seed).random() for seed in range(KILLS)])
def test_a_run_that_is_killed_after_its_last_epoch_ends_as_one_that_is_not(whole, corpus, moment):
    folder, seconds = whole
    name = f"killed at {moment:.3f}"
    child = forked(lambda: train_in(folder, corpus, name))
    wait_for_the_last_epoch(folder / name)
    time.sleep(moment * seconds)
    os.kill(child, signal.SIGKILL)
    exit_code(child)
    train_in(folder, corpus, name)
    assert logged(folder, name) == logged(folder, "whole")
    assert logged(folder, name)[0] == "FINISHED"
    assert (folder / name / "results.json").read_text() == (folder / "whole" / "results.json").read_text()
