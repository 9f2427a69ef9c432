"""Several processes train as one does: the same gradient, scores and stops. Real ones, by gloo, some by torchrun."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import SMALL, compose_small, content, exit_code, forked, same, timeless
from two_processes import happens

from asr import train
from asr.config.build import build_experiment
from asr.config.naming import Job
from asr.data.batches import Position, Shard
from asr.data.loader import evaluation_batches
from asr.errors import InputError, ToldError
from asr.training import checkpoint
from asr.training.distributed import init_distributed
from asr.training.evaluation import evaluate
from asr.training.parallel import distribute
from asr.training.signals import Interrupted
from asr.training.step import backward, train_step

JOB = Job("several", {}, [], "python -m asr.train")
RUN = ("epochs=2", "steps_per_epoch=4", "model.gru_layers=2", "model.dropout=0.3", "tracking.log_every=1",
       "checkpoint.every_minutes=1e-9")  # fmt: skip
# Adam would make steps of what is but rounding: biases before a norm.
ALIKE = ("optimizer=sgd_momentum", "optimizer.lr=1e-3", "sync_batch_norm=true", "model.dropout=0")
UNEVEN = ("batch.utterances=23", "max_unreadable_share=0.1")  # of 48: 23, 23 and 2


def in_processes(action, size=2):
    """Calls it in so many processes that know of each other; returns their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(size):
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

        def child(world=world):
            os.environ.update({name: str(value) for name, value in world.items()})
            init_distributed.cache_clear()
            action()

        children.append(forked(child))
    return [exit_code(child) for child in children]


def pieces_of(session, steps, accumulate=1, cut=slice(None)):
    """The micro-batches of this process of the first batches; of each batch only the utterances `cut` are left."""
    world = session.compute.world
    shard = Shard(world.rank, world.size, accumulate)
    dataset = session.recognizer.dataset(session.augment, 1)
    whole = [(Position(0, index), batch[cut]) for index, batch in enumerate(islice(session.batches.batches(0), steps))]
    return [[dataset[position, piece] for piece in shard.of(batch)] for position, batch in whole]


CASES = {  # settings, which utterances of a batch there are, and whether batch norm is in training mode
    "batch norm over all": (("sync_batch_norm=true",), slice(None), True),
    "batch norm out of the way": ((), slice(None), False),
    "one utterance": (("sync_batch_norm=true",), slice(1), True),
    "in pieces, some empty": (("batch.accumulate=3",), slice(4), False),
}


def test_the_gradient_is_that_of_one_process(config, tmp_path):
    """Its loss and batch norm's statistics, too. A process without an utterance takes part, and leaves no trace."""

    def compute():
        for name, (settings, cut, training) in CASES.items():
            session = build_experiment(config("model.gru_layers=2", "model.dropout=0", *settings))
            compute, accumulate = session.compute, 3 if "pieces" in name else 1
            (pieces,) = pieces_of(session, 1, accumulate, cut)
            model = distribute(session.recognizer.model.train(training), compute)
            utterances = sum(compute.world.gather(sum(len(piece.ids) for piece in pieces)))
            loss = backward(model, pieces, utterances, compute)
            state = {key: value.grad for key, value in session.recognizer.model.named_parameters()}
            state["loss"] = loss
            if compute.world.is_main:
                state |= {key: b for key, b in session.recognizer.model.named_buffers() if "running" in key}
            torch.save(state, tmp_path / f"{name} {compute.world.rank} of {compute.world.size}")

    compute()
    assert in_processes(compute, 3) == [0, 0, 0]
    for name in CASES:
        expected = torch.load(tmp_path / f"{name} 0 of 1")
        for rank in range(3):
            found = torch.load(tmp_path / f"{name} {rank} of 3")
            torch.testing.assert_close(found, {key: expected[key] for key in found}, rtol=1e-5, atol=2e-6)


def test_a_step_that_one_process_cannot_use_is_skipped_by_all(config, tmp_path):
    def compute():
        session = build_experiment(config("steps_per_epoch=4", "epochs=1"))
        world, model = session.compute.world, session.recognizer.model.train()
        trained = distribute(model, session.compute)
        good, bad, lost, last = pieces_of(session, 4)
        if world.rank == 1:
            bad[0].features[0, 0, 0] = torch.nan
        lost = [lost[0]._replace(utterances=[], features=torch.zeros(0, 40, 0), lengths=lost[0].lengths[:0])]
        states, updated = [], []
        for pieces in (good, bad, lost, last):
            metrics = train_step(trained, pieces, session.optimizer, session.scheduler, 10.0, session.compute)
            updated.append((metrics.updated, len(metrics.ids)))
            states.append({name: value.clone() for name, value in model.state_dict().items()})
        assert updated == [(True, 8), (False, 8), (False, 0), (True, 8)]
        same(states[0], states[2])
        torch.save(dict(model.named_parameters()), tmp_path / str(world.rank))

    assert in_processes(compute) == [0, 0]
    same(torch.load(tmp_path / "0"), torch.load(tmp_path / "1"))


