"""Where, how precisely and with whom a model runs."""

import platform
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from asr.errors import InputError, first_line
from asr.training.distributed import SINGLE_PROCESS, World


def processor() -> str:
    """Return the CPU's name."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def find_device(name: str) -> torch.device:
    """Return the device of a name, or for auto CUDA if there is one; InputError if torch cannot use it."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device={name}: torch cannot use it ({first_line(error)}); device=cpu always works"
        ) from error
    return device


@dataclass(frozen=True)
class Compute:
    """Where, how precisely and with whom the model runs: bf16 is autocast, with the loss in float32."""

    device: torch.device
    bf16: bool
    world: World = SINGLE_PROCESS

    @property
    def pin_memory(self) -> bool:
        """Return whether batches are loaded into page-locked memory, from which CUDA copies them faster."""
        return self.device.type == "cuda"

    def describe(self) -> str:
        """Return the device, the precision and the number of processes, to print."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            threads = torch.get_num_threads()
            name = f"{processor()}, {threads} thread{'s' if threads > 1 else ''}"
        processes = f", {self.world.size} processes" if self.world.size > 1 else ""
        return f"{self.device} ({name}), {'bf16' if self.bf16 else 'float32'}{processes}"

    def autocast(self) -> AbstractContextManager:
        """Return the context of every forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)
