"""Multiruns side by side, by the launchers of conf/launcher: each run its own directory, all in one MLflow sweep."""

import os
import signal
import sys

import psutil
import pytest
from conftest import SMALL, exit_code, forked, in_mlflow, mlflow_store, wait_for
from mlflow import MlflowClient

from asr import train
from asr.tracking.journal import read


@pytest.mark.parametrize(("launcher", "seeds"), [("joblib", ["1", "2"]), ("submitit_local", ["1"])])
def test_runs_of_a_launcher_share_a_sweep(launcher, seeds, corpus, tmp_path, monkeypatch, capfd):
    """They find their parent though they are other processes; joblib's run side by side."""
    monkeypatch.chdir(tmp_path)
    mlflow_store(tmp_path / "outputs")
    overrides = [f"data.root={corpus}", *SMALL, "epochs=1", "steps_per_epoch=2", "workers=1", f"launcher={launcher}"]
    monkeypatch.setattr(sys, "argv", ["asr.train", "-m", f"seed={','.join(seeds)}", *overrides])
    train.main()
    assert len(list((tmp_path / "outputs" / "runs").glob("*/results.json"))) == len(seeds)
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("asr").experiment_id])
    (parent,) = [found for found in runs if found.data.tags.get("kind") == "sweep"]
    children = [found for found in runs if found.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(child.data.params["seed"] for child in children) == seeds
    assert {found.info.status for found in runs} == {"FINISHED"}
    if launcher == "joblib":
        ends = [line for line in capfd.readouterr().out.splitlines() if "epoch   1/1" in line]
        assert sorted(line.partition(": ")[0] for line in ends) == ["seed=1", "seed=2"]


@pytest.mark.parametrize(("number", "code", "running"), [(signal.SIGTERM, 143, 2), (signal.SIGKILL, -9, 1)])
def test_runs_save_and_end_with_their_sweep(number, code, running, corpus, tmp_path, monkeypatch, capfd):
    """Some trainings run and others wait; the sweep is told to stop, or killed, and no process of it is left."""
    monkeypatch.chdir(tmp_path)
    tracking = in_mlflow(tmp_path) if number == signal.SIGTERM else "tracking.uri=null"
    overrides = [f"data.root={corpus}", *SMALL, "epochs=1000", "steps_per_epoch=2", "launcher=joblib",
                 f"hydra.launcher.n_jobs={running}", tracking]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["asr.train", "-m", "seed=1,2,3", *overrides])
    sweep, runs = forked(train.main), tmp_path / "outputs" / "runs"
    wait_for(lambda: len(list(runs.glob("*/last.pt"))) == running, "each saves an epoch", 240)
    processes = psutil.Process(sweep).children(recursive=True)
    os.kill(sweep, number)
    assert exit_code(sweep) == code
    assert not psutil.wait_procs(processes, timeout=60)[1]
    assert capfd.readouterr().out.count("Stopped by SIGTERM after step") == running
    assert len(list(runs.iterdir())) == running, "the next never begins"
    events = [entry.event for path in runs.glob("*/journal.jsonl") for entry in read(path)]
    assert [event["status"] for event in events if event["kind"] == "end"] == ["KILLED"] * running
    if number == signal.SIGTERM:
        client = MlflowClient(tracking.partition("=")[2])
        found = client.search_runs([client.get_experiment_by_name("asr").experiment_id])
        states = {run.data.params.get("seed", "sweep"): run.info.status for run in found}
        assert states == {"1": "KILLED", "2": "KILLED", "sweep": "KILLED"}


def test_slurm_jobs_are_submitted_as_the_file_says(monkeypatch):
    """No cluster here: what sbatch would be given is in the config, and the launcher takes every key of it."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from asr import cli

    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        config = compose("train", overrides=["launcher=slurm", "output_dir=nowhere"], return_hydra_config=True)
    launcher = instantiate(config.hydra.launcher)
    assert type(launcher).__name__ == "SlurmLauncher"
    assert launcher.params["gpus_per_node"] == 1
    assert launcher.params["max_num_timeout"] == 10
