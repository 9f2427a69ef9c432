"""What torchrun starts in tests: asr.train with something that happens to one of the processes.

HAPPENS=kill:1:7     rank 1 is killed in its seventh update
HAPPENS=SIGTERM:0:7  rank 0 gets a SIGTERM there
"""

import os
import signal

import torch

from asr import train

what, rank, count = os.environ["HAPPENS"].split(":")
calls, real = iter(range(1, 1000)), torch.optim.AdamW.step


def step(*arguments):
    if next(calls) == int(count) and os.environ["RANK"] == rank:
        os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.Signals[what])
    return real(*arguments)


if __name__ == "__main__":
    torch.optim.AdamW.step = step
    train.main()