def test_scores_are_of_all_processes_and_those_of_one(config, tmp_path):
    """To the last bit: every batch is computed as it would be by one."""

    def score():
        session = build_experiment(config())
        world, dataset = session.compute.world, session.recognizer.dataset(None, 1)
        shard = Shard(world.rank, world.size, 1)
        batches = evaluation_batches(dataset, session.data.training_utterances(), 5.0, 0, False, shard)
        with torch.no_grad():
            session.recognizer.model.output.bias[0] = -3.0  # so that something is recognised
        found = evaluate(session.recognizer.model, batches, session.decoder, session.compute)
        row = [found.loss, found.unalignable, found.scored, found.audio_seconds]
        (tmp_path / f"{world.rank} of {world.size}").write_text(repr(row))

    score()
    assert in_processes(score, 3) == [0, 0, 0]
    assert len({(tmp_path / name).read_text() for name in ("0 of 1", "0 of 3", "1 of 3", "2 of 3")}) == 1


def test_what_ends_one_process_ends_all_and_is_told_once(tmp_path):
    def settle():
        world = init_distributed()
        assert (sum(world.gather(world.rank + 1)), world.max(7 * world.rank)) == (3, 7)
        assert world.gather("ab"[world.rank]) == ["a", "b"]
        with world.errors_shared():
            pass
        with pytest.raises(InputError) as mistake, world.errors_shared():
            only_in(1, world, InputError("the disk of rank 1"))
        expected = (InputError, "the disk of rank 1") if world.is_main else (ToldError, "")
        assert (type(mistake.value), str(mistake.value)) == expected
        with pytest.raises(Interrupted, match="SIGTERM") as stop, world.errors_shared():
            only_in(1, world, Interrupted(signal.SIGTERM))
        assert stop.value.exit_code == 143

    def only_in(rank, world, error):
        if world.rank == rank:
            raise error

    assert in_processes(settle) == [0, 0]


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    """Holds whole runs without dropout: of `one` process and of `two`."""
    folder = tmp_path_factory.mktemp("several")
    train.run(settings(corpus, folder, "one", *ALIKE), JOB)
    assert in_processes(lambda: train.run(settings(corpus, folder, "two", *ALIKE), JOB)) == [0, 0]
    return folder


def settings(corpus, folder, name, *overrides):
    return compose_small(corpus, folder, *RUN, f"output_dir={folder / name}", *overrides)


def test_a_run_of_two_processes_is_that_of_one(folder):
    histories = [checkpoint.load(folder / name / "last.pt").history for name in ("one", "two")]
    for one, two in zip(*histories, strict=True):
        padding = "train_padding_share"  # of shorter utterances on their own there is less
        assert two.pop(padding) < one.pop(padding)
        assert two.pop("dev_examples") == one.pop("dev_examples")
        assert timeless(two) == pytest.approx(timeless(one), rel=1e-4)
    results = [json.loads((folder / name / "results.json").read_text()) for name in ("one", "two")]
    for part, one in results[0].items():
        ece = "confidence_ece"  # of rounded probabilities
        assert one.pop(ece) == pytest.approx(results[1][part].pop(ece), rel=1e-3)
    assert results[0] == results[1]
    files = [{path.relative_to(folder / name) for path in (folder / name).rglob("*")} for name in ("one", "two")]
    assert files[0] == files[1]


def test_a_run_is_resumed_by_another_number_of_processes(folder, corpus, capsys):
    """Without dropout it ends as the run of one process does, but for rounding; it says that the numbers may differ."""

    def stopped():
        happens(lambda: os.kill(os.getpid(), signal.SIGTERM), rank=1, count=3)
        train.run(settings(corpus, folder, "fewer", *ALIKE), JOB)

    in_processes(stopped)
    saved = checkpoint.load(folder / "fewer" / "last.pt")
    assert (saved.processes, saved.progress["step"]) == (2, 3)
    train.run(settings(corpus, folder, "fewer", *ALIKE), JOB)
    assert "It was saved by 2 processes, and now there are 1" in capsys.readouterr().out
    histories = [checkpoint.load(folder / name / "last.pt").history for name in ("one", "fewer")]
    for one, fewer in zip(*histories, strict=True):
        assert fewer.pop("train_padding_share") <= one.pop("train_padding_share")
        assert fewer.pop("dev_examples") == one.pop("dev_examples")
        assert timeless(fewer) == pytest.approx(timeless(one), rel=1e-4)


