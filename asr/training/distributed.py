"""The processes of a training that torchrun started: which one this is, and what they settle among themselves.

A training in one process is a world of one: it gets back what it gives, and needs no process group.
"""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from asr.errors import InputError, ToldError, first_line
from asr.models.batch_norm import MaskedBatchNorm2d
from asr.training.signals import Interrupted, stop_without

T = TypeVar("T")
STEP = timedelta(seconds=60)  # how long one process may let the others wait within a training step
WORK = timedelta(hours=1)  # and elsewhere, where the main process works alone: MLflow's start, checkpoints
# What torch's backends say when a process of theirs is gone or late.
LOST = ("gloo", "nccl", "Connection closed", "Connection reset", "imed out", "Broken pipe")


@dataclass(frozen=True)
class World:
    """rank: this process, from 0, the main one, which alone writes and tells; local_rank: the same on its machine.

    size:  how many there are
    steps: the process group of training steps; None in a world of one
    """

    rank: int
    size: int
    local_rank: int
    steps: Any = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, number: int) -> int:
        """Over all processes, by their hosts: no GPU is waited for."""
        return self._reduced(number, dist.ReduceOp.SUM)

    def max(self, number: int) -> int:
        """As sum."""
        return self._reduced(number, dist.ReduceOp.MAX)

    def _reduced(self, number: int, operation: Any) -> int:
        if self.size == 1:
            return number
        tensor = torch.tensor(number)
        dist.all_reduce(tensor, operation, group=self.steps)
        return int(tensor)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, on the device."""
        if self.size > 1:
            dist.all_reduce(tensor := tensor.clone(), group=self.steps)
        return tensor

    def gather(self, item: T, group: Any = None) -> list[T]:
        """Return what each process gives, in the order of their ranks."""
        items: list[Any] = [item] * self.size
        if self.size > 1:
            dist.all_gather_object(items, item, group)
        return items

    @contextmanager
    def errors_shared(self) -> Iterator[None]:
        """Wait for all processes at the end of the block, and raise in each of them what any has raised inside.

        raises: the InputError or Interrupted of the first process that had one; as a ToldError where the main process
                reports it
        """
        failure: InputError | Interrupted | None = None
        try:
            yield
        except (InputError, Interrupted) as error:
            if self.size == 1:
                raise
            failure = error
        failures = [error for error in self.gather(failure) if error]
        if failures and (self.is_main or isinstance(failures[0], Interrupted)):
            raise failures[0]
        if failures:
            raise ToldError from failure

    def synchronise_batch_norm(self, model: nn.Module) -> None:
        """Its statistics are then those of all processes."""
        if self.size > 1:
            for module in model.modules():
                if isinstance(module, MaskedBatchNorm2d):
                    module.total = self.total

    def share_buffers(self, model: nn.Module) -> None:
        """Everywhere those of the main process: batch norm's running statistics, after a step its own in each."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    @contextmanager
    def explain_lost_ranks(self) -> Iterator[None]:
        """End this process with a paragraph when another one has ended or hangs.

        Each process reports it: the main one may be what is lost.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not any(word in str(error) for word in LOST):
                raise
            # Without gloo's line of code before it and its advice after it.
            reason = re.sub(r"^\[\S+\] ", "", first_line(error)).split(". ")[0]
            print(
                f"error: process {self.rank} of {self.size} has lost another one: {reason}. One has ended, or let this "
                f"one wait in a step for longer than {STEP.seconds} s; what it said itself, if anything, stands near "
                "this or in its machine's log. The same command goes on from the last checkpoint",
                file=sys.stderr,
            )
            ignore_torchrun()
            raise SystemExit(2) from error


SINGLE_PROCESS = World(rank=0, size=1, local_rank=0)


def processes() -> int:
    """How many torchrun has started, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this one is to tell what all of them say."""
    return processes() == 1 or os.environ["RANK"] == "0"


@cache
def init_distributed() -> World:
    """The world of this process; the first call waits for all others.

    source: torch.distributed, "Environment variable initialization", as torchrun sets them
    """
    if processes() == 1:
        return SINGLE_PROCESS
    if dist.is_torchelastic_launched():
        stop_without(os.getppid())
    # With gloo beside NCCL the hosts can settle things without their GPUs.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=WORK)
    steps = dist.new_group(timeout=STEP)
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]), steps)


def unsynchronised(model: nn.Module) -> AbstractContextManager[None]:
    """Inside, a backward pass only adds to this process's own gradient."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def leave_after_main() -> None:
    """Waits for the main process to end: when one has ended with an error, torchrun gives the others no more time."""
    if dist.is_initialized():
        ignore_torchrun()
        if dist.get_rank() > 0:
            with suppress(RuntimeError):  # it sends nothing; its end closes the connection
                dist.recv(torch.zeros(1), src=0)


def ignore_torchrun() -> None:
    """For a process that is about to end: torchrun's SIGTERM, since another has ended, would only cut that short."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
