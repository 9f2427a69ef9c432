"""Tracking against real MLflow databases and files: nothing here is mocked but the moment a store fails."""

import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from asr.errors import InputError
from asr.provenance import code_version, package_versions
from asr.tracking import METRICS_A_CALL, PARAM_CHARACTERS, Run, flat_params, open_run

CHOICES = {"model": "ds2_4gru", "data": "clean", "experiment": "exp1"}
CONFIG = {"model": {"gru_layers": 4}, "augment": {"spec": [{"max_bins": 15}, {"max_bins": 20}]}, "betas": [0.9, 0.99]}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests that need no fresh one: making it takes a second."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


def start(uri: str, **settings) -> Run:
    return open_run(uri, "tests", "a run", **{"choices": {}, "config": {}, "system_metrics_seconds": None} | settings)


def stored(uri: str, run_id: str):
    from mlflow import MlflowClient

    return MlflowClient(uri).get_run(run_id)


def points(uri: str, run_id: str, metric: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    return sorted((point.step, point.value) for point in MlflowClient(uri).get_metric_history(run_id, metric))


def folder_of(uri: str, run: Run) -> Path:
    return Path(stored(uri, run.run_id).info.artifact_uri.removeprefix("file://"))


def test_mlflow_is_imported_when_a_run_opens_and_not_before() -> None:
    program = "import sys; import asr.train; print('mlflow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"


def test_processes_that_start_at_once_on_a_fresh_database(tmp_path: Path) -> None:
    program = (
        "import sys; from asr.tracking import open_run\n"
        "with open_run('sqlite:///new/mlflow.db', 'sweep', sys.argv[1], {}, {}, system_metrics_seconds=None) as run:\n"
        "    for step in range(50): run.log_metrics({'loss': step + 0.5}, step)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    processes = [
        subprocess.Popen([sys.executable, "-c", program, f"run{number}"], cwd=tmp_path, env=environment, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for number in range(4)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert outputs == [""] * 4, "mlflow and alembic say nothing on the console"

    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("sweep").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["run0", "run1", "run2", "run3"]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert points(uri, run.info.run_id, "loss") == [(step, step + 0.5) for step in range(50)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"], "nothing beside the database's folder"


def test_flat_params_keep_choices_apart_from_the_config() -> None:
    params = flat_params({"model": "ds2", "seed": "a choice"}, CONFIG | {"seed": 1, "empty": {}, "long": "x" * 7000})
    assert params["model"] == "ds2"
    assert params["model.gru_layers"] == "4"
    assert params["seed"] == "a choice"
    assert params["config.seed"] == "1"
    assert params["augment.spec.0.max_bins"] == "15"
    assert params["augment.spec.1.max_bins"] == "20"
    assert params["betas"] == "[0.9, 0.99]"
    assert params["empty"] == "{}"
    assert len(params["long"]) == PARAM_CHARACTERS
    assert params["long"].endswith("config.json)")


def test_parameters_tags_and_artifacts_of_a_run(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = CONFIG | {f"setting{number}": number for number in range(250)}  # more than one call takes
    (tmp_path / "weights.pt").write_bytes(b"1")
    with start(uri, choices=CHOICES, config=config, tags={"command": "python -m asr.train"}) as run:
        run.log_file(tmp_path / "weights.pt", "checkpoints")
        run.log_text("hello", "notes/hello.txt")
        run.log_table([{"reference": "a\tb", "wer": 0.5}, {"reference": "c", "wer": 0}], "errors/dev")
        with pytest.raises(FileNotFoundError, match="write it first"):
            run.log_file(tmp_path / "absent.pt")
    data = stored(uri, run.run_id).data
    assert data.params == flat_params(CHOICES, config)
    assert len(data.params) > 250
    assert data.tags["command"] == "python -m asr.train"
    assert data.tags["mlflow.source.git.commit"] == code_version(Path(__file__).parent).commit
    folder = folder_of(uri, run)
    assert folder.is_relative_to(Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts")
    assert json.loads((folder / "start/config.json").read_text()) == config
    assert "torch==" in (folder / "start/packages.txt").read_text()
    assert (folder / "checkpoints/weights.pt").read_bytes() == b"1"
    assert (folder / "notes/hello.txt").read_text() == "hello"
    assert (folder / "errors/dev.tsv").read_text() == "reference\twer\na b\t0.5\nc\t0\n"
    assert json.loads((folder / "errors/dev.json").read_text())["columns"] == ["reference", "wer"]
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"], "no mlruns in the working directory"


def test_a_relative_database_stays_where_it_was_when_the_directory_changes(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(uri.removeprefix("sqlite:///")).parent)
    run = start("sqlite:///mlflow.db")
    monkeypatch.chdir(tmp_path)
    run.log_metrics({"loss": 1.0}, 1)
    run.finish()
    assert points(uri, run.run_id, "loss") == [(1, 1.0)]
    assert not list(tmp_path.iterdir())


def test_buffered_metrics_arrive_exactly_once(uri: str) -> None:
    run = start(uri, flush_seconds=1e9)
    count = METRICS_A_CALL + 100
    for step in range(count):
        run.log_metrics({"loss": 1 / (step + 1)}, step)
    assert points(uri, run.run_id, "loss") == [], "kept until they are flushed"
    run.flush()
    run.log_metrics({"loss": 7.0}, count)
    run.finish()
    assert points(uri, run.run_id, "loss") == [(step, 1 / (step + 1)) for step in range(count)] + [(count, 7.0)]


def test_metrics_are_sent_when_flush_seconds_are_over(uri: str) -> None:
    with start(uri, flush_seconds=0.0) as run:
        run.log_metrics({"loss": 1.0}, 1)
        assert points(uri, run.run_id, "loss") == [(1, 1.0)]


def test_what_is_not_finite_is_kept_in_words(uri: str) -> None:
    with start(uri) as run:
        run.log_metrics({"loss": math.nan, "grad_norm": math.inf, "dev (clean+other)/wer": 0.5}, 3)
        run.log_metrics({"loss": math.nan}, 4)
    data = stored(uri, run.run_id).data
    assert math.isnan(data.metrics["loss"])
    assert data.metrics["grad_norm"] > 1e308
    assert data.metrics["dev _clean_other_/wer"] == 0.5
    assert data.tags["first_non_finite.loss"] == "nan at step 3"
    assert data.tags["first_non_finite.grad_norm"] == "inf at step 3"


def test_a_store_that_fails_for_a_while_loses_no_metric(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with start(uri, flush_seconds=0.0) as run:
        with monkeypatch.context() as patch:
            send = run._client.log_batch

            def log_batch(run_id: str, metrics: list) -> None:
                send(run_id, metrics[:1])  # the answer to what has arrived is lost
                raise ConnectionError("the server is away")

            patch.setattr(run._client, "log_batch", log_batch)
            run.log_metrics({"loss": 1.0, "wer": 2.0}, 1)
        run.log_metrics({"loss": 3.0}, 2)
    assert "the server is away" in caplog.text
    assert points(uri, run.run_id, "loss") == [(1, 1.0), (2, 3.0)]
    assert points(uri, run.run_id, "wer") == [(1, 2.0)]


def test_a_run_goes_on(uri: str) -> None:
    with start(uri, choices=CHOICES, config={"epochs": 1}) as first:
        first.log_metrics({"loss": 2.0}, 1)
    for epochs in (2, 3):
        with start(uri, choices=CHOICES, config={"epochs": epochs, "added": 1}, run_id=first.run_id) as run:
            assert stored(uri, run.run_id).info.status == "RUNNING"
            run.log_metrics({"loss": 1.0}, epochs)
    assert run.run_id == first.run_id
    assert points(uri, run.run_id, "loss") == [(1, 2.0), (2, 1.0), (3, 1.0)]
    mlflow_run = stored(uri, run.run_id)
    assert mlflow_run.info.status == "FINISHED"
    assert mlflow_run.data.params == flat_params(CHOICES, {"epochs": 1, "added": 1}), "MLflow cannot change a parameter"
    assert mlflow_run.data.tags["resumed"] == "2"
    assert json.loads((folder_of(uri, run) / "resume_2/config.json").read_text()) == {"epochs": 3, "added": 1}


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED"), (None, "FINISHED")]
)
def test_how_a_run_ends(uri: str, error: type[BaseException] | None, status: str) -> None:
    run = start(uri, flush_seconds=1e9)

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


def test_system_metrics_are_logged_until_the_run_ends(uri: str) -> None:
    def watchers() -> int:
        return sum(thread.name == "SystemMetricsMonitor" for thread in threading.enumerate())

    with start(uri, system_metrics_seconds=0.2) as run:
        assert watchers() == 1
        time.sleep(1)
    assert watchers() == 0
    assert len(points(uri, run.run_id, "system/cpu_utilization_percentage")) >= 2


def test_an_unreachable_server_is_an_input_error_within_seconds() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"start the tracking server or use tracking\.uri=sqlite:///") as caught:
        start(f"http://me:p@ss@127.0.0.1:{port}")
    assert time.monotonic() - begin < 15
    assert "ss@" not in str(caught.value), "no password on the console"


@pytest.mark.parametrize("bad", ["", "nonsense://x", "sqlite://", "sqlite:///:memory:", "postgresql+absent://x/y"])
def test_a_malformed_uri_is_an_input_error(bad: str) -> None:
    with pytest.raises(InputError, match=r"tracking\.uri="):
        start(bad)


def test_a_file_that_is_no_database_is_an_input_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 100)
    begin = time.monotonic()
    with pytest.raises(InputError, match="not a database"):
        start(f"sqlite:///{tmp_path}/text.db")
    assert time.monotonic() - begin < 5


def test_a_run_that_is_not_there_cannot_go_on(uri: str) -> None:
    with pytest.raises(InputError, match="0123abcd"):
        start(uri, run_id="0123abcd")


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
    assert {"torch", "mlflow", "lhotse"} <= set(versions)
