"""Tracking against real MLflow databases, servers and files: nothing is mocked but the moment a store fails."""

import json
import math
import os
import signal
import socket
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

import pandas
import pytest
from conftest import MlflowServer, exit_code, forked, logged_points, mlflow_store, wait_for

from asr.errors import InputError
from asr.tracking.journal import read
from asr.tracking.mlflow import require_server
from asr.tracking.provenance import code_version, package_versions
from asr.tracking.run import Description, Destination, Run, open_run, short_name

CHOICES = {"model": "ds2_4gru", "data": "clean", "experiment": "exp1"}
CONFIG = {"model": {"gru_layers": 4}, "augment": {"spec": [{"max_bins": 15}, {"max_bins": 20}]}, "betas": [0.9, 0.99]}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests that need no fresh one."""
    return mlflow_store(tmp_path_factory.mktemp("store"))


def start(uri: str | None, directory: Path, run_id: str | None = None, seconds: float | None = None,
          **description) -> Run:  # fmt: skip
    """Open a run. seconds: from one system metric to the next."""
    return open_run(directory, Destination(uri, "tests", seconds), Description("a run", **description), run_id)


@pytest.fixture
def send_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr.tracking.run.SEND_SECONDS", 0.02)


def stored(uri: str, run_id: str):
    from mlflow import MlflowClient

    return MlflowClient(uri).get_run(run_id)


def points(uri: str, run_id: str, metric: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    return sorted((point.step, point.value) for point in MlflowClient(uri).get_metric_history(run_id, metric))


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def folder_of(uri: str, run: Run) -> Path:
    return Path(stored(uri, run.run_id).info.artifact_uri.removeprefix("file://"))


def test_processes_that_start_at_once_on_a_fresh_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    from mlflow import MlflowClient

    def log(name: str) -> None:
        with open_run(Path(name), Destination("sqlite:///new/mlflow.db", "sweep"), Description(name)) as run:
            for step in range(50):
                run.log_metrics({"loss": step + 0.5}, step)

    monkeypatch.chdir(tmp_path)
    children = [forked(partial(log, f"run{number}")) for number in range(4)]
    assert [exit_code(child) for child in children] == [0] * 4
    assert capfd.readouterr() == ("", ""), "mlflow and alembic say nothing on the console"
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("sweep").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["run0", "run1", "run2", "run3"]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert points(uri, run.info.run_id, "loss") == [(step, step + 0.5) for step in range(50)]
    assert {path.name for path in tmp_path.iterdir()} == {"new", "run0", "run1", "run2", "run3"}, "nothing beside"


def test_parameters_are_the_choices_what_was_typed_and_settings_that_no_choice_decides() -> None:
    config = {
        "model": {"_target_": "asr.DeepSpeech2", "gru_layers": 4, "gru_size": 32},
        "augment": {"speed": None, "spectrogram": [{"_target_": "torchaudio.Mask", "max_bins": 15}]},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3, "betas": [0.9, 0.99]},
        "data": {"root": "corpus", "train": ["train-clean-100"]},
        "seed": 1,
        "name": "x" * 7000,
    }
    typed = ["model=ds2", "model.gru_size=32", "data.train=[train-clean-100]"]
    params = Description("a run", {"model": "ds2", "augment": "mask"}, config, typed).params()
    assert params.pop("name") == "x" * 6000
    assert params == {
        "model": "ds2",
        "augment": "mask",
        "model.gru_size": "32",
        "augment.speed": "None",
        "optimizer.lr": "0.001",
        "data.root": "corpus",
        "data.train": "['train-clean-100']",
        "seed": "1",
    }


@pytest.mark.parametrize(
    ("overrides", "first", "name"),
    [
        ([], "", "default"),
        (["experiment=exp3", "scale=mini", "data.root=outputs/corpora/synthetic", "seed=7"], "", "exp3 mini seed=7"),
        (["model.convs=[{a: 1}]", "optimizer.lr=1e-3"], "trial 3", "trial 3 lr=1e-3"),
        (["experiment=" + "long" * 20, "seed=1"], "", "long" * 15),
        (["data=synthetic", f"model={'x' * 50}", "seed=1"], "", "data=synthetic seed=1"),
        (
            ["augment=wave_spec", "epochs=10", "optimizer.lr=1e-4", "scale=mini"],
            "",
            "mini augment=wave_spec epochs=10 lr=1e-4",
        ),
    ],
)
def test_a_run_has_a_short_name_in_mlflow(overrides: list[str], first: str, name: str) -> None:
    assert short_name(overrides, first) == name
    assert len(name) <= 60


def test_parameters_tags_and_artifacts_of_a_run(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = CONFIG | {f"setting{number}": number for number in range(250)}  # more than one call takes
    (tmp_path / "weights.pt").write_bytes(b"1")
    with start(uri, tmp_path / "own", choices=CHOICES, config=config, tags={"command": "python -m asr.train"}) as run:
        run.log_file(tmp_path / "weights.pt", "checkpoints")
        run.log_text("hello", "notes/hello.txt")
        run.log_table([{"reference": "a\tb", "wer": 0.5}, {"reference": "c", "wer": 0}], "errors/dev")
    data = stored(uri, run.run_id).data
    assert data.params == Description("", CHOICES, config).params()
    assert len(data.params) > 250
    assert data.tags["command"] == "python -m asr.train"
    assert data.tags["mlflow.source.git.commit"] == code_version(Path(__file__).parent).commit
    folder = folder_of(uri, run)
    assert folder.is_relative_to(Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts")
    assert json.loads((folder / "start/config.json").read_text()) == config
    assert "torch==" in (folder / "start/packages.txt").read_text()
    assert (folder / "checkpoints/weights.pt").read_bytes() == b"1"
    assert (folder / "notes/hello.txt").read_text() == "hello"
    assert (folder / "errors/dev.tsv").read_text() == 'reference\twer\n"a\tb"\t0.5\nc\t0\n'
    assert {path.name for path in tmp_path.iterdir()} == {"own", "weights.pt"}, "no mlruns in the working directory"


def test_a_relative_database_stays_where_it_was_when_the_directory_changes(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(uri.removeprefix("sqlite:///")).parent)
    run = start("sqlite:///mlflow.db", tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    run.log_metrics({"loss": 1.0}, 1)
    run.finish()
    assert points(uri, run.run_id, "loss") == [(1, 1.0)]
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_a_database_that_was_moved_is_refused_before_files_go_to_the_old_place(tmp_path: Path) -> None:
    old, new, link = tmp_path / "old", tmp_path / "new", tmp_path / "link"

    def log(folder: Path, experiment: str) -> None:
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        own = tmp_path / "runs" / f"{folder.name}-{experiment}"
        with open_run(own, Destination(uri, experiment), Description("r")) as run:
            run.log_text("note", "note.txt")

    log(old, "asr")
    link.symlink_to(old)
    log(link, "asr")  # the same folder by another name
    old.rename(new)
    with pytest.raises(InputError, match=f"{old}/mlartifacts.*{new}; give a new tracking.experiment"):
        log(new, "asr")
    assert not old.exists()
    log(new, "another")
    assert list(new.rglob("note.txt"))
    assert not old.exists()


def test_metrics_arrive_exactly_once(uri: str, tmp_path: Path) -> None:
    run = start(uri, tmp_path)
    count = 1100  # more than one call takes
    for step in range(count):
        run.log_metrics({"loss": 1 / (step + 1)}, step)
    assert points(uri, run.run_id, "loss") == [], "kept until they are sent together"
    run.finish()
    assert points(uri, run.run_id, "loss") == [(step, 1 / (step + 1)) for step in range(count)]


def test_metrics_are_sent_during_the_run(uri: str, tmp_path: Path, send_often: None) -> None:
    with start(uri, tmp_path) as run:
        run.log_metrics({"loss": 1.0}, 1)
        assert wait_for(lambda: points(uri, run.run_id, "loss")) == [(1, 1.0)]


def test_what_is_not_finite_is_kept_in_words(uri: str, tmp_path: Path) -> None:
    with start(uri, tmp_path) as run:
        run.log_metrics({"loss": math.nan, "grad_norm": math.inf, "dev (clean+other)/wer": 0.5}, 3)
        run.log_metrics({"loss": math.nan}, 4)
    data = stored(uri, run.run_id).data
    assert math.isnan(data.metrics["loss"])
    assert data.metrics["grad_norm"] > 1e308
    assert data.metrics["dev _clean_other_/wer"] == 0.5
    assert data.tags["first_non_finite.loss"] == "nan at step 3"
    assert data.tags["first_non_finite.grad_norm"] == "inf at step 3"


def test_a_store_that_fails_for_a_while_loses_no_metric(
    uri: str, tmp_path: Path, send_often: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    send = MlflowClient.log_batch

    def log_batch(client: MlflowClient, run_id: str, metrics: list) -> None:
        send(client, run_id, metrics[:1])  # the answer to what has arrived is lost
        raise ConnectionError("the server is away")

    with start(uri, tmp_path) as run:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_batch", log_batch)
            run.log_metrics({"loss": 1.0, "wer": 2.0}, 1)
            wait_for(lambda: "the server is away" in caplog.text)
        run.log_metrics({"loss": 3.0}, 2)
    assert points(uri, run.run_id, "loss") == [(1, 1.0), (2, 3.0)]
    assert points(uri, run.run_id, "wer") == [(1, 2.0)]


def test_a_run_is_resumed(uri: str, tmp_path: Path) -> None:
    with start(uri, tmp_path, choices=CHOICES, config={"epochs": 1}) as first:
        first.log_metrics({"loss": 2.0}, 1)
    for epochs in (2, 3):
        with start(uri, tmp_path, choices=CHOICES, config={"epochs": epochs}) as run:
            assert stored(uri, run.run_id).info.status == "RUNNING"
            run.log_metrics({"loss": 1.0}, epochs)
    assert run.run_id == first.run_id
    assert points(uri, run.run_id, "loss") == [(1, 2.0), (2, 1.0), (3, 1.0)]
    mlflow_run = stored(uri, run.run_id)
    assert mlflow_run.info.status == "FINISHED"
    assert mlflow_run.data.params == CHOICES | {"epochs": "1"}, "MLflow cannot change a parameter"
    assert mlflow_run.data.tags["resumed"] == "2"
    assert json.loads((folder_of(uri, run) / "resume_2/config.json").read_text()) == {"epochs": 3}


def test_several_journals_log_to_one_run(uri: str, tmp_path: Path) -> None:
    """As the processes that share a study do, each with a directory of its own."""
    with start(uri, tmp_path / "first", config={"epochs": 1}) as first:
        first.log_metrics({"loss": 2.0}, 1)
        with start(uri, tmp_path / "second", run_id=first.run_id, config={"epochs": 2}) as second:
            second.log_metrics({"loss": 1.0}, 2)
    assert second.run_id == first.run_id
    assert points(uri, first.run_id, "loss") == [(1, 2.0), (2, 1.0)]
    assert stored(uri, first.run_id).data.params == {"epochs": "1"}
    assert json.loads((folder_of(uri, first) / "resume_second/config.json").read_text()) == {"epochs": 2}


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED"), (None, "FINISHED")]
)
def test_how_a_run_ends(uri: str, tmp_path: Path, error: type[BaseException] | None, status: str) -> None:
    run = start(uri, tmp_path)

    def body() -> None:
        with run:
            run.log_metrics({"loss": 1.0}, 1)
            if error:
                raise error("as the test wants it")

    if error:
        with pytest.raises(error):
            body()
    else:
        body()
    assert stored(uri, run.run_id).info.status == status
    assert points(uri, run.run_id, "loss") == [(1, 1.0)]


def test_system_metrics_are_logged_until_the_run_ends(uri: str, tmp_path: Path) -> None:
    def threads() -> int:
        return sum(thread.name == "Tracking" for thread in threading.enumerate())

    with start(uri, tmp_path, seconds=0.2) as run:
        assert threads() == 1
        time.sleep(1)
    assert threads() == 0
    assert len(points(uri, run.run_id, "system/cpu_utilization_percentage")) >= 2


def test_a_server_that_is_required_and_away_is_an_input_error_within_seconds() -> None:
    begin, uri = time.monotonic(), f"http://me:p@ss@127.0.0.1:{unused_port()}"
    with pytest.raises(InputError, match=r"start the tracking server or use tracking\.uri=sqlite:///") as caught:
        require_server(uri)
    assert time.monotonic() - begin < 15
    assert "ss@" not in str(caught.value), "no password on the console"


@pytest.mark.parametrize("bad", ["", "nonsense://x", "sqlite://", "sqlite:///:memory:", "postgresql+absent://x/y"])
def test_a_malformed_uri_is_an_input_error(bad: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tracking\.uri="):
        start(bad, tmp_path)


def test_a_file_that_is_no_database_is_an_input_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 100)
    begin = time.monotonic()
    with pytest.raises(InputError, match="not a database"):
        start(f"sqlite:///{tmp_path}/text.db", tmp_path)
    assert time.monotonic() - begin < 5


def test_a_run_that_is_not_there_cannot_be_joined(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0123abcd"):
        start(uri, tmp_path, run_id="0123abcd")


def test_a_server_that_is_killed_and_comes_back_holds_everything_exactly_once(
    mlflow_server: MlflowServer, send_often: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    mlflow_server.start()
    run = start(mlflow_server.uri, directory=tmp_path / "run", config={"epochs": 2}, seconds=0.05)

    def log(steps: range) -> None:
        for step in steps:
            run.log_metrics({"loss": 1 / (step + 1), "wer": math.nan if step == 120 else 0.5}, step)
            time.sleep(0.002)

    log(range(100))
    wait_for(lambda: (99, 0.01) in points(mlflow_server.uri, run.run_id, "loss"))
    mlflow_server.kill()
    begin = time.monotonic()
    log(range(100, 200))
    assert time.monotonic() - begin < 5, "a server that is away does not hold up the training"
    run.log_text("while it was away", "notes/away.txt")
    wait_for(lambda: "The run continues" in caplog.text)
    mlflow_server.start()
    log(range(200, 250))
    run.finish()

    stored_points = logged_points(mlflow_server.database, run.run_id)
    loss = {step: values for (key, step), values in stored_points.items() if key == "loss"}
    assert loss == {step: [1 / (step + 1)] for step in range(250)}
    assert points(mlflow_server.uri, run.run_id, "loss") == [(step, 1 / (step + 1)) for step in range(250)]
    assert {len(values) for values in stored_points.values()} == {1}
    journal = [entry.event for entry in read(tmp_path / "run" / "journal.jsonl")]
    journaled = [(key, event["step"]) for event in journal if event["kind"] == "metrics" for key in event["values"]]
    assert sorted(journaled) == sorted(stored_points), "those of the system too"
    assert any(key.startswith("system/") for key, _ in journaled)
    mlflow_run = stored(mlflow_server.uri, run.run_id)
    assert mlflow_run.info.status == "FINISHED"
    assert mlflow_run.data.params == {"epochs": "2"}
    assert mlflow_run.data.tags["first_non_finite.wer"] == "nan at step 120"
    files = MlflowClient(mlflow_server.uri).list_artifacts(run.run_id, "notes")
    assert [(file.path, file.file_size) for file in files] == [("notes/away.txt", 17)]
    outages = [record.message for record in caplog.records if "The run continues" in record.message]
    assert len(outages) == 1, "one line for an outage, however long it is"


def test_a_run_starts_and_ends_without_its_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    away = f"http://me:p@ss@127.0.0.1:{unused_port()}"
    begin = time.monotonic()
    with start(away, directory=tmp_path, seconds=0.05) as run:
        run.log_metrics({"loss": 1.0}, 1)
        wait_for(lambda: "system/cpu_utilization_percentage" in (tmp_path / "journal.jsonl").read_text())
        assert run.run_id is None
    assert time.monotonic() - begin < 20
    warning, end = [record.message for record in caplog.records if record.name.startswith("asr.")]
    assert "Connection refused" in warning
    assert "The run continues" in warning
    assert f"python -m asr.sync runs={os.path.relpath(tmp_path)}" in end
    assert "ss@" not in caplog.text, "no password on the console"
    kinds = [entry.event["kind"] for entry in read(tmp_path / "journal.jsonl")]
    assert (kinds[0], kinds[-1]) == ("start", "end")
    assert (tmp_path / "start/config.json").exists()


def test_a_run_that_was_killed_goes_on_in_the_same_run_with_every_step_once(
    uri: str, tmp_path: Path, send_often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two checkpoints it makes the steps since the first again, as training does."""
    from mlflow import MlflowClient

    def log() -> None:
        run = start(uri, Path("run"), config={"epochs": 1})
        for step in range(10**6):
            run.log_metrics({"loss": 1 / (step + 1), "nan": math.nan}, step)
            time.sleep(0.001)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("asr.tracking.journal.LOCK_SECONDS", 0.1)
    child = forked(log)
    wait_for(lambda: Path("run/journal.jsonl").exists() and '"step": 300,' in Path("run/journal.jsonl").read_text())
    with pytest.raises(InputError, match="run is being trained by another process"):
        start(uri, directory=Path("run"))
    os.kill(child, signal.SIGKILL)
    assert exit_code(child) == -signal.SIGKILL
    events = [entry.event for entry in read(Path("run/journal.jsonl"))]
    last = max(event["step"] for event in events if event["kind"] == "metrics" and "loss" in event["values"])
    with start(uri, directory=Path("run"), config={"epochs": 2}) as run:
        for step in range(200, last + 50):
            run.log_metrics({"loss": 1 / (step + 1), "nan": math.nan}, step)

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tests").experiment_id
    (found,) = client.search_runs([experiment], f"tags.directory = '{os.path.relpath(tmp_path / 'run')}'")
    assert found.info.run_id == run.run_id
    assert found.info.status == "FINISHED"
    assert (found.data.tags["resumed"], found.data.tags["first_non_finite.nan"]) == ("1", "nan at step 0")
    assert json.loads((folder_of(uri, run) / "resume_1/config.json").read_text()) == {"epochs": 2}
    stored_points = logged_points(uri.removeprefix("sqlite:///"), run.run_id)
    loss = {step: values for (key, step), values in stored_points.items() if key == "loss"}
    assert loss == {step: [1 / (step + 1)] for step in range(last + 50)}
    assert {len(values) for values in stored_points.values()} == {1}


