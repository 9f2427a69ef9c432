"""SIGINT (Ctrl-C) and SIGTERM (Slurm, kill) as an exception, which inside `deferred` waits for the next batch."""

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
LAUNCHER = "ASR_LAUNCHER"  # the environment variable with the id of the process that this one must not outlive


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop. exit_code: 128 + the signal's number, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number: int = number
        self.exit_code = 128 + number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


class StopRequest:
    """The signal that came inside `deferred`; 0 while there was none."""

    def __init__(self) -> None:
        self.number = 0

    def remember(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: the first signal waits for the next batch, one more stops at once, within a step."""
        if self.number:
            raise KeyboardInterrupt  # no Interrupted: what is half done must not be saved
        self.number = number

    def heeded(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; raises Interrupted in place of the next one, before it is asked for."""
        source = iter(items)
        while not self.number:
            try:
                item = next(source)
            except StopIteration:
                return
            yield item
        raise Interrupted(self.number)


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal handler: stops at once."""
    raise Interrupted(number)


def stop_at_once_on_sigterm() -> None:
    """As on Ctrl-C, so that what is open can be closed; a launcher's own handler is left as it is."""
    if in_main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, interrupt)


def stop_without(parent: int) -> None:
    """From now on this process is stopped, as by SIGTERM, when that parent of it is gone; kill -9 tells nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def deferred(agree: Callable[[int], int] = int) -> Iterator[StopRequest]:
    """Inside, both signals are remembered; whoever iterates over `heeded` items stops between two of them.

    agree:  from the signal of this process, or 0, to that of all processes
    raises: Interrupted at its end, if a signal came after the last item
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
    """Whether this thread may set signal handlers."""
    return threading.current_thread() is threading.main_thread()
