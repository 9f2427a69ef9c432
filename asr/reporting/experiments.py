"""Find the experiments, augmentations and sweeps of conf/, and read what their files say about themselves."""

import re
from contextlib import nullcontext
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from asr.cli import CONF
from asr.errors import InputError


class Experiment(NamedTuple):
    """An experiment of conf/experiment.

    about:   the first comment of its file, without the experiment's name before it
    augment: the augmentation that it trains with unless augment= says otherwise
    """

    about: str
    augment: str


def find_option(group: str, name: str, named_by: str) -> Path:
    """Return the file of an option such as experiment=exp1; InputError, beginning with named_by, if there is none."""
    files = {path.stem: path for folder in _config_folders() for path in sorted((folder / group).glob("*.yaml"))}
    if name not in files:
        near = get_close_matches(name, files, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise InputError(
            f"{named_by}: there is no {group} {name!r}{hint} There are: {', '.join(files)}. A new one is a file "
            f"{group}/NAME.yaml in conf/ or in the folder of --config-dir"
        )
    return files[name]


def load_experiment(name: str, named_by: str) -> Experiment:
    """Return the experiment of this name; InputError, beginning with named_by, if there is none."""
    file = find_option("experiment", name, named_by)
    comment = re.search(r"^# (?!@package)(.*)", file.read_text(), re.MULTILINE)  # the first that is not Hydra's
    return Experiment(comment[1].removeprefix(f"{name}: ") if comment else "", _augment(name, _config_folders()))


@cache
def _augment(experiment: str, folders: tuple[Path, ...]) -> str:
    """Return the choice of augment= in the experiment's training, as Hydra composes it."""
    searchpath = ",".join(f"'file://{folder.resolve()}'" for folder in folders[1:])
    running = GlobalHydra.instance().is_initialized()  # within a command
    with nullcontext() if running else initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [f"experiment={experiment}", f"hydra.searchpath=[{searchpath}]"]
        return str(compose("train", overrides, return_hydra_config=True).hydra.runtime.choices.augment)


def _config_folders() -> tuple[Path, ...]:
    """Return conf/ and the folders that --config-dir and hydra.searchpath add to it."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    return tuple(dict.fromkeys([CONF, *(Path(source.path) for source in sources if source.schema == "file")]))
