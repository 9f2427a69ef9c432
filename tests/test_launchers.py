"""Multiruns side by side, by the launchers of conf/launcher: each run its own directory, all in one MLflow sweep."""

import sys

import pytest
from conftest import SMALL
from mlflow import MlflowClient

from asr import train


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_runs_side_by_side_share_a_sweep(launcher, corpus, tmp_path, monkeypatch):
    """They start at once on a database that does not exist yet, and find their parent though they are processes."""
    monkeypatch.chdir(tmp_path)
    overrides = [f"data.root={corpus}", *SMALL, "epochs=1", "steps_per_epoch=2", "workers=1", f"launcher={launcher}"]
    monkeypatch.setattr(sys, "argv", ["asr.train", "-m", "seed=1,2", *overrides])
    train.main()
    assert len(list((tmp_path / "outputs" / "runs").glob("*/results.json"))) == 2
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("asr").experiment_id])
    (parent,) = [found for found in runs if found.data.tags.get("kind") == "sweep"]
    children = [found for found in runs if found.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(child.data.params["seed"] for child in children) == ["1", "2"]
    assert {found.info.status for found in runs} == {"FINISHED"}


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
