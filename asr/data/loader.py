"""Batches from a dataset, read by worker processes."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from lhotse import CutSet
from lhotse.dataset.sampling import SimpleCutSampler
from torch.utils.data import DataLoader

from asr.data.batches import SINGLE, WHOLE, Passes, PassSampler, Position, Share
from asr.data.dataset import Batch, UtteranceDataset
from asr.errors import InputError


def training_batches(
    dataset: UtteranceDataset,
    passes: Passes,
    start: Position,
    workers: int,
    pin_memory: bool,
    share: Share = WHOLE,
) -> Iterator[Batch]:
    """Batches without end, from `start` on, one piece after the other; the same for any number of workers."""
    return _load(dataset, PassSampler(passes, start, share), workers, pin_memory)


def evaluation_batches(
    dataset: UtteranceDataset, cuts: CutSet, seconds: float, workers: int, pin_memory: bool, share: Share = WHOLE
) -> Iterator[Batch]:
    """Every cut once, in batches of like length, at most so many seconds with padding (one utterance at the least).

    A process gets every processes-th batch, all of it.
    """
    by_length = cuts.sort_by_duration(ascending=False)
    sampler = SimpleCutSampler(by_length, max_duration=seconds, shuffle=False, **SINGLE)
    numbered = [(Position(0, index), list(batch)) for index, batch in enumerate(sampler)]
    return _load(dataset, numbered[share.rank :: share.processes], workers, pin_memory)


def _load(dataset: UtteranceDataset, sampler: Iterable, workers: int, pin_memory: bool) -> Iterator[Batch]:
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,  # type: ignore[arg-type]
        num_workers=workers,
        # Named, since in joblib's processes the default is one that torch cannot use.
        multiprocessing_context="fork" if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else it draws from the global one, which dropout uses
        worker_init_fn=partial(_leave_signals_to_main, os.getpid()),
    )
    with _signals_held_back():  # a worker is born with this, so that none reaches it before it is ready for them
        items = iter(loader)
    for item in items:
        if isinstance(item, InputError):
            raise item
        yield item


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """SIGINT and SIGTERM come when it is over."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals_to_main(main: int, worker_id: int) -> None:
    """Ctrl-C and Slurm's SIGTERM reach every process, but the main one wants its batches until it has saved its state.

    A worker ends by a SIGTERM of the main process itself, which Python and PyTorch send at their end, or without it.
    main: its process id; a worker that asked for its parent could be too late
    """
    # Blocked, not ignored: an ignored SIGTERM could not be asked who sent it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    threading.Thread(target=_obey_main, args=[main], daemon=True).start()


def _obey_main(main: int) -> None:
    while os.getppid() == main:
        received = signal.sigtimedwait([signal.SIGTERM], 1)
        if received and received.si_pid == main:
            break
    os._exit(0)
