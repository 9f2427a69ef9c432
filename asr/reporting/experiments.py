"""The experiments, augmentations and sweeps that conf/ has, and what their files say of themselves."""

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from asr.cli import CONF
from asr.errors import InputError


@dataclass(frozen=True)
class Experiment:
    """An experiment of conf/experiment.

    about:   the first comment of its file
    augment: the augmentation that it trains with unless augment= says otherwise
    """

    about: str
    augment: str


def config_folders() -> list[Path]:
    """Return conf/ and the folders that --config-dir and hydra.searchpath add to it."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    return [CONF, *(folder for folder in folders if folder != CONF)]


def find_option(group: str, name: str, named_by: str) -> Path:
    """Return the file of an option such as experiment=exp1; InputError, beginning with named_by, if there is none."""
    files = {path.stem: path for folder in config_folders() for path in sorted((folder / group).glob("*.yaml"))}
    if name not in files:
        near = get_close_matches(name, files, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise InputError(
            f"{named_by}: there is no {group} {name!r}{hint} There are: {', '.join(files)}. A new one is a file "
            f"{group}/NAME.yaml in conf/ or in the folder of --config-dir"
        )
    return files[name]


def load_experiments(names: Sequence[str], named_by: str) -> dict[str, Experiment]:
    """Return the experiments of these names, in this order."""
    files = {name: find_option("experiment", name, named_by) for name in names}
    folders = tuple(config_folders())
    return {name: Experiment(_first_comment(file), _augment(name, folders)) for name, file in files.items()}


@cache
def _augment(experiment: str, folders: tuple[Path, ...]) -> str:
    """Return the choice of augment= in the experiment's training, as Hydra composes it."""
    searchpath = ",".join(f"'file://{folder.resolve()}'" for folder in folders[1:])
    running = GlobalHydra.instance().is_initialized()  # within a command
    with nullcontext() if running else initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [f"experiment={experiment}", f"hydra.searchpath=[{searchpath}]"]
        return str(compose("train", overrides, return_hydra_config=True).hydra.runtime.choices.augment)


def _first_comment(file: Path) -> str:
    """Return the file's first comment line that is not Hydra's, without the experiment's name before it."""
    comments = re.findall(r"^# (?!@package)(.*)", file.read_text(), re.MULTILINE)
    return comments[0].removeprefix(f"{file.stem}: ") if comments else ""
