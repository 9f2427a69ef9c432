"""SIGINT (Ctrl-C) and SIGTERM (Slurm, kill) as an exception that waits for the end of a batch."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")
SIGNALS = (signal.SIGINT, signal.SIGTERM)
LAUNCHER = "ASR_LAUNCHER"  # environment variable: id of the process that this one must not outlive


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to stop. exit_code: 128 + the signal's number, as in shells."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number: int = number
        self.exit_code = 128 + number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


class StopRequest:
    """The number of the first signal that came inside `deferred`; 0 before."""

    def __init__(self) -> None:
        self.number = 0

    def remember(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first waits for the end of the batch, a second one stops at once."""
        if self.number:
            raise KeyboardInterrupt  # not Interrupted: what is half done must not be saved
        self.number = number

    def heeded(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; raise Interrupted in place of the next one after a signal."""
        source = iter(items)
        while not self.number:
            try:
                item = next(source)
            except StopIteration:
                return
            yield item
        raise Interrupted(self.number)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal by stopping at once."""
    raise Interrupted(number)


def stop_at_once_on_sigterm() -> None:
    """Handle SIGTERM like Ctrl-C, so that what is open can be closed; a launcher's own handler stays."""
    if in_main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, interrupt)


def stop_without(parent: int) -> None:
    """Stop this process as by SIGTERM when its parent has ended: one that is killed by -9 cannot tell its children."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def deferred(agree: Callable[[int], int] = int) -> Iterator[StopRequest]:
    """Remember signals inside the block; whoever iterates over `heeded` items stops between two of them.

    agree:  maps the signal of this process, or 0, to that of all processes
    raises: Interrupted at the end of the block, if a signal came after the last item
    """
    request = StopRequest()
    if not in_main_thread():  # only there can Python handle signals
        yield request
        return
    before = {number: signal.signal(number, request.remember) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if agreed := agree(request.number):
        raise Interrupted(agreed)


def in_main_thread() -> bool:
    """Return whether this thread may set signal handlers."""
    return threading.current_thread() is threading.main_thread()
