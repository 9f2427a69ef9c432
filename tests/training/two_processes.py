"""What torchrun starts in tests: asr.train, of which the process of rank 1 is killed in its fourth update."""

import os
import signal
from collections.abc import Callable

from torch import nn

from asr import train


def happens(what: Callable[[], None], rank: int, count: int) -> None:
    """In the process of that rank, in its so manyth update: the gradient is there, the weights are not changed yet."""
    calls, real = iter(range(1, 1000)), nn.utils.clip_grad_norm_

    def clip(*arguments):
        if next(calls) == count and os.environ["RANK"] == str(rank):
            what()
        return real(*arguments)

    nn.utils.clip_grad_norm_ = clip


if __name__ == "__main__":
    happens(lambda: os.kill(os.getpid(), signal.SIGKILL), rank=1, count=4)
    train.main()
