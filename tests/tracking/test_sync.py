"""python -m asr.sync: what runs logged while MLflow was away gets there, once, and the table says so."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, MlflowServer, logged_points
from hydra import compose, initialize_config_dir
from mlflow import MlflowClient

from asr import cli, sync
from asr.errors import InputError
from asr.sync import Synced
from asr.tracking.journal import Journal, read
from asr.tracking.run import Description, Destination, open_run

STEPS = range(50)


def train_offline(directory: Path, uri: str, steps: range = STEPS) -> None:
    """A run as training logs it, at a server that is away."""
    description = Description(directory.name, config={"seed": 1}, tags={"kind": "trial"})
    with open_run(directory, Destination(uri, "offline"), description) as run:
        for step in steps:
            run.log_metrics({"loss": 1 / (step + 1), "wer": 0.5}, step)
        run.log_dataset("train-clean", "train", "0123abcd", "https://me:secret@host/corpus", {"hours": 1.5})
        run.log_model(["wer", "loss"], steps[-1])
        run.log_text("hello", "notes/hello.txt")
        run.log_table([{"id": "a", "wer": 0.5}], "errors/dev")
        assert run.run_id is None


def events(directory: Path) -> int:
    return sum(entry.event["kind"] != "sent" for entry in read(directory / "journal.jsonl"))


def forget_what_was_sent(directory: Path) -> None:
    """As if the process had been killed before it was noted."""
    lines = (directory / "journal.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["kind"] != "sent"]
    assert len(kept) < len(lines)
    (directory / "journal.jsonl").write_text("".join(kept))


def synced(folder: Path, uri: str | None = None) -> dict[str, Synced]:
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        config = compose("sync", overrides=[f"runs={folder}", *([f"tracking.uri={uri}"] if uri else [])])
    return {one.directory.name: one for one in sync.run(config)}


def logged(server: MlflowServer, experiment: str = "offline"):
    client = MlflowClient(server.uri)
    found = client.get_experiment_by_name(experiment)
    return client, client.search_runs([found.experiment_id], order_by=["tags.mlflow.runName"]) if found else []


def test_runs_without_a_server_reach_it_later_and_once(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    mlflow_server.kill()
    for name in ("first", "second"):
        train_offline(tmp_path / "runs" / name, mlflow_server.uri)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["asr.sync", "runs=runs"])
    with pytest.raises(SystemExit) as left:
        sync.main()
    assert left.value.code == 1
    assert "Connection refused" in capsys.readouterr().out

    mlflow_server.start()
    sync.main()  # and no exit code but 0
    printed = capsys.readouterr().out
    assert "runs/first" in printed
    client, runs = logged(mlflow_server)
    assert [run.info.run_name for run in runs] == ["first", "second"]
    forget_what_was_sent(tmp_path / "runs" / "first")
    again = synced(tmp_path / "runs")
    assert again["first"].sent == events(tmp_path / "runs" / "first")
    assert again["second"] == Synced(tmp_path / "runs" / "second", 0, 0, "in MLflow")
    assert {run.info.run_id for run in logged(mlflow_server)[1]} == {run.info.run_id for run in runs}
    for run in runs:
        expected = {("loss", step): [1 / (step + 1)] for step in STEPS} | {("wer", step): [0.5] for step in STEPS}
        assert logged_points(mlflow_server.database, run.info.run_id) == expected
        history = client.get_metric_history(run.info.run_id, "loss")
        assert sorted((point.step, point.value) for point in history) == [(step, 1 / (step + 1)) for step in STEPS]
        assert (run.info.status, run.data.params["seed"], run.data.tags["kind"]) == ("FINISHED", "1", "trial")
        files = {file.path for folder in ("start", "notes", "errors")
                 for file in client.list_artifacts(run.info.run_id, folder)}  # fmt: skip
        assert {"start/config.json", "start/packages.txt", "notes/hello.txt", "errors/dev.json"} <= files
        (data,) = run.inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == ("train-clean", "0123abcd")
        assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "train")]
        assert json.loads(data.dataset.profile) == {"hours": 1.5}
        assert json.loads(data.dataset.source) == {"uri": "https://me:***@host/corpus"}
        (model,) = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
        assert (model.name, model.status, model.params) == (run.info.run_name, "READY", run.data.params)
        linked = sorted((point.key, point.step, point.value) for point in model.metrics)
        assert linked == [("loss", STEPS[-1], 1 / (STEPS[-1] + 1)), ("wer", STEPS[-1], 0.5)]
        entries = read(tmp_path / "runs" / run.info.run_name / "journal.jsonl")
        (end,) = [entry.event for entry in entries if entry.event["kind"] == "end"]
        assert run.info.end_time == end["time"], "when the training ended, not when it was sent"


def test_a_run_that_is_being_trained_is_left_alone(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "run")) as journal:
        journal.append("start", uri=mlflow_server.uri, experiment="busy", name="run", id="0", params={}, tags={})
        one = synced(tmp_path)["run"]
        assert one == Synced(tmp_path / "run", 0, None, "is being trained: sends by itself")
    mlflow_server.start()
    assert logged(mlflow_server, "busy")[1] == []


def test_two_that_sync_at_once_send_everything_once(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    train_offline(tmp_path / "run", "http://127.0.0.1:9")
    mlflow_server.start()
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: sync.sync_run(tmp_path / "run", mlflow_server.uri, {}), range(2)))
    assert sum(one.sent for one in both) == events(tmp_path / "run")
    with closing(Journal(tmp_path / "run")) as journal:
        run_id, _ = journal.sent[mlflow_server.uri]
    stored = logged_points(mlflow_server.database, run_id)
    assert len(stored) == 2 * len(STEPS)
    assert {len(values) for values in stored.values()} == {1}


def test_all_can_be_sent_elsewhere(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    away = "http://127.0.0.1:9"
    train_offline(tmp_path / "run", away, range(3))
    count = events(tmp_path / "run")
    assert synced(tmp_path)["run"].pending == count
    mlflow_server.start()
    assert synced(tmp_path, mlflow_server.uri)["run"] == Synced(tmp_path / "run", count, 0, "in MLflow")
    with closing(Journal(tmp_path / "run")) as journal:
        ((sent_to, (run_id, _)),) = journal.sent.items()
    assert sent_to == mlflow_server.uri
    assert len(logged_points(mlflow_server.database, run_id)) == 6
    assert synced(tmp_path)["run"].pending == count, "it was started with another address, which has nothing yet"


def test_a_damaged_run_does_not_hold_up_the_others(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    mlflow_server.start()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "journal.jsonl").write_text("nonsense\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "journal.jsonl").touch()
    train_offline(tmp_path / "whole", "http://127.0.0.1:9", range(1))
    found = synced(tmp_path, mlflow_server.uri)
    assert "damaged" in found["broken"].state
    assert found["broken"].pending is None
    assert found["empty"].state == "never started"
    assert found["whole"].state == "in MLflow"


def test_a_folder_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"runs=.*nowhere.*no such folder"):
        synced(tmp_path / "nowhere")


def test_a_database_that_has_moved_is_not_made_anew_in_its_old_place(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "run")) as journal:
        uri = f"sqlite:///{tmp_path}/old/mlflow.db"
        journal.append("start", uri=uri, experiment="asr", name="run", id="0", params={}, tags={})
    one = synced(tmp_path)["run"]
    assert one.pending == 1
    assert "there is no such database" in one.state
    assert not (tmp_path / "old").exists()


def test_a_training_without_uri_imports_no_mlflow_and_can_be_sent_later(corpus: Path, tmp_path: Path) -> None:
    program = "import sys; from asr import train; train.main(); assert 'mlflow' not in sys.modules"
    measured = [setting for setting in SMALL if "system_metrics" not in setting]
    settings = [*measured, f"data.root={corpus}", "epochs=1", "steps_per_epoch=2", "tracking.log_every=1", "seed=7"]
    command = [sys.executable, "-c", program, *settings, "tracking.uri=null", "output_dir=run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Everything is in run\n" in done.stdout
    assert "None" not in done.stdout
    assert not list(tmp_path.rglob("*.db"))
    assert '"kind": "sent"' not in (tmp_path / "run" / "journal.jsonl").read_text()

    assert synced(tmp_path)["run"] == Synced(tmp_path / "run", 0, 0, "tracking.uri=null: sent when you give one here")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert synced(tmp_path, uri)["run"] == Synced(tmp_path / "run", events(tmp_path / "run"), 0, "in MLflow")
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("asr").experiment_id])
    assert (run.info.status, run.data.params["seed"]) == ("FINISHED", "7")
    assert run.info.run_name.startswith("augment=none utterances=8 epochs=1")
    assert "model._target_" not in run.data.params
    (written,) = client.list_artifacts(run.info.run_id, "checkpoints")
    assert written.path == "checkpoints/best.pt"
    journaled = {
        (key, entry.event["step"]): [value]
        for entry in read(tmp_path / "run" / "journal.jsonl")
        if entry.event["kind"] == "metrics"
        for key, value in entry.event["values"].items()
    }
    assert logged_points(tmp_path / "mlflow.db", run.info.run_id) == journaled
    config = json.loads(
        Path(client.download_artifacts(run.info.run_id, "start/config.json", str(tmp_path))).read_text()
    )
    assert config["model"]["gru_size"] == 32
