"""How much memory a process may take and keeps, and how running out of it is explained."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import torch

from asr.errors import InputError, first_line, mask

if TYPE_CHECKING:  # every command explains lost memory, and few need the data's packages
    from asr.data.dataset import Batch

# Words of torch where the exception has no type of its own: on a CPU, on MPS, and from cuDNN or cuBLAS.
MESSAGES = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
TRAINING_SETTINGS = "batch.utterances (batch.seconds where batches are of like length) or data.max_seconds"
EVALUATION_SETTINGS = "batch.eval_seconds (eval_seconds of asr.evaluate)"


@contextmanager
def out_of_memory_explained(
    batch: Batch, device: torch.device, bf16: bool, what: str = "a batch", settings: str = TRAINING_SETTINGS
) -> Iterator[None]:
    """Turn running out of memory into an InputError that describes the batch and names the settings to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        count, padded = len(batch.ids), batch.seconds / (1 - batch.padding_share)
        ids = ", ".join(batch.ids[:3] + ["..."] * (count > 3))
        advice = settings if bf16 or device.type == "cpu" else f"{settings}, or set precision=bf16"
        raise InputError(
            f"{what} does not fit into the memory of {device} ({first_line(error)}): {count} utterances ({ids}), the "
            f"longest of {padded / count:.1f} s, {padded:.0f} s in all with padding. Lower {advice}"
        ) from error


def explain_lost_memory(error: Exception) -> str:
    """Return a paragraph on a process, or one that reads data for it, that ran out of memory; "" for other errors."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].startswith("DataLoader worker"):  # torch's words for one that has died
        problem = f"a process that reads data has died ({lines[0].strip(' .')}), as when memory runs out"
    elif is_out_of_memory(error):
        problem = f"the memory does not suffice ({mask(lines[-1])})"
    else:
        return ""
    return (
        f"{problem}. Lower the batch (batch.utterances or batch.seconds, data.max_seconds), the model, the number of "
        "workers or the size of the features; the same command resumes from its last checkpoint"
    )


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a library's exception means that memory ran out."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(message in str(error) for message in MESSAGES)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next tensors: new pages for each cost a training up to a sixth of its time.

    source: mallopt(3)
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_max = -1, -4
        library.mallopt(mmap_max, 0)
        library.mallopt(trim_threshold, 2**31 - 1)


def limit_memory() -> None:
    """Let this process take no more memory than is free now, so that an absurd setting ends it and not the machine.

    A limit that the user has set is kept. CUDA's driver reserves more addresses than there is memory: no limit there.
    source: setrlimit(2), RLIMIT_DATA
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if sys.platform == "linux" and soft == resource.RLIM_INFINITY and not torch.cuda.is_available():
        free = psutil.virtual_memory().available + psutil.Process().memory_info().data
        resource.setrlimit(resource.RLIMIT_DATA, (free, hard))
