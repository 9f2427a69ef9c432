"""Training in several processes, started by torchrun. A single process is a world of size 1, without a group."""

import os
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
STEP = timedelta(seconds=60)  # for which a process may keep the others waiting within a training step
WORK = timedelta(hours=1)  # and elsewhere, as when the main process writes a checkpoint
# Words of torch's backends when another process has ended or is late.
LOST = ("gloo", "nccl", "Connection closed", "Connection reset", "imed out", "Broken pipe")


@dataclass(frozen=True)
class World:
    """The processes that train together.

    rank:       number of this process; 0 is the main one, which alone writes and prints
    size:       number of processes
    local_rank: number of this process on its machine
    steps:      process group with the timeout of a training step; None in a single process
    """

    rank: int
    size: int
    local_rank: int
    steps: Any = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def max(self, number: int) -> int:
        """Return the largest number of all processes, without waiting for a GPU."""
        if self.size == 1:
            return number
        tensor = torch.tensor(number)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.steps)
        return int(tensor)

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes, on the device."""
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
        """Wait for all processes at the end of the block; raise in each of them what any of them raised inside.

        raises: the InputError or Interrupted of the first process that had one. Only the main process reports an
                InputError: the others raise a ToldError
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
        """Let batch norm's statistics be those of all processes."""
        if self.size > 1:
            for module in model.modules():
                if isinstance(module, MaskedBatchNorm2d):
                    module.total = self.total

    def share_buffers(self, model: nn.Module) -> None:
        """Copy the main process's buffers, batch norm's running statistics, to all processes."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    @contextmanager
    def explain_lost_ranks(self) -> Iterator[None]:
        """End this process with a paragraph when another one has ended or hangs; the lost one may be the main one."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not any(word in str(error) for word in LOST):
                raise
            sys.stderr.write(  # with its line break, which print writes by itself, after another process's line
                f"error: process {self.rank} of {self.size} has lost another one ({first_line(error)}): it has ended, "
                f"or kept this one waiting in a step for more than {STEP.seconds} s. Its own message, if any, is "
                "nearby or in its machine's log. Rerun the command to resume from the last checkpoint\n"
            )
            ignore_torchrun()
            raise SystemExit(2) from error


SINGLE_PROCESS = World(rank=0, size=1, local_rank=0)


def processes() -> int:
    """Return how many processes torchrun has started, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this process prints what all of them have to say."""
    return processes() == 1 or os.environ["RANK"] == "0"


@cache
def init_distributed() -> World:
    """Join the other processes, if any, and return the world; the first call waits for all of them.

    source: torch.distributed, "Environment variable initialization", as torchrun sets them
    """
    if processes() == 1:
        return SINGLE_PROCESS
    if dist.is_torchelastic_launched():
        stop_without(os.getppid())
    # With gloo beside NCCL the hosts can agree without waiting for their GPUs.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=WORK)
    steps = dist.new_group(timeout=STEP)
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]), steps)


def unsynchronised(model: nn.Module) -> AbstractContextManager[None]:
    """Let backward passes add to this process's own gradient only, without an all-reduce."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def leave_after_main() -> None:
    """Wait for the main process to end, since torchrun stops all others as soon as one has ended with an error."""
    if dist.is_initialized():
        ignore_torchrun()
        if dist.get_rank() > 0:
            with suppress(RuntimeError):  # it sends nothing; its end closes the connection
                dist.recv(torch.zeros(1), src=0)


def ignore_torchrun() -> None:
    """Ignore torchrun's SIGTERM in a process that is about to end by itself."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