@contextmanager
def damaged(path):
    """Inside, the file is no audio."""
    whole = path.read_bytes()
    path.write_bytes(b"no audio")
    try:
        yield
    finally:
        path.write_bytes(whole)


def kill(process):
    os.kill(process, signal.SIGKILL)


def test_a_run_of_four_that_is_stopped_and_killed_goes_on_to_the_same_numbers(folder, corpus, capfd):
    """To the last bit, with dropout and a rehearsal, though the four share batches of two utterances, one utterance
    cannot be read and dev is a single batch. Each that has lost another one says so.
    """

    def run(name, *overrides):
        train.run(settings(corpus, folder, name, *UNEVEN, *overrides), JOB)

    def stopped():
        happens(lambda: os.kill(os.getpid(), signal.SIGTERM), rank=1, count=3)
        run("stopped")

    def killed():
        happens(lambda: kill(os.getpid()), rank=2, count=3)
        run("stopped", "rehearse=true")

    def step():
        return checkpoint.load(folder / "stopped" / "last.pt").progress["step"]

    with damaged(next(corpus.glob("train-clean-100/*/*/*-0007.flac"))):
        assert in_processes(lambda: run("whole"), 4) == [0] * 4
        in_processes(stopped, 4)
        assert step() == 3
        capfd.readouterr()
        assert in_processes(killed, 4) == [2, 2, -9, 2]
        errors = capfd.readouterr().err
        told = re.findall(r"error: process (\d) of 4 has lost another one \(.+?\): it", errors)
        assert sorted(told) == list("013"), errors
        assert step() == 5
        assert in_processes(lambda: run("stopped"), 4) == [0] * 4
    for file in ("last.pt", "best.pt"):
        same(content(folder / "whole" / file), content(folder / "stopped" / file))
    for file in ("results.json", "unreadable.jsonl"):
        assert (folder / "stopped" / file).read_text() == (folder / "whole" / file).read_text()


def test_processes_whose_torchrun_is_killed_stop_and_save(folder, corpus):
    def kill_torchrun():
        kill(os.getppid())
        time.sleep(2)  # in which they notice

    def work():
        os.environ["TORCHELASTIC_RUN_ID"] = "a test's"
        happens(kill_torchrun, rank=1, count=3)
        train.run(settings(corpus, folder, "orphans"), JOB)

    reader, writer = os.pipe()
    torchrun = forked(lambda: in_processes(work))
    os.close(writer)
    assert exit_code(torchrun) == -signal.SIGKILL
    os.read(reader, 1)  # returns when all have ended
    os.close(reader)
    assert checkpoint.load(folder / "orphans" / "last.pt").progress["step"] == 3


def overrides(corpus):
    return [f"data.root={corpus}", "tracking.uri=null", *SMALL, *RUN]


def test_torchrun_ends_when_a_process_is_killed(folder, corpus):
    script, paths = Path(__file__).with_name("two_processes.py"), {"PYTHONPATH": str(Path(train.__file__).parents[1])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script,
               *overrides(corpus), "output_dir=killed"]  # fmt: skip
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120, env=os.environ | paths)
    assert done.returncode
    assert time.monotonic() - start < 60
    assert "exitcode  : -9" in done.stderr
    assert done.stderr.count("error: process 0 of 2 has lost another one") == 1
    assert checkpoint.load(folder / "killed" / "last.pt").progress["step"] == 3


def test_a_multirun_of_which_one_run_has_no_data_is_refused_by_all_and_told_once(corpus, tmp_path, monkeypatch, capfd):
    """Before the first of three is trained."""
    parts = "data.train=[train-clean-100],[train-clean-7],[train-clean-360]"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["asr.train", "-m", parts, *overrides(corpus), "workers=1"])
    wait = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: wait(min(seconds, 0.5)))  # the others leave after rank 0
    assert in_processes(train.main) == [2, 2]
    told = capfd.readouterr()
    assert (told.out + told.err).count("error: part 'train-clean-7' has no manifest") == 1
    assert not list((tmp_path / "outputs").rglob("*"))
