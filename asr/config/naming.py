"""How runs and studies are named, and the command that repeats a run."""

import re
import shlex
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig

from asr.settings import within

LONGEST_NAME = 150  # characters; file systems allow 255 bytes for one name


# Settings that change how a run is carried out, not what it computes: no part of its name or its identity.
EXECUTION_KEYS = ("dry_run", "fresh", "workers", "tracking", "output_dir", "sweep", "launcher",
                  "checkpoint.every_minutes", "rehearse")  # fmt: skip


class Job(NamedTuple):
    """A run as it was called: choices by group ("" for none), and its command, which makes it again on its own."""

    name: str
    choices: dict[str, str]
    overrides: list[str]
    command: str


def current_job(module: str, groups: Sequence[str]) -> Job:
    """The job that Hydra is running; one of a sweep is told as the command for it alone."""
    hydra = HydraConfig.get()
    choices = {group: str(hydra.runtime.choices.get(group) or "") for group in groups}
    overrides = identity(list(hydra.overrides.task))
    return Job(run_name(overrides), choices, overrides, shlex.join(["python", "-m", module, *overrides]))


def identity(overrides: Sequence[str]) -> list[str]:
    """The overrides that decide what a run computes: experiment and scale first, then by name, whatever the order was.

    (Sorting is stable, so of two values for one key the last still wins.)
    """
    order = {"experiment": 0, "scale": 1}
    keys = [override.lstrip("+").partition("=")[0] for override in overrides]
    kept = [(key, o) for key, o in zip(keys, overrides, strict=True) if not within(key, EXECUTION_KEYS)]
    return [override for key, override in sorted(kept, key=lambda pair: (order.get(pair[0], 2), pair[0]))]


def run_name(overrides: Sequence[str], experiment: str | None = None) -> str:
    """A directory's name from a command's overrides, or from those with another experiment.

    It holds no character that Hydra or a shell would take for its own: the paths of checkpoints are typed in commands.
    """
    if experiment:
        kept = [override for override in overrides if not override.startswith(("experiment=", "init_from="))]
        overrides = [f"experiment={experiment}", *kept]
    parts = []
    for override in identity(overrides):
        key, _, value = override.lstrip("+").partition("=")
        # A path tells enough by its last folder, a checkpoint (every run has a best.pt) with the one before. Two
        # that end alike are told apart when their configs are compared.
        value = "-".join(value.rstrip("/").split("/")[-2 if value.endswith(".pt") else -1 :])
        parts.append(value if key == "experiment" else f"{key}-{value}")
    name = re.sub(r"[^\w.+-]+", "_", "+".join(parts)) or "default"
    if len(name) > LONGEST_NAME:
        digest = blake2b(name.encode(), digest_size=4).hexdigest()
        name = f"{name[: LONGEST_NAME - 9]}-{digest}"
    return name


def study_name(name: str | None, search: str, overrides: Sequence[str]) -> str:
    """The directory of a study: by the name that was given, or by what decides which trials it makes."""
    rest = {"search", *(f"study.{key}" for key in ("name", "storage", "trials", "heartbeat_seconds", "retries"))}
    kept = [override for override in overrides if override.lstrip("+~").partition("=")[0] not in rest]
    return (str(name or "") or f"{search}+{run_name(kept)}".removesuffix("+default")).replace("/", "_")
