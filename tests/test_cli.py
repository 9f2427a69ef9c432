"""Commands as a user types them: mistakes give one paragraph, exit code 2 and no traceback."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import COMMANDS, SMALL, mlflow_store
from mlflow import MlflowClient

from asr import train
from asr.config.naming import run_name
from asr.tracking.journal import read


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Calls an entry point with arguments; returns its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"asr.{name}", *arguments])
        try:
            COMMANDS[name]()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return code, capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["train", "optimizer.lrr=1"], ["optimizer.lrr", "did you mean optimizer.lr?", "weight_decay"]),
        (["train", "epoch=3"], ["did you mean epochs?", "steps_per_epoch"]),
        (["train", "model=ds3"], ["model=ds3", "ds2_7gru", "ds2_tiny"]),
        (["train", "model=ds2_7gruu"], ["model=ds2_7gruu", "did you mean ds2_7gru?", "ds2_tiny"]),
        (["train", "-m", "model=ds2_7gru,ds2_tinyy"], ["model=ds2_tinyy", "did you mean ds2_tiny?"]),
        (["train", "optimizer=sgd_momentum", "optimizer.momentumm=1"], ["did you mean optimizer.momentum?"]),
        (["train", "scale=null"], ["scale=null", "full, mini"]),
        (["train", "model=null"], ["model=null", "ds2_7gru"]),
        (["train", "data=3"], ["data=3", "clean"]),
        (["train", "tracking=wandb"], ["tracking=wandb", "a group of settings"]),
        (["train", "batch=3"], ["batch=3", "a group of settings"]),
        (["train", "-m", "batch=3", "seed=1,2"], ["batch=3", "a group of settings"]),
        (["train", "alphabet=null"], ["alphabet=null", "a string"]),
        (["train", "device=[1]"], ["device=[1]", "a string"]),
        (["train", "output_dir=null"], ["output_dir=null", "a string"]),
        (["train", "init_from=3"], ["init_from=3", "a string"]),
        (["train", "data.root=null"], ["data.root=null", "give data.root=FOLDER"]),
        (["train", "data.train=3"], ["data.train=3", "a list of strings"]),
        (["train", "hydra.foo=1"], ["hydra.foo: there is no such setting", "launcher"]),
        (["train", "hydra.run.dir=here"], ["hydra.run.dir=here", "output_dir="]),
        (["train", "--experiment", "exp3"], ["--experiment", "without dashes, as KEY=VALUE"]),
        (["train", "--experiment=exp3"], ["--experiment=exp3", "without dashes, as KEY=VALUE"]),
        (["train", "--epochs", "3"], ["--epochs", "without dashes, as KEY=VALUE"]),
        (["train", "--experimental-rerun", "run.pickle"], ["--experimental-rerun does not work here"]),
        (["train", "seed=1", "-m", "epochs=1"], ["epochs=1", "Flags come first"]),
        (["train", "-c"], ["--cfg/-c", "--hydra-help"]),
        (["train", "--resolve"], ["--resolve flag can only be used in conjunction with --cfg"]),
        (["train", "--run", "--multirun"], ["Only one of --run, --multirun"]),
        (["train", "-m", "model=null,ds2_tiny"], ["Config group override must be a string", "--help"]),
        (["train", "model@x=ds2_tiny"], ["model@x"]),
        (["train", "=3"], ["=3", "KEY=VALUE"]),
        (["train", "modell=ds2_7gru"], ["modell", "did you mean model?"]),
        (["train", "experiment=exp9"], ["experiment=exp9", "exp2_clean", "quickstart"]),
        (["train", "data.root=/nowhere"], ["/nowhere", "python -m asr.prepare"]),
        (["train", "epochs="], ["epochs"]),
        (["train", "epochs"], ["epochs"]),
        (["train", "model.convs=[{kernel: 3"], ["model.convs"]),
        (["prepare", "root=/nowhere"], ["no corpus is named", "python -m asr.prepare CORPUS"]),
        (["prepare", "-m", "seed=1,2"], ["no corpus is named"]),
        (["evaluate"], ["checkpoint is not given"]),
        (["evaluate", "checkpoint=3"], ["checkpoint=3", "a string"]),
        (["evaluate", "checkpoint=none.pt", "parts=3"], ["parts=3", "a list of strings"]),
        (["evaluate", "checkpoint=none.pt"], ["none.pt", "no such file"]),
        (["evaluate", "checkpoint=none.pt", "data=cleen"], ["data=cleen", "did you mean clean?", "synthetic"]),
        (["prepare", "librespeech"], ["corpus=librespeech", "did you mean librispeech?", "synthetic"]),
        (["prepare", "librispeech", "root=/nowhere", "download=false"], ["/nowhere", "download=true"]),
        (["prepare", "librispeech", "root=tree", "parts=[train-clean-7]"], ["train-clean-7", "train-clean-100"]),
        (["prepare", "librispeech", "root=null"], ["root=null", "a string"]),
        (["prepare", "synthetic", "hours=3"], ["hours=3", "a group of settings"]),
        (["report", "tracking=3"], ["tracking=3", "a group of settings"]),
        (["sync", "runs=[1]"], ["runs=[1]", "a string"]),
        (["search", "search=lrr"], ["search=lrr", "did you mean lr?"]),
        (["search", "study=3", "study.name=x"], ["study", "no such setting"]),
        (["train", f"data.root={'x' * 300}"], ["xxx", "File name too long"]),
    ],
)
def test_a_mistake_is_one_paragraph_that_names_the_way_out(command, arguments, names, tmp_path):
    code, printed = command(*arguments)
    assert code == 2
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    assert "Traceback" not in printed.err + printed.out
    assert printed.err.startswith("error: ")
    assert "\n\n" not in printed.err.strip()
    for name in names:
        assert name in printed.err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_the_settings_and_examples(command, name):
    code, printed = command(name, "--help")
    assert code == 0
    name = "search search=decode" if name == "tune" else name
    assert printed.out.startswith(f"python -m asr.{name}")
    assert "\nSettings (KEY=VALUE)\n" in printed.out
    assert re.search(rf"\nExamples\n +python -m asr\.{name}", printed.out)


def test_prepare_alone_lists_the_corpora_and_makes_nothing(command, tmp_path):
    code, printed = command("prepare")
    assert code == 0
    for corpus in ("librispeech", "mini_librispeech", "synthetic"):
        assert f"\n  {corpus} " in printed.out
    assert not list(tmp_path.iterdir())


def test_the_config_can_be_seen_without_running(command):
    code, printed = command("train", "experiment=exp3", "--cfg", "job")
    assert code == 0
    assert "triangular2" in printed.out


def test_the_command_of_a_plan_finds_the_users_config_folder(command, corpus, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nseed: 7\n")
    overrides = [f"data.root={corpus}", *SMALL, "epochs=1", "steps_per_epoch=1", "tracking.uri=null"]
    code, printed = command("train", "--config-dir", "mine", "experiment=own", *overrides)
    assert code == 0, printed.err
    (plan,) = (tmp_path / "outputs" / "runs").glob("*/plan.json")
    typed = shlex.split(json.loads(plan.read_text())["command"])
    assert typed[:5] == ["python", "-m", "asr.train", "--config-dir", str(tmp_path / "mine")]
    assert command("train", *typed[3:], "tracking.uri=null")[1].out.count("finished before") == 1


def test_an_error_of_ours_keeps_its_traceback(command, monkeypatch):
    def broken(config):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(train, "build_experiment", broken)
    with pytest.raises(ZeroDivisionError):
        command("train")


def test_a_dry_run_as_a_command(corpus, tmp_path):
    """The one test that starts Python anew: the module is runnable as the README says."""
    done = subprocess.run(
        [sys.executable, "-m", "asr.train", f"data.root={corpus}", "model=ds2_7gru", "data=clean", "dry_run=true"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "32,244,188 parameters" in done.stdout
    assert not (tmp_path / "outputs").exists()


def test_a_multirun_gives_each_run_its_directory_and_all_one_experiment(command, corpus, tmp_path):
    overrides = [f"data.root={corpus}", *SMALL, "epochs=1", "steps_per_epoch=1"]
    code, printed = command("train", "-m", "seed=1,2", *overrides)
    assert code == 0, printed.err
    folders = sorted(path.parent.name for path in (tmp_path / "outputs" / "runs").glob("*/results.json"))
    assert len(folders) == 2
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("asr").experiment_id])
    (parent,) = [found for found in runs if found.data.tags.get("kind") == "sweep"]
    assert parent.info.status == "FINISHED"
    children = [found for found in runs if found.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(child.data.params["seed"] for child in children) == ["1", "2"]

    assert command("train", "-m", "seed=1,2", *overrides)[0] == 0  # the same sweep again: nothing is new
    assert len(client.search_runs([parent.info.experiment_id])) == 3


def test_a_sweep_refused_by_its_data_writes_nothing(command, tmp_path):
    code, printed = command("train", "-m", "seed=1,2", "data.root=/nowhere")
    assert code == 2
    assert "/nowhere" in printed.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/proc/nowhere", "No such file or directory"),
        ("file/run", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(command, corpus, tmp_path, place, reason):
    (tmp_path / "file").touch()
    code, printed = command("train", f"output_dir={place}", f"data.root={corpus}", *SMALL)
    assert code == 2
    assert printed.err.startswith(f"error: {place}")
    assert f"{reason}. Give the setting that names this place another value" in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_sweep_whose_mlflow_is_away_trains_all_the_same(command, corpus, tmp_path):
    away = "tracking.uri=http://127.0.0.1:9"
    code, printed = command(
        "train", "-m", "seed=1", away, f"data.root={corpus}", *SMALL, "epochs=1", "steps_per_epoch=1"
    )
    assert code == 0, printed.err
    (results,) = (tmp_path / "outputs" / "runs").glob("*/results.json")
    journal = [entry.event for entry in read(results.with_name("journal.jsonl"))]
    assert "mlflow.parentRunId" not in journal[0]["tags"]
    assert journal[-1]["status"] == "FINISHED"
    assert "will not be shown under a parent run there" in printed.out
    assert len(list((tmp_path / "outputs" / "sweeps").glob("*/journal.jsonl"))) == 1, "it is sent later, too"


def test_the_writeups_sweep_runs_all_four_in_order(command, corpus, tmp_path):
    """The second stage of exp2 goes on from the first's best checkpoint, which it finds by name."""
    mlflow_store(tmp_path / "outputs")
    overrides = [f"data.root={corpus}", *SMALL, "epochs=1", "steps_per_epoch=1"]
    code, printed = command("train", "sweep=writeup", *overrides)
    assert code == 0, printed.err
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("asr").experiment_id], order_by=["start_time"])
    assert [found.data.params.get("experiment") for found in runs] == [None, "exp1", "exp2_clean", "exp2_other", "exp3"]
    assert {found.data.params.get("sweep") for found in runs} == {"writeup"}
    start = Path(runs[3].data.params["init_from"])
    assert start == next((tmp_path / "outputs" / "runs").glob("exp2_clean+*/best.pt")).relative_to(tmp_path)
    assert "outputs/runs/exp3" in printed.out


