"""A killed run loses nothing: the same command resumes at the next batch, to the same numbers."""

import errno
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing

import pytest
from conftest import compose_small, content, exit_code, forked, in_mlflow, same, timeless
from torch.optim.optimizer import register_optimizer_step_pre_hook

from asr import cli, train
from asr.config.naming import Job
from asr.errors import InputError
from asr.tracking.journal import JOURNAL, read
from asr.training import checkpoint
from asr.training.signals import Interrupted, deferred

EPOCHS, STEPS = 3, 4
TRAINED = (f"epochs={EPOCHS}", f"steps_per_epoch={STEPS}", "model.gru_layers=2", "augment=wave_spec",
           "tracking.log_every=1")  # fmt: skip
EVERY_STEP = "checkpoint.every_minutes=1e-9"


def train_in(folder, corpus, name, *overrides):
    """A run in folder/name, which logs to the database of all these runs."""
    config = compose_small(corpus, folder, *TRAINED, f"output_dir={folder / name}", in_mlflow(folder), *overrides)
    return train.run(config, Job(name, {}, [], "python -m asr.train ..."))


def logged(folder, name):
    """How often each point stands in MLflow's database: (key, step, value), without what the clock changes."""
    query = """SELECT key, step, CASE is_nan WHEN 1 THEN 'nan' ELSE value END FROM metrics WHERE
               run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'directory' AND value LIKE '%/' || ?)"""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        points = database.execute(query, (name,)).fetchall()
    return Counter(point for point in points if "wall_" not in point[0] and "per_second" not in point[0])


def assert_same_run(folder, name, other):
    for file in (checkpoint.LAST, checkpoint.PREVIOUS, checkpoint.BEST):
        same(content(folder / name / file), content(folder / other / file), file)
    for file in ("results.json", "dev_examples.json"):
        assert (folder / name / file).read_text() == (folder / other / file).read_text()
    histories = [
        [timeless(json.loads(line)) for line in (folder / run / "history.jsonl").read_text().splitlines()]
        for run in (name, other)
    ]
    same(*histories, "history")
    points = logged(folder, name)
    assert points == logged(folder, other)
    assert set(points.values()) == {1}, "each point is there once"
    assert sum(key == "step/loss" for key, *_ in points) == EPOCHS * STEPS


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    """Holds a run that nothing stopped: `whole`. It saves after every step, as do those that it is compared with."""
    folder = tmp_path_factory.mktemp("resumed")
    train_in(folder, corpus, "whole", EVERY_STEP)
    return folder


PLACES = {  # where a run is interrupted: what happens there, and after which steps that is certain to happen
    "step": (("optimizer", ""), range(EPOCHS * STEPS)),  # the gradient is there, the weights are not changed yet
    "evaluation": (("open", "/dev-clean/"), range(STEPS, EPOCHS * STEPS + 1, STEPS)),
    "next.pt": (("os.rename", "/next.pt"), range(1, EPOCHS * STEPS + 1)),  # it is written, but has not its name yet
    "previous.pt": (("os.rename", "/previous.pt"), range(2, EPOCHS * STEPS + 1)),
    "last.pt": (("os.rename", "/last.pt"), range(1, EPOCHS * STEPS + 1)),  # there is none
    "best.pt": (("os.rename", "/best.pt"), [STEPS]),
}


def last_step(directory):
    """The last step that the run has logged; 0 before the first."""
    events = [entry.event for entry in read(directory / JOURNAL)] if (directory / JOURNAL).exists() else []
    return max((event["step"] for event in events if "step/loss" in event.get("values", ())), default=0)


def interrupt(directory, place, step, number, before=lambda: None):
    """Send this process a signal when it is first at the place after it has logged the step, and no later one.

    place: ("optimizer", "") before weights change, or what Python reports to audit hooks: a file is opened or renamed
    """
    kind, path = place
    left = [number]

    def happens():
        if left and last_step(directory) == step:
            before()
            os.kill(os.getpid(), left.pop())

    if kind == "optimizer":
        register_optimizer_step_pre_hook(lambda *_: happens())
    else:
        sys.addaudithook(
            lambda event, given: happens() if event == kind and path in str(given[kind != "open"]) else None
        )


def moments_to_kill_at():
    """Ten, drawn by a seed: one of each place, and four more."""
    drawn = random.Random(6)
    every = [(place, step) for place, (_, steps) in PLACES.items() for step in steps]
    first = [(place, drawn.choice(steps)) for place, (_, steps) in PLACES.items()]
    return [*first, *drawn.sample([moment for moment in every if moment not in first], 4)]


@pytest.mark.parametrize(("place", "step"), moments_to_kill_at())
def test_a_run_that_is_killed_goes_on_to_the_same_numbers(folder, corpus, place, step):
    name = f"killed at {place} after {step}"

    def killed():
        interrupt(folder / name, PLACES[place][0], step, signal.SIGKILL)
        train_in(folder, corpus, name, EVERY_STEP)

    assert exit_code(forked(killed)) == -signal.SIGKILL
    assert last_step(folder / name) == step
    train_in(folder, corpus, name, EVERY_STEP)
    assert_same_run(folder, "whole", name)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("place", ["step", "evaluation"])
