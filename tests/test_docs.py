"""What the documents name is there: files, tests, and the settings of every command."""

import re
import shlex

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
MADE_BY_THE_READER = ("experiment=mine", "model=conv_net")  # in files that the pages show
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def commands(page):
    """(command, its overrides), of a multirun the first job's; those with a placeholder are left out."""
    found = re.findall(r"python -m asr\.(\w+) ((?:[^`#\n]|\n(?=[^`\n]*`[^`]))*)", page.read_text().replace("\\\n", ""))
    for name, typed in found:
        words = [word for word in shlex.split(typed) if not word.startswith("-")]
        if not re.search(r"\b[A-Z]{3,}\b|\.\.\.", typed.replace("LibriSpeech", "")):
            yield name, [re.sub(r"=([^,\[]+),.*", r"=\1", word) for word in words]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_composes_to_what_is_typed(page):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for name, overrides in commands(page):
            if "search=decode" in overrides:
                name = "tune"
                overrides.remove("search=decode")
            if name == "prepare" and overrides:
                overrides[0] = f"corpus={overrides[0]}"
            if name == "compare":
                overrides = [override for override in overrides if "=" in override]  # the others are runs
            typed = [override for override in overrides if override not in MADE_BY_THE_READER]
            config = compose(name, typed, return_hydra_config=True)
            for key, value in (override.lstrip("+").split("=", 1) for override in typed):
                if key in config.hydra.runtime.choices:
                    assert config.hydra.runtime.choices[key] == value
                else:
                    expected = OverridesParser.create().parse_override(f"{key}={value}").value()
                    assert OmegaConf.select(config, key) == getattr(expected, "text", expected)


def test_commands_are_found():
    found = [command for page in PAGES for command in commands(page)]
    assert ("train", ["optimizer=adam", "seed=1"]) in found
    assert {name for name, _ in found} >= {"train", "evaluate", "prepare", "search", "report"}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_file_that_is_named_is_there(page):
    text = page.read_text()
    links = [page.parent / link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)]
    named = [ROOT / path for path in re.findall(r"\b((?:tests|scripts|asr|docs)/[\w/.]+\.(?:py|sh|md))\b", text)]
    assert [path for path in links + named if not path.exists()] == []
