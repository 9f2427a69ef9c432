"""--help says what every setting does; the text comes from the comments in conf/."""

import os
import re
import sys

import pytest
from conftest import COMMANDS, ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from asr.settings import flatten

TRAIN_GROUPS = [
    *("model", "data", "augment", "optimizer", "scheduler", "decode"),
    *("experiment", "scale", "debug", "sweep", "launcher"),
]
ROW = re.compile(r"^  (?P<left>[a-z]\S*(?:'.*?')?) +(?P<right>\S.*)$", re.MULTILINE)


@pytest.fixture
def help_of(monkeypatch, capsys):
    """The help that a command prints, as typed with more arguments."""

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"asr.{name}", *arguments, "--help"])
        COMMANDS[name]()
        return capsys.readouterr().out

    return call


def rows(text):
    """{setting or group: description}, where a long setting has its description on the next line."""
    before = text.partition("Examples")[0]
    return {m["left"].partition("=")[0]: m["right"] for m in ROW.finditer(re.sub(r"\n {10,}", " ", before))}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train", []),
        ("train", ["model=ds2_4gru", "optimizer=sgd_momentum", "scheduler=cyclic", "data=mini"]),
        ("train", ["model=ds2_tiny", "optimizer=adamw", "scheduler=constant"]),
        ("evaluate", []),
        ("lm", ["data=synthetic"]),
        ("compare", []),
        ("export", []),
        ("prepare", ["librispeech"]),
        ("prepare", ["mini_librispeech"]),
        ("prepare", ["synthetic"]),
        ("search", []),
        ("search", ["search=lr_full"]),
        ("search", ["search=lr_range"]),
        ("report", []),
        ("sync", []),
        ("demo", []),
        ("transcribe", []),
        ("tune", []),
    ],
)
def test_every_setting_is_described(help_of, name, arguments):
    described = rows(help_of(name, *arguments))
    overrides = [f"corpus={arguments[0]}"] if name == "prepare" else arguments
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = OmegaConf.to_container(compose(name, overrides), resolve=False)
    settings = [key for key in flatten(config) if not key.endswith("_target_")]
    assert len(settings) > 1
    for key in settings:
        parents = [key.rsplit(".", n)[0] for n in range(key.count(".") + 1)]  # model.convs.0.kernel: model.convs
        assert key.startswith("augment.") or any(described.get(parent) for parent in parents), key


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("train", TRAIN_GROUPS),
        ("search", [*TRAIN_GROUPS, "search"]),
        ("evaluate", ["data", "model", "decode"]),
        ("lm", ["data"]),
        ("demo", ["decode"]),
        ("transcribe", ["model", "decode"]),
        ("tune", ["data", "model", "decode"]),
        ("prepare", ["corpus"]),
    ],
)
def test_only_the_groups_of_the_command_are_listed(help_of, name, groups):
    listed = help_of(name).partition("Groups (GROUP=OPTION)\n")[2].partition("\n\n")[0]
    assert re.findall(r"^  (\w+)", listed, re.MULTILINE) == groups


def test_help_shows_the_values_that_the_command_would_have(help_of):
    text = help_of("train", "experiment=exp3", "epochs=7")
    assert "\n  epochs=7  " in text
    assert "scheduler.mode=triangular2" in text


def test_help_of_a_multirun_shows_the_defaults(help_of):
    assert "\n  epochs=50  " in help_of("train", "-m", "epochs=1,2")


def test_a_setting_without_a_comment_is_shown_too(help_of, tmp_path):
    """In a model of the user's own, in a folder of the user's own."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text("_target_: mine.Model\nwidth: 12\ndepth: 3   # how many layers\n")
    text = help_of("train", "--config-dir", str(tmp_path), "model=mine")
    assert "mine" in rows(text)["model"]
    assert "\n  model.width=12\n" in text
    assert rows(text)["model.depth"] == "how many layers"


def test_a_mistake_beside_help_is_one_paragraph(help_of, capsys):
    with pytest.raises(SystemExit, match="2"):
        help_of("train", "modell=ds2_tiny")
    assert "did you mean model?" in capsys.readouterr().err


def test_help_into_a_pipe_that_has_closed_is_no_error(help_of, monkeypatch):
    """As in --help | head: what is flushed at the end of the process goes nowhere."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        help_of("train")
        assert os.readlink(f"/proc/self/fd/{write}") == os.devnull
