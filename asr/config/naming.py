"""Name runs and studies, and give the command that repeats a run."""

import re
import shlex
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig

from asr.settings import within

LONGEST_NAME = 150  # characters; file systems allow 255 bytes for one name


# Settings that change how a run is carried out, not what it computes: they are not part of its name.
EXECUTION_KEYS = ("dry_run", "fresh", "workers", "tracking", "output_dir", "sweep", "launcher",
                  "checkpoint.every_minutes", "rehearse")  # fmt: skip
# Settings in which runs that train the same may differ: `decode` counts in the end, and the last two decide only
# through batch.utterances.
NOT_COMPARED = (*EXECUTION_KEYS, "decode", "batch.at_full_scale", "batch.divided_by")


class Job(NamedTuple):
    """A run as it was called: the option of each group ("" for none), and the command that repeats it."""

    name: str
    choices: dict[str, str]
    overrides: list[str]
    command: str


def current_job(module: str, groups: Sequence[str]) -> Job:
    """Return the job that Hydra is running, with the command that repeats it, outside of its sweep too."""
    hydra = HydraConfig.get()
    choices = {group: str(hydra.runtime.choices.get(group) or "") for group in groups}
    overrides = identifying_overrides(list(hydra.overrides.task))
    return Job(run_name(overrides), choices, overrides, shell_command(module, overrides))


def shell_command(module: str, overrides: Sequence[str]) -> str:
    """Return the command that runs a module with these overrides and the --config-dir of this process."""
    hydra: Any = HydraConfig.instance().cfg
    return shlex.join(["python", "-m", module, *(config_flags(hydra.hydra) if hydra else []), *overrides])


def config_flags(hydra: Any, **flags: str) -> list[str]:
    """Return the --config-dir that Hydra was called with, and the flags of other providers of config files."""
    flags = {"command-line": "--config-dir", **flags}
    sources = [source for source in hydra.runtime.config_sources if source.provider in flags]
    return [part for source in sources for part in (flags[source.provider], source.path)]


def override_key(override: str) -> str:
    """Return the key of KEY=VALUE, +KEY=VALUE or ~KEY."""
    return override.lstrip("+~").partition("=")[0]


def identifying_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that decide what a run computes: experiment and scale first, the others sorted by name.

    Sorting is stable, so the last of two values for one key still wins.
    """
    order = {"experiment": 0, "scale": 1}
    kept = [override for override in overrides if not within(override_key(override), EXECUTION_KEYS)]
    return sorted(kept, key=lambda override: (order.get(override_key(override), 2), override_key(override)))


def run_name(overrides: Sequence[str], experiment: str | None = None) -> str:
    """Return the name of a run's directory, by its overrides, or by those with another experiment.

    It has no character that is special to Hydra or a shell, since paths of checkpoints are typed in commands.
    """
    if experiment:
        kept = [override for override in overrides if override_key(override) not in ("experiment", "init_from")]
        overrides = [f"experiment={experiment}", *kept]
    parts = []
    for override in identifying_overrides(overrides):
        key, value = override_key(override), override.partition("=")[2]
        # A path is named by its last folder, and a checkpoint by its file too, since every run has a best.pt. Runs
        # whose names are still equal are distinguished when their configs are compared.
        value = "-".join(value.rstrip("/").split("/")[-2 if value.endswith(".pt") else -1 :])
        parts.append(value if key == "experiment" else f"{key}-{value}")
    name = re.sub(r"[^\w.+-]+", "_", "+".join(parts)) or "default"
    if len(name) > LONGEST_NAME:
        digest = blake2b(name.encode(), digest_size=4).hexdigest()
        name = f"{name[: LONGEST_NAME - 9]}-{digest}"
    return name


def study_name(name: str | None, search: str, overrides: Sequence[str]) -> str:
    """Return the name of a study's directory: the given one, or one by the settings that decide its trials."""
    rest = ("search", *(f"study.{key}" for key in ("name", "storage", "trials", "heartbeat_seconds", "retries")))
    kept = [override for override in overrides if override_key(override) not in rest]
    return (str(name or "") or f"{search}+{run_name(kept)}".removesuffix("+default")).replace("/", "_")