def test_another_uri_gets_a_run_with_everything(uri: str, mlflow_server: MlflowServer, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    mlflow_server.start()
    elsewhere = mlflow_server.uri
    with start(uri, directory=tmp_path / "run", config={"epochs": 1}) as first:
        first.log_metrics({"loss": 1.0}, 1)
        first.log_table([{"id": "a", "wer": 0.5}], "errors/dev")
    with start(elsewhere, directory=tmp_path / "run", config={"epochs": 2}) as second:
        second.log_metrics({"loss": 5.0}, 1)
        second.log_metrics({"loss": 2.0}, 2)
        second.log_table([{"id": "a", "wer": 0.25}], "errors/dev")
    assert points(elsewhere, second.run_id, "loss") == [(1, 1.0), (2, 2.0)]
    assert points(uri, first.run_id, "loss") == [(1, 1.0)]
    found = stored(elsewhere, second.run_id)
    assert (found.data.params["epochs"], found.info.status) == ("1", "FINISHED")
    table = Path(MlflowClient(elsewhere).download_artifacts(second.run_id, "errors/dev.json", str(tmp_path)))
    mlflows_own = pandas.DataFrame([{"id": "a", "wer": 0.25}]).to_json(orient="split", index=False)
    assert json.loads(table.read_text()) == json.loads(mlflows_own), "and no row is there twice"
    assert json.loads(found.data.tags["mlflow.loggedArtifacts"]) == [{"path": "errors/dev.json", "type": "table"}]


def test_what_mlflow_refuses_for_good_does_not_hold_up_the_rest(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "gone.txt").write_text("")
    with start(uri, tmp_path, config={"a?b": 1, "c" * 300: 2}) as run:
        run.log_file(tmp_path / "gone.txt")
        (tmp_path / "gone.txt").unlink()
        for step in range(5):
            run.log_metrics({"loss": 1.0, "x" * 300: 1.0}, step)
            run.log_metrics({"not//a/path": 1.0}, step)
    for name in ("loss", "x" * 250):
        assert points(uri, run.run_id, name) == [(step, 1.0) for step in range(5)]
    assert stored(uri, run.run_id).data.params == {"a_b": "1", "c" * 250: "2"}
    assert stored(uri, run.run_id).info.status == "FINISHED"
    refused = [record.message for record in caplog.records if "refuses" in record.message]
    assert [message.split(":")[0] for message in refused] == [
        "MLflow refuses file of gone.txt for good",
        *["MLflow refuses metrics of {'not//a/path'"] * 5,
    ]


def test_a_run_that_is_deleted_under_its_training_is_kept_and_can_be_restored(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    run = start(uri, directory=tmp_path)
    MlflowClient(uri).delete_run(run.run_id)
    run.log_metrics({"loss": 1.0}, 1)
    run.finish()
    assert "was deleted there; restore it" in caplog.text
    with pytest.raises(InputError, match="was deleted there; restore it"):
        start(uri, directory=tmp_path)
    MlflowClient(uri).restore_run(run.run_id)
    start(uri, directory=tmp_path).finish()
    assert points(uri, run.run_id, "loss") == [(1, 1.0)]


def test_a_deleted_experiment_is_an_input_error_before_anything_is_logged(uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("old"))
    with pytest.raises(InputError, match=r"tracking\.experiment=old is deleted there"):
        open_run(tmp_path, Destination(uri, "old"), Description("a run"))
    assert not (tmp_path / "journal.jsonl").exists()


def test_code_version_of_a_repository_with_changes(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.check_output(["git", *identity, *arguments], cwd=tmp_path, text=True)

    assert code_version(tmp_path).commit.startswith("none: fatal: not a git repository")
    git("init", "-q")
    (tmp_path / "asr").mkdir()
    (tmp_path / "asr/model.py").write_text("layers = 4\n")
    git("add", ".")
    git("commit", "-qm", "first")
    clean = code_version(tmp_path / "asr")
    assert clean == (git("rev-parse", "HEAD").strip(), False, "")

    (tmp_path / "asr/model.py").write_text("layers = 7\n")
    (tmp_path / "new.py").write_text("")
    changed = code_version(tmp_path / "asr")
    assert changed.commit == clean.commit
    assert changed.dirty
    assert changed.diff.startswith("untracked: new.py\n")
    assert "-layers = 4\n+layers = 7" in changed.diff
    git("checkout", "-q", "asr/model.py")
    subprocess.run(["git", "apply", "-"], input=changed.diff, cwd=tmp_path, text=True, check=True)
    assert (tmp_path / "asr/model.py").read_text() == "layers = 7\n"


def test_code_version_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    version = code_version(tmp_path)
    assert version.commit.startswith("none: ")
    assert "git" in version.commit


def test_package_versions_name_python_and_torch() -> None:
    versions = package_versions()
    assert next(iter(versions)) == "python"
    assert {"torch", "mlflow", "audiomentations"} <= set(versions)
