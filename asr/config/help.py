"""The text of `--help`: the groups and settings of a command, described by the comments in conf/."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError

from asr.settings import as_typed

COLUMN = 36  # where descriptions begin
SETTING = re.compile(r"(?P<indent> *)(?P<key>[\w-]+):(?P<value>.*?)(?:\s+# (?P<comment>.*))?")
CONTINUED = re.compile(r" {12,}# (.*)")  # a comment's next line; comments on a whole block are indented less


def print_help(command: str, overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Print what a command does, its groups, and each setting with its value and its comment in the config.

    overrides: what was typed beside --help; the values shown are those that the command would then have
    folders:   where config files are looked for; the last one is conf/
    """
    typed = [*overrides, *(f"hydra.searchpath=[file://{folder.resolve()}]" for folder in folders[:-1])]
    with hydra.initialize_config_dir(str(folders[-1]), version_base="1.3"):
        config = hydra.compose(command, typed, return_hydra_config=True)
        files = GlobalHydra.instance().config_loader().compute_defaults_list(command, typed, RunMode.RUN).defaults
    HydraConfig.instance().set_config(config)
    files.sort(key=lambda file: file.config_path != command)  # the command's own settings come first
    try:
        print("\n".join(_lines(config, files, folders)), flush=True)
    except BrokenPipeError:  # `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_options(title: str, group: str, folder: Path) -> None:
    """Print the options of a group, each with the comment at the top of its file."""
    print(title)
    for path in sorted((folder / group).glob("*.yaml")):
        comments = [line[2:] for line in path.read_text().splitlines() if line.startswith("# ")]
        print("\n".join(_row(path.stem, " ".join(line for line in comments if not line.startswith("@package")))))


def _lines(config: DictConfig, files: Sequence[Any], folders: Sequence[Path]) -> Iterator[str]:
    choices = {name: choice for name, choice in config.hydra.runtime.choices.items() if not name.startswith("hydra/")}
    yield str(config.hydra.help.header).rstrip()
    if choices:
        yield "\nGroups (GROUP=OPTION)"
    for group, choice in reversed(choices.items()):  # Hydra lists the last one first
        options = {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}
        yield from _row(group, ", ".join(sorted(options)) + (f"; now {choice}" if choice else ""))
    sections: dict[str, dict[str, str]] = {}
    for file in files:  # those that a file extends stand before it
        group = file.config_path.rpartition("/")[0]
        if group in ("", *choices) and group != "claims":
            title = f"Settings of {group}={choices[group]}" if group else "Settings (KEY=VALUE)"
            path = next(path for folder in folders if (path := folder / f"{file.config_path}.yaml").exists())
            section = sections.setdefault(title, {})
            for key, comment in _comments(path, file.package):
                section[key] = comment or section.get(key, "")
    shown: set[str] = set()
    for title, section in sections.items():
        values = {key: _value(config, key) for key in section if key not in shown}
        rows = {key: value for key, value in values.items() if value or (value == "" and section[key])}
        shown |= set(rows)
        if rows:
            yield f"\n{title}"
        for key, value in rows.items():
            yield from _row(f"{key}{value}", section[key])
    yield f"\n{config.hydra.help.footer}"
    yield "The whole config: --cfg job. Hydra's own flags: --hydra-help."


def _comments(file: Path, package: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted key of each setting in a config file, and its comment."""
    above: list[tuple[int, str]] = [(-1, package)] if package else []
    key = comment = ""
    for line in [*file.read_text().splitlines(), ""]:
        if key and comment and (match := CONTINUED.fullmatch(line)):
            comment += f" {match[1]}"
            continue
        if key:
            yield key, comment
            key = ""
        if match := SETTING.fullmatch(line):
            above = [(indent, name) for indent, name in above if indent < len(match["indent"])]
            above.append((len(match["indent"]), match["key"]))
            key, comment = ".".join(name for _, name in above), match["comment"] or ""


def _value(config: DictConfig, key: str) -> str | None:
    """Return =VALUE as it is typed; "" for a group of settings or a list of them, None for what is no setting."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not OmegaConf.is_dict(node) or name not in list(node) or name == "_target_" or key.startswith("hydra"):
        return None
    if OmegaConf.is_missing(node, name):
        return "=(required)"
    try:
        value = node[name]
    except InterpolationToMissingValueError:  # it follows a setting that must be given
        return ""
    if OmegaConf.is_list(value) and not any(OmegaConf.is_config(item) for item in value):
        return f"=[{','.join(map(str, value))}]"
    if OmegaConf.is_config(value):
        return ""
    return f"={value!r}" if isinstance(value, str) and " " in value else f"={as_typed(value)}"


def _row(left: str, description: str) -> Iterator[str]:
    """Yield the lines of a two-column table, as wide as the terminal."""
    width = max(shutil.get_terminal_size((120, 24)).columns, 80) - COLUMN
    lines = textwrap.wrap(description, width) or [""]
    if len(left) > COLUMN - 4:
        yield f"  {left}"
        left = ""
    yield (f"  {left}".ljust(COLUMN) + lines[0]).rstrip()
    yield from (" " * COLUMN + line for line in lines[1:])
