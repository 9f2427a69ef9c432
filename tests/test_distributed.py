"""Several processes train as one does: the same gradient, scores and stops. Real ones, by gloo, some by torchrun."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import SMALL, compose_small, exit_code, forked
from test_resume import content, same, timeless

from asr import checkpoint, train
from asr.batching import Position, Share
from asr.build import build_session
from asr.cli import Job
from asr.dataset import evaluation_batches
from asr.distributed import join
from asr.errors import InputError, ToldError
from asr.interrupt import Interrupted
from asr.loop import evaluate
from asr.step import backward, read, train_step

JOB = Job("several", {}, [], "python -m asr.train")
RUN = ("epochs=2", "steps_per_epoch=4", "model.gru_layers=2", "model.dropout=0.3", "tracking.log_every=1")
SGD = ("optimizer=sgd_momentum", "optimizer.lr=1e-3")  # Adam makes steps of what is but rounding: biases before a norm


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
            join.cache_clear()
            action()

        children.append(forked(child))
    return [exit_code(child) for child in children]


def pieces_of(session, steps, accumulate=1, cut=slice(None)):
    """The shares of this process of the first batches; of each batch only the utterances `cut` are left."""
    world = session.compute.world
    share = Share(world.rank, world.size, accumulate)
    dataset = session.recognizer.dataset(session.augment, 1)
    whole = [(Position(0, index), batch[cut]) for index, batch in enumerate(islice(session.passes.batches(0), steps))]
    return [
        [dataset[position, [heard.cut for heard in piece]] for piece in share.of(batch)] for position, batch in whole
    ]


CASES = {  # settings, which utterances of a batch there are, and whether batch norm is in training mode
    "batch norm over all": (("sync_batch_norm=true",), slice(None), True),
    "batch norm out of the way": ((), slice(None), False),
    "one utterance": (("sync_batch_norm=true",), slice(1), True),
    "in pieces, some empty": (("batch.accumulate=3",), slice(4), False),
}


@pytest.mark.parametrize("size", [2, 3])
def test_the_gradient_is_that_of_one_process(config, tmp_path, size):
    """Its loss and batch norm's statistics, too. A process without an utterance takes part, and leaves no trace."""

    def compute():
        for name, (settings, cut, training) in CASES.items():
            session = build_session(config("model.gru_layers=2", "model.dropout=0", *settings))
            compute, accumulate = session.compute, 3 if "pieces" in name else 1
            (pieces,) = pieces_of(session, 1, accumulate, cut)
            model = compute.world.parallel(session.recognizer.model.train(training))
            utterances = compute.world.sum(sum(len(piece.ids) for piece in pieces))
            loss = backward(model, pieces, utterances, compute)
            state = {key: value.grad for key, value in session.recognizer.model.named_parameters()}
            state["loss"] = loss
            if compute.world.is_main:
                state |= {key: b for key, b in session.recognizer.model.named_buffers() if "running" in key}
            torch.save(state, tmp_path / f"{name} {compute.world.rank} of {compute.world.size}")

    compute()
    assert in_processes(compute, size) == [0] * size
    for name in CASES:
        expected = torch.load(tmp_path / f"{name} 0 of 1")
        for rank in range(size):
            found = torch.load(tmp_path / f"{name} {rank} of {size}")
            torch.testing.assert_close(found, {key: expected[key] for key in found}, rtol=1e-5, atol=2e-6)


def test_a_step_that_one_process_cannot_use_is_skipped_by_all(config, tmp_path):
    def compute():
        session = build_session(config("steps_per_epoch=4", "epochs=1"))
        world, model = session.compute.world, session.recognizer.model.train()
        parallel = world.parallel(model)
        good, bad, lost, last = pieces_of(session, 4)
        if world.rank == 1:
            bad[0].features[0, 0, 0] = torch.nan
        lost = [lost[0]._replace(ids=[], features=torch.zeros(0, 40, 0), lengths=lost[0].lengths[:0], seconds=0.0)]
        states, updated = [], []
        for pieces in (good, bad, lost, last):
            step = train_step(parallel, pieces, session.optimizer, session.scheduler, 10.0, session.compute)
            (metrics,) = read([step], world)
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
        session = build_session(config())
        world, dataset = session.compute.world, session.recognizer.dataset(None, 1)
        share = Share(world.rank, world.size, 1)
        batches = evaluation_batches(dataset, session.data.training_cuts(), 5.0, 0, False, share)
        with torch.no_grad():
            session.recognizer.model.output.bias[0] = -3.0  # so that something is recognised
        found = evaluate(session.recognizer.model, batches, session.recognizer.alphabet, session.compute)
        row = [found.loss, found.unalignable, found.scored, found.audio_seconds]
        (tmp_path / f"{world.rank} of {world.size}").write_text(repr(row))

    score()
    assert in_processes(score, 3) == [0, 0, 0]
    assert len({(tmp_path / name).read_text() for name in ("0 of 1", "0 of 3", "1 of 3", "2 of 3")}) == 1