def test_a_signal_finishes_the_batch_saves_and_ends_the_process(folder, corpus, monkeypatch, place, number, code):
    """With the default of minutes between two saves, so that what is saved is saved because of the signal."""
    name = f"{number.name} in {place}"
    config = compose_small(corpus, folder, *TRAINED, f"output_dir={folder / name}", in_mlflow(folder))
    monkeypatch.setattr(sys, "argv", ["asr.train"])
    monkeypatch.setattr(cli.Task, "__call__", lambda *_: train.run(config, Job(name, {}, [], "python -m asr.train")))

    def command():
        step = {"step": STEPS + 1, "evaluation": 2 * STEPS}[place]
        sent = folder / f"{name}.time"
        interrupt(folder / name, PLACES[place][0], step, number, lambda: sent.write_text(str(time.monotonic())))
        train.main()

    assert exit_code(forked(command)) == code
    assert time.monotonic() - float((folder / f"{name}.time").read_text()) < 10
    saved = checkpoint.load(folder / name / "last.pt").progress
    assert (saved["epoch"], saved["step"]) == {"step": (1, STEPS + 2), "evaluation": (1, 2 * STEPS)}[place]
    assert status(folder, name) == "KILLED"
    train_in(folder, corpus, name)
    assert status(folder, name) == "FINISHED"
    same(content(folder / name / "last.pt")["model"], content(folder / "whole" / "last.pt")["model"])
    assert logged(folder, name) == logged(folder, "whole")


def status(folder, name):
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        query = "SELECT status FROM runs JOIN tags USING (run_uuid) WHERE key = 'directory' AND value LIKE '%/' || ?"
        ((found,),) = database.execute(query, (name,)).fetchall()
    return found


def test_a_signal_after_the_last_batch_still_stops():
    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in the background of a script

    def work():
        with deferred() as stop:
            assert list(stop.heeded("ab")) == ["a", "b"]
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        work()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_stops_at_once_and_saves_nothing():
    def work():
        with deferred():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as stopped:
        work()
    assert not isinstance(stopped.value, Interrupted)


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty"])
def test_a_damaged_last_checkpoint_is_told_and_the_one_before_is_used(folder, corpus, capsys, damage):
    name = f"damaged {damage}"
    shutil.copytree(folder / "whole", folder / name)
    (folder / name / "results.json").unlink()
    last = folder / name / "last.pt"
    whole = last.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :]
    last.write_bytes({"truncated": whole[:-1000], "one bit": flipped, "empty": b""}[damage])
    train_in(folder, corpus, name, EVERY_STEP)
    told = capsys.readouterr().out
    assert "last.pt: " in told
    assert "The run resumes from previous.pt, the one before." in told
    assert f"step {EPOCHS * STEPS}." in told  # an epoch's end is saved once more
    same(content(last), content(folder / "whole" / "last.pt"))


def test_no_whole_checkpoint_is_an_error_with_a_way_out(folder, corpus):
    name = "nothing whole"
    shutil.copytree(folder / "whole", folder / name)
    for file in ("last.pt", "previous.pt"):
        (folder / name / file).write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"previous\.pt: cannot be read.*No checkpoint of .* is whole: fresh=true"):
        train_in(folder, corpus, name)


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for two checkpoints of 0.5 MB, not for another beside them."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1400k", "tmpfs", place]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_ends_the_run_with_a_paragraph_and_leaves_its_checkpoints_whole(small_disk, corpus, capsys):
    config = compose_small(corpus, small_disk.parent, *TRAINED, "augment=none", f"output_dir={small_disk / 'run'}")
    job = Job("small", {}, [], "python -m asr.train")
    full = r"(next|best)\.pt cannot be written: .*No space left on device.*make room on the disk"
    with pytest.raises(InputError, match=full):
        train.run(config, job)
    assert checkpoint.load(small_disk / "run" / "best.pt").progress["epoch"] == 1
    assert checkpoint.load(small_disk / "run" / "last.pt").progress["epoch"] == 1
    assert not list((small_disk / "run").glob("*.partial"))
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    assert train.run(config, job)
    assert "epoch 1 is done" in capsys.readouterr().out


def test_a_disk_that_is_full_for_another_file_is_a_paragraph_too(monkeypatch, capsys):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "history.jsonl")

    monkeypatch.setattr(sys, "argv", ["asr.train"])
    monkeypatch.setattr(cli.Task, "__call__", fail)
    with pytest.raises(SystemExit) as end:
        train.main()
    assert end.value.code == 2
    assert "history.jsonl" in (told := capsys.readouterr().err)
    assert "resume from its last checkpoint" in told
