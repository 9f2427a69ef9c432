"""Load batches of a dataset in worker processes."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch.utils.data import DataLoader

from asr.corpora.manifest import Utterances
from asr.data.batches import WHOLE, EpochBatches, Position, Shard, fill, micro_batches
from asr.data.dataset import Batch, UtteranceDataset
from asr.errors import InputError


def training_batches(
    dataset: UtteranceDataset,
    batches: EpochBatches,
    start: Position,
    workers: int,
    pin_memory: bool,
    shard: Shard = WHOLE,
) -> Iterator[Batch]:
    """Yield the micro-batches of a shard from `start` on, without end; they are the same for any number of workers."""
    return _load(dataset, micro_batches(batches, start, shard), workers, pin_memory)


def evaluation_batches(
    dataset: UtteranceDataset,
    utterances: Utterances,
    seconds: float,
    workers: int,
    pin_memory: bool,
    shard: Shard = WHOLE,
) -> Iterator[Batch]:
    """Yield every utterance once, in batches of similar length.

    seconds: the most audio in a batch, with padding; a batch has one utterance at least
    shard:   a process gets every processes-th batch, undivided
    """
    rows = fill(np.argsort(-utterances.seconds, kind="stable"), utterances.seconds, seconds)
    numbered = ((Position(0, index), utterances.rows(rows[index])) for index in range(len(rows)))
    return _load(dataset, islice(numbered, shard.rank, None, shard.processes), workers, pin_memory)


def _load(dataset: UtteranceDataset, sampler: Iterable, workers: int, pin_memory: bool) -> Iterator[Batch]:
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,  # type: ignore[arg-type]
        num_workers=workers,
        # joblib's processes have another default, which torch cannot use.
        multiprocessing_context="fork" if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else it draws from the global one, which dropout uses
        worker_init_fn=partial(leave_signals_to_main, os.getpid()),
    )
    with _signals_held_back():  # workers inherit this, so that no signal reaches one that is not ready
        items = iter(loader)
    try:
        for item in items:
            if isinstance(item, InputError):
                raise item
            yield item
    except (ConnectionError, EOFError, FileNotFoundError) as error:  # torch misses a death while a batch is handed over
        raise RuntimeError(f"DataLoader worker has died: {error}") from error


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_main(main: int, worker_id: int) -> None:
    """Let a worker ignore Ctrl-C and Slurm's SIGTERM, which reach every process of a run.

    The main process needs its batches until it has saved its state. A worker ends when the main process itself sends it
    SIGTERM, as Python and PyTorch do at their end, or has ended.
    main: the id of the main process, which may have ended before a worker can ask for its parent
    """
    # Blocked, not ignored: sigtimedwait then says who sent it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    threading.Thread(target=_obey_main, args=[main], daemon=True).start()


def _obey_main(main: int) -> None:
    while os.getppid() == main:
        received = signal.sigtimedwait([signal.SIGTERM], 1)
        if received and received.si_pid == main:
            break
    os._exit(0)