def test_what_ends_one_process_ends_all_and_is_told_once(tmp_path):
    def settle():
        world = join()
        assert (world.sum(world.rank + 1), world.max(7 * world.rank)) == (3, 7)
        assert world.gather("ab"[world.rank]) == ["a", "b"]
        assert world.together(lambda: world.rank) == world.rank
        with pytest.raises(InputError) as mistake:
            world.together(lambda: only_in(1, world, InputError("the disk of rank 1")))
        expected = (InputError, "the disk of rank 1") if world.is_main else (ToldError, "")
        assert (type(mistake.value), str(mistake.value)) == expected
        with pytest.raises(Interrupted, match="SIGTERM") as stop:
            world.together(lambda: only_in(1, world, Interrupted(signal.SIGTERM)))
        assert stop.value.exit_code == 143

    def only_in(rank, world, error):
        if world.rank == rank:
            raise error

    assert in_processes(settle) == [0, 0]


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    """Holds whole runs: of `one` process, of `two`, both without dropout, and of two with all of it: `whole`."""
    folder = tmp_path_factory.mktemp("several")
    alike = (*SGD, "sync_batch_norm=true", "model.dropout=0")
    train.run(settings(corpus, folder, "one", *alike), JOB)

    def both():
        train.run(settings(corpus, folder, "two", *alike), JOB)
        train.run(settings(corpus, folder, "whole"), JOB)

    assert in_processes(both) == [0, 0]
    return folder


def settings(corpus, folder, name, *overrides):
    return compose_small(
        corpus, folder, *RUN, "checkpoint.every_minutes=1e-9", f"output_dir={folder / name}", *overrides
    )


def test_a_run_of_two_processes_is_that_of_one(folder):
    histories = [checkpoint.load(folder / name / "last.pt").history for name in ("one", "two")]
    for one, two in zip(*histories, strict=True):
        padding = "train_padding_share"  # of shorter utterances on their own there is less
        assert two.pop(padding) < one.pop(padding)
        assert timeless(two) == pytest.approx(timeless(one), rel=1e-4)
    results = [json.loads((folder / name / "results.json").read_text()) for name in ("one", "two")]
    assert results[0] == results[1]
    files = [{path.relative_to(folder / name) for path in (folder / name).rglob("*")} for name in ("one", "two")]
    assert files[0] == files[1]


def test_another_number_of_processes_is_refused_with_the_way_out(folder, corpus):
    (folder / "whole" / "results.json").rename(folder / "results.json")
    try:
        with pytest.raises(
            InputError, match=r"last\.pt is of a run of 2 processes, and now there are 1.*torchrun --nproc-"
        ):
            train.run(settings(corpus, folder, "whole"), JOB)
    finally:
        (folder / "results.json").rename(folder / "whole" / "results.json")


def torchrun(corpus, folder, *arguments, **environment):
    """Runs it with two processes; its exit code, what it said, and how long it took."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    paths = {"PYTHONPATH": str(Path(train.__file__).parents[1])}
    start = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=120, env=os.environ | paths | environment
    )
    return done, time.monotonic() - start


def overrides(corpus, folder):
    return [f"data.root={corpus}", f"tracking.uri=sqlite:///{folder / 'mlflow.db'}", *SMALL, *RUN,
            "checkpoint.every_minutes=1e-9"]  # fmt: skip


def test_a_killed_process_ends_the_run_which_goes_on_to_the_same_numbers(folder, corpus):
    """First one of two is asked to stop, and both do; then one is killed, and the other does not wait for it."""
    script, own = str(Path(__file__).with_name("two_processes.py")), f"output_dir={folder / 'stopped'}"
    stopped, _ = torchrun(corpus, folder, script, *overrides(corpus, folder), own, HAPPENS="SIGTERM:1:3")
    assert "Stopped by SIGTERM after step 3, saved" in stopped.stdout
    assert "exitcode  : 143" in stopped.stderr
    assert checkpoint.load(folder / "stopped" / "last.pt").progress["step"] == 3
    killed, seconds = torchrun(corpus, folder, script, *overrides(corpus, folder), own, HAPPENS="kill:1:4")
    assert killed.returncode
    assert seconds < 60
    assert "exitcode  : -9" in killed.stderr  # what the other says depends on who notices first, it or torchrun
    assert checkpoint.load(folder / "stopped" / "last.pt").progress["step"] == 6
    assert in_processes(lambda: train.run(settings(corpus, folder, "stopped"), JOB)) == [0, 0]
    for file in ("last.pt", "best.pt"):
        same(content(folder / "whole" / file), content(folder / "stopped" / file))
    assert (folder / "stopped" / "results.json").read_text() == (folder / "whole" / "results.json").read_text()


def test_a_multirun_trains_run_by_run_and_tells_a_mistake_once(corpus, tmp_path):
    """The second of three has no data; all processes go on to the third."""
    parts = "data.train=[train-clean-100],[train-clean-7],[train-clean-360]"
    done, _ = torchrun(corpus, tmp_path, "-m", "asr.train", "-m", parts, *overrides(corpus, tmp_path), "workers=1")
    assert done.returncode
    assert (done.stdout + done.stderr).count("error: part 'train-clean-7' has no index") == 1
    assert len(list((tmp_path / "outputs" / "runs").glob("*/results.json"))) == 2
    assert done.stdout.count("best.pt on the test parts") == 2
