"""Which classes a config that somebody else wrote may build: those of a recogniser, and nothing that acts."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from asr.errors import InputError

# By the module in which a thing is defined, not by the path that names it: asr.cli.os.system is os.system.
ALLOWED = ("asr", "torch.nn", "torch.optim", "audiomentations", "torchaudio.transforms")


def refuse_foreign_targets(config: Any, source: str) -> None:
    """InputError for the first _target_ in a config from `source` that is no class of ALLOWED, or schedule of ours."""
    for target in _targets(config):
        if not _is_allowed(target):
            raise InputError(
                f"{source}: its config builds {target!r}. From a file only classes of {', '.join(ALLOWED)} are built, "
                "since anything else could run any code; use a checkpoint that you trust, trained with those"
            )


def _targets(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)


def _is_allowed(target: Any) -> bool:
    """Nothing outside the packages of ALLOWED is imported to find out."""
    if not isinstance(target, str) or not _within(target, ALLOWED):
        return False
    found = _locate(target)
    if isinstance(found, type):
        return _within(found.__module__, ALLOWED)
    return callable(found) and getattr(found, "__module__", None) == "asr.optim"


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _locate(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(import_module(module), name, None)
    except (ImportError, ValueError):
        return None