def test_the_second_stage_alone_says_which_command_makes_the_first(command, corpus, tmp_path):
    overrides = [f"data.root={corpus}", "tracking.uri=null", *SMALL, "epochs=1", "steps_per_epoch=1"]
    code, printed = command("train", "experiment=exp2_other", *overrides)
    assert code == 2
    assert "python -m asr.train experiment=exp2_clean" in printed.err
    assert "epochs=1" in printed.err

    assert command("train", "experiment=exp2_clean", *overrides)[0] == 0
    (first,) = (tmp_path / "outputs" / "runs").glob("exp2_clean+*")
    (first / "results.json").rename(first / "results.later")  # as if it were still training
    code, printed = command("train", "experiment=exp2_other", *overrides)
    assert code == 2
    assert "has not ended" in printed.err


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "default"),
        (["model=ds2_7gru", "data=clean"], "data-clean+model-ds2_7gru"),
        (["seed=2", "experiment=exp3"], "exp3+seed-2"),
        (
            ["seed=2", "augment=none", "scale=mini", "sweep=writeup", "experiment=exp3"],
            "exp3+scale-mini+augment-none+seed-2",
        ),
        (["experiment=exp1", "data.root=/big/disk/LibriSpeech", "dry_run=true"], "exp1+data.root-LibriSpeech"),
        (["checkpoint=outputs/runs/exp1/best.pt", "data=other"], "checkpoint-exp1-best.pt+data-other"),
        (["tracking.uri=http://host:5000", "workers=4"], "default"),
        (["data.train=[a,b c]", "optimizer.lr=1e-4"], "data.train-_a_b_c_+optimizer.lr-1e-4"),
    ],
)
def test_a_run_is_named_by_what_it_overrides(overrides, name):
    assert run_name(overrides) == name


def test_long_names_are_cut_and_stay_different():
    first, second = (run_name([f"data.train={'x' * 300}", f"seed={seed}"]) for seed in (1, 2))
    assert len(first) <= 150
    assert first != second
