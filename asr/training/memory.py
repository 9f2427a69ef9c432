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

from asr.errors import InputError, mask

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
    """Turn running out of memory into an InputError that describes the batch; leave every other error as it is.

    what:     name of the batch in the message
    settings: settings that make a batch smaller
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = f"Lower {settings}"
        if not bf16 and device.type != "cpu":
            advice += ", or set precision=bf16"
        raise InputError(
            f"{what} does not fit into the memory of {device}: {describe(batch)}. {held(device)}. {advice}"
        ) from error


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next tensors: new pages for each cost a training up to a sixth of its time.

    The process then holds the most that it ever needed. Other C libraries are left as they are.
    source: mallopt(3)
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_max = -1, -4
        library.mallopt(mmap_max, 0)
        library.mallopt(trim_threshold, 2**31 - 1)


def limit_memory() -> None:
    """Let this process take no more memory than is free now, so that an absurd setting ends it and not the machine.

    A limit that the user has set stays. Where there is CUDA nothing is limited, since its driver reserves more
    addresses than there is memory.
    source: setrlimit(2), RLIMIT_DATA
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if sys.platform == "linux" and soft == resource.RLIM_INFINITY and not torch.cuda.is_available():
        free = psutil.virtual_memory().available + psutil.Process().memory_info().data
        resource.setrlimit(resource.RLIMIT_DATA, (free, hard))


def explain_lost_memory(error: Exception) -> str:
    """Return a paragraph on a process, or one that reads data for it, that ran out of memory; "" for other errors."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    way_out = (
        "Lower the batch (batch.utterances or batch.seconds, data.max_seconds), the model, the number of workers or "
        "the size of the features; the same command resumes from its last checkpoint"
    )
    if lines[0].startswith("DataLoader worker"):  # torch's words for one that has died
        return f"a process that reads data has died ({lines[0].strip(' .')}), as when memory runs out. {way_out}"
    if not is_out_of_memory(error):
        return ""
    cpu = torch.device("cpu")
    return f"the memory does not suffice ({mask(lines[-1])}). {held(cpu)}. {way_out}"


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a library's exception means that memory ran out."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(message in str(error) for message in MESSAGES)


def describe(batch: Batch) -> str:
    """Return a batch's utterances, and the seconds of the longest and of all with padding."""
    count = len(batch.ids)
    padded = batch.seconds / (1 - batch.padding_share)
    ids = ", ".join(batch.ids[:3]) + (", ..." if count > 3 else "")
    utterances = "1 utterance" if count == 1 else f"{count} utterances"
    return f"{utterances} ({ids}), the longest of {padded / count:.1f} s, {padded:.0f} s in all with padding"


def held(device: torch.device) -> str:
    """Return how much memory a device has, and who holds it."""
    gib = 2**30
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        own = torch.cuda.memory_reserved(device)
        return f"It has {total / gib:.1f} GiB: torch holds {own / gib:.1f}, {free / gib:.1f} are free"
    memory = psutil.virtual_memory()  # of MPS too: it has no memory of its own
    own = psutil.Process().memory_info().rss
    total, free = memory.total, memory.available
    return f"It has {total / gib:.1f} GiB: this process holds {own / gib:.1f}, {free / gib:.1f} are free"
