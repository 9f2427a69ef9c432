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
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

COLUMN = 36  # where descriptions begin
SETTING = re.compile(r"(?P<indent> *)(?P<key>[\w-]+):(?P<value>.*?)(?:\s+# (?P<comment>.*))?")
CONTINUED = re.compile(r" {12,}# (.*)")  # a comment's next line; comments on a whole block are indented less


def print_help(command: str, overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Print what a command does, its groups, and each setting with its value and what the config says of it.

    overrides: what was typed beside --help; the values shown are those that the command would then have
    folders:   where config files are looked for; the last one is conf/
    """
    search_path = [f"hydra.searchpath=[file://{folder.resolve()}]" for folder in folders[:-1]]
    with hydra.initialize_config_dir(str(folders[-1]), version_base="1.3"):
        config = hydra.compose(command, [*overrides, *search_path], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    try:
        print("\n".join(_lines(command, config, folders)), flush=True)
    except BrokenPipeError:  # `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_options(title: str, group: str, folder: Path) -> None:
    """Print the options of a group, each with the comment at the top of its file."""
    print(title)
    for path in sorted((folder / group).glob("*.yaml")):
        comments = [line[2:] for line in path.read_text().splitlines() if line.startswith("# ")]
        print("\n".join(_row(path.stem, " ".join(line for line in comments if not line.startswith("@package")))))


def _lines(command: str, config: DictConfig, folders: Sequence[Path]) -> Iterator[str]:
    choices = config.hydra.runtime.choices
    groups = list(_groups(command, folders))
    yield str(config.hydra.help.header).rstrip()
    if groups:
        yield "\nGroups (GROUP=OPTION)"
    for group in groups:
        options = {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}
        chosen = f"; now {choices[group]}" if choices[group] else ""
        yield from _row(group, ", ".join(sorted(options)) + chosen)
    shown: set[str] = set()
    for title, described in [
        ("Settings (KEY=VALUE)", describe(command, folders)),
        *(
            (f"Settings of {g}={choices[g]}", describe(f"{g}/{choices[g]}", folders))
            for g in groups
            if choices[g] and g != "claims"
        ),
    ]:
        rows = {key: text for key, text in described.items() if key not in shown and _is_shown(config, key, text)}
        if rows:
            yield f"\n{title}"
        for key, text in rows.items():
            yield from _row(key + _value(config, key), text)
        shown |= set(rows)
    yield f"\n{config.hydra.help.footer}"
    yield "The whole config: --cfg job. Hydra's own flags: --hydra-help."


def describe(name: str, folders: Sequence[Path]) -> dict[str, str]:
    """Return the comment of each setting in a config file and in those that it is based on, by dotted key.

    name: a file without its suffix, such as train or model/ds2_7gru
    """
    if (file := _find(name, folders)) is None:
        return {}
    group, _, _ = name.rpartition("/")
    above: list[tuple[int, str]] = [] if not group or "@package _global_" in file.read_text() else [(-1, group)]
    found: dict[str, str] = {}
    key = ""
    for line in file.read_text().splitlines():
        if match := SETTING.fullmatch(line):
            above = [(indent, name) for indent, name in above if indent < len(match["indent"])]
            above.append((len(match["indent"]), match["key"]))
            key = ".".join(name for _, name in above)
            found[key] = match["comment"] or ""
        elif key and found[key] and (match := CONTINUED.fullmatch(line)):
            found[key] += f" {match[1]}"
    for base in _bases(file):
        if isinstance(base, str) and base not in ("_self_", "base"):
            inherited = describe(f"{group}/{base}" if group else base, folders)
            found |= {key: text for key, text in inherited.items() if not found.get(key)}
    return found


def _find(name: str, folders: Sequence[Path]) -> Path | None:
    return next((path for folder in folders if (path := folder / f"{name}.yaml").exists()), None)


def _bases(file: Path | None) -> list[Any]:
    """The defaults list of a config file."""
    return list(OmegaConf.select(OmegaConf.load(file), "defaults", default=[])) if file else []


def _groups(command: str, folders: Sequence[Path]) -> Iterator[str]:
    """The groups that a command chooses from, without those that are set by others."""
    for entry in _bases(_find(command, folders)):
        if isinstance(entry, str) and entry not in ("_self_", "base"):
            yield from _groups(entry, folders)
        elif not isinstance(entry, str):
            yield from (str(key) for key in entry if not key.startswith(("override ", "optional ")))


def _is_shown(config: DictConfig, key: str, text: str) -> bool:
    """Return whether a setting is in the config, and either described or a plain value."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not OmegaConf.is_dict(node) or name not in list(node) or name == "_target_" or key.startswith("hydra"):
        return False
    return bool(text) or bool(_value(config, key))


def _value(config: DictConfig, key: str) -> str:
    """Return =VALUE as it is typed; nothing for a group of settings or a list of them."""
    if OmegaConf.is_missing(config, key):
        return "=(required)"
    value = OmegaConf.select(config, key)
    if OmegaConf.is_list(value) and not any(OmegaConf.is_config(item) for item in value):
        return f"=[{','.join(map(str, value))}]"
    if OmegaConf.is_config(value):
        return ""
    if isinstance(value, str) and " " in value:
        return f"={value!r}"
    return "=" + (str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value))


def _row(left: str, description: str) -> Iterator[str]:
    """Lines of a two-column table, as wide as the terminal."""
    width = max(shutil.get_terminal_size((120, 24)).columns, 80) - COLUMN
    lines = textwrap.wrap(description, width) or [""]
    if len(left) > COLUMN - 4:
        yield f"  {left}"
        left = ""
    yield (f"  {left}".ljust(COLUMN) + lines[0]).rstrip()
    yield from (" " * COLUMN + line for line in lines[1:])
