"""The loader's workers leave signals to the main process, and end when it ends, however that happens."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from conftest import ROOT

BOUND_SECONDS = 10
TRAINING = """
import signal, sys
from asr.corpora.manifest import Utterance, Utterances
from asr.data.augment import Augment
from asr.data.batches import EpochBatches, Position
from asr.data.dataset import UtteranceDataset
from asr.data.features import LogMel
from asr.data.loader import training_batches
from asr.data.text import Alphabet

got = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: got.append(number))
utterances = Utterances.of([Utterance(name, "hello", "u.wav", 8000, 16000) for name in "abcd"], ".")
features = LogMel(16000, 400, 200, 8, None, 1e-5, "none")
dataset = UtteranceDataset(Alphabet(" ehlo"), features, Augment(), seed=0)
batches = EpochBatches(utterances, Augment(), 0, 2, None, 1)
batches = training_batches(dataset, batches, Position(0, 0), 2, False)
next(batches)
print("training", flush=True)
while len(got) < 2:
    next(batches)
for _ in range(50):  # more than what lies in the queues: the workers go on
    next(batches)
print("saved", flush=True)
if sys.argv[1] == "fail":
    sys.modules["kept"] = batches  # as a traceback may keep it
    raise RuntimeError("a mistake")
"""


@pytest.fixture
def start(tmp_path: Path):
    """Starts the script above in a process group of its own, with two workers; kills what a test leaves."""
    soundfile.write(tmp_path / "u.wav", np.full(8000, 0.1), 16_000)
    groups = []

    def call(end: str) -> tuple[subprocess.Popen, list[psutil.Process]]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", TRAINING, end],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=tmp_path,
            env=environment,
        )
        groups.append(process.pid)
        assert process.stdout is not None
        assert process.stdout.readline() == "training\n"
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) == 2
        return process, workers

    yield call
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def ended(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=BOUND_SECONDS)[1]


@pytest.mark.parametrize("end", ["return", "fail"])
def test_signals_to_the_whole_group_stop_no_worker_and_all_end_with_the_main_process(end: str, start) -> None:
    """As Ctrl-C and Slurm send them. The workers end as well where a traceback keeps the loader alive."""
    process, workers = start(end)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.killpg(process.pid, number)
    out, errors = process.communicate(timeout=BOUND_SECONDS)
    assert (out, process.returncode) == ("saved\n", 1 if end == "fail" else 0), errors
    assert errors.count("Traceback") == (1 if end == "fail" else 0), errors
    assert ended(workers)


def test_the_workers_end_when_the_main_process_is_killed(start) -> None:
    process, workers = start("return")
    process.kill()
    assert ended(workers)


def test_a_worker_that_comes_up_after_its_main_process_was_killed_ends() -> None:
    """Its parent is another process by then, as that of this one is not the process 0."""
    late = "import time; from asr.data.loader import leave_signals_to_main as init; init(0, 0); time.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    late_worker = subprocess.run([sys.executable, "-c", late], env=environment, timeout=30)
    assert late_worker.returncode == 0
