"""What several tests need: a corpus in which every letter is a tone (small, learnable), and servers on loopback."""

import atexit
import gc
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen
from uuid import uuid4

import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir

from asr import cli, compare, demo, evaluate, export, lm, prepare, report, search, sync, train, transcribe, tune
from asr.artifacts import plots
from asr.config.naming import Job
from asr.corpora.index import Index
from asr.corpora.librispeech import find_utterances
from asr.tracking.run import Destination, open_run
from asr.training import checkpoint

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000
PARTS = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")
BODY = bytes(range(256)) * 4096  # 1 MiB
WORDS = ("abba", "dad", "cab", "bad", "add", "facade", "bead", "face")
SMALL = [  # a model and features that train in seconds
    "model=ds2_tiny",
    "augment=none",
    "optimizer=adamw",
    "optimizer.lr=5e-3",
    "model.gru_layers=1",
    "model.gru_size=32",
    "model.convs=[{kernel: [11, 5], stride: [2, 2]}]",
    "model.conv_channels=4",
    "features.n_mels=40",
    "features.normalize=utterance",
    "batch.utterances=8",
    "workers=0",
    "tracking.system_metrics_seconds=null",
]


# They begin first, so that no process is left with one of them at the end.
SLOW = ("test_launchers", "test_resume", "test_distributed", "test_search", "test_ending", "test_tracking", "test_cli")
COMMANDS = {
    "train": train.main,
    "evaluate": evaluate.main,
    "lm": lm.main,
    "compare": compare.command,
    "export": export.main,
    "prepare": prepare.command,
    "report": report.main,
    "search": search.command,
    "sync": sync.main,
    "demo": demo.main,
    "transcribe": transcribe.main,
    "tune": tune.main,
}
CHOICES = {
    "model": "ds2_tiny",
    "data": "clean",
    "augment": "none",
    "optimizer": "adamw",
    "scheduler": "one_cycle",
    "experiment": "",
}


def pytest_configure(config):
    config.option.loadscopereorder = False  # xdist would begin with the files of many tests, which are fast


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in SLOW)


def tones(text, rng):
    """0.08 s a letter, each its own frequency; a space is silence."""
    t = np.arange(int(0.08 * RATE)) / RATE
    frequencies = [0 if letter == " " else 300 * 1.2 ** (ord(letter) - ord("a")) for letter in text]
    speech = np.concatenate([0.3 * np.sin(2 * np.pi * f * t) * np.hanning(len(t)) for f in frequencies])
    return (speech + rng.normal(0, 0.003, len(speech))).astype(np.float32)


def write_part(root, part, speaker, utterances, seed):
    rng = np.random.default_rng(seed)
    folder = root / part / str(speaker) / "1"
    folder.mkdir(parents=True)
    lines = []
    for number in range(utterances):
        text = " ".join(rng.choice(WORDS, size=rng.integers(2, 5)))
        id = f"{speaker}-1-{number:04}"
        soundfile.write(folder / f"{id}.flac", tones(text, rng), RATE)
        lines.append(f"{id} {text.upper()}\n")
    (folder / f"{speaker}-1.trans.txt").write_text("".join(lines))


def index_part(root, part, manifests=None, jobs=1, progress=None, verify_audio=True):
    """Writes the manifest of a part of LibriSpeech's layout, by default into root/manifests."""
    index = Index(root, manifests or root / "manifests", jobs, verify_audio)
    return index.write(part, *find_utterances(root, part), progress)


def pytest_collection_finish():
    """Spare the garbage collector the million objects of imported modules: the suite is 6 % faster."""
    gc.collect()
    gc.freeze()


def wait_for(found, what="the condition", seconds=60):
    """Returns what found() returns once it is true; fails where that takes longer."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)
    return result


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The root of an indexed LibriSpeech-shaped tree: 24 training utterances a part, 6 elsewhere."""
    root = tmp_path_factory.mktemp("LibriSpeech")
    for number, part in enumerate(PARTS):
        write_part(root, part, 100 + number, 24 if part.startswith("train") else 6, seed=number)
        index_part(root, part)
    return root


def compose_small(corpus, folder, *overrides, name="train", small=True):
    """The config of a small run on the corpus, without MLflow; all that it writes lies in folder."""
    common = [f"data.root={corpus}", f"output_dir={folder / 'run'}"]
    if name == "train":
        common.append("tracking.uri=null")
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return compose(name, overrides=[*common, *(SMALL if small else []), *overrides])


@cache
def empty_database():
    """A database of MLflow's without a run, to be copied: making one takes a second of migrations."""
    from asr.tracking import mlflow

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    mlflow.connect(f"sqlite:///{folder / 'empty.db'}")
    return folder / "empty.db"


def mlflow_store(folder):
    """The address of folder/mlflow.db, which is made if it is not there."""
    database = folder / "mlflow.db"
    folder.mkdir(exist_ok=True)
    if not database.exists():
        shutil.copy(empty_database(), database)
    return f"sqlite:///{database}"


def in_mlflow(folder):
    """The setting by which a run is tracked in folder/mlflow.db."""
    return f"tracking.uri={mlflow_store(folder)}"


@pytest.fixture(scope="module", autouse=True)
def pictures(request):
    """Lets runs draw their augmentation and curves, most of a short run's time, in modules with this mark alone."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.node.get_closest_marker("pictures"):
            patch.setattr(train, "write_augmentation", lambda *_: [])
            patch.setattr(plots, "save_picture", lambda *_: [])
        yield


def timeless(record):
    """What of a record does not depend on the clock."""
    return {key: value for key, value in record.items() if "wall_" not in key and "per_second" not in key}


def content(path):
    """Of a checkpoint: all tensors and numbers but those of the clock, and the directory's name."""
    saved = checkpoint.load(path)
    saved.config.pop("output_dir")
    saved.history = [timeless(record) for record in saved.history]
    saved.progress["this_epoch"] = timeless(saved.progress["this_epoch"])
    return vars(saved)


def same(one, other, where=""):
    """Asserts that two nested structures are equal, tensors bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{where}.{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other or (math.isnan(one) and math.isnan(other)), where


def job(name="small", *overrides, **choices):
    return Job(name, CHOICES | choices, list(overrides), " ".join(["python -m asr.train", *overrides]))


def forked(action: Callable[[], object]) -> int:
    """The id of a process that does it: one of its own, without the seconds that imports take."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            action()
            code = 0
        except SystemExit as stop:
            code = stop.code
        finally:
            os._exit(code)
    return child


def exit_code(child: int) -> int:
    """Of a process that was forked, when it has ended; minus the signal's number if that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def config(corpus, tmp_path, monkeypatch):
    """`compose_small` with tmp_path as its folder and as the working directory."""
    monkeypatch.chdir(tmp_path)
    return partial(compose_small, corpus, tmp_path)


@dataclass
class Site:
    """What the server of a test holds and how it behaves; `ranges` are the Range headers that were asked for, in order.

    cut_after: bytes after which the next answers break off, one entry an answer
    """

    files: dict[str, bytes] = field(default_factory=dict)
    knows_range: bool = True
    cut_after: list[int] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    """Serves a Site."""

    def __init__(self, site: Site, *args: object) -> None:
        self.site = site
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        site = self.site
        body = site.files.get(self.path.lstrip("/"))
        site.ranges.append(self.headers["Range"])
        if body is None or site.failures:
            self.send_error(site.failures.pop(0) if site.failures else 404)
            return
        start = (
            int(self.headers["Range"].split("=")[1].rstrip("-")) if self.headers["Range"] and site.knows_range else 0
        )
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : start + site.cut_after.pop(0) if site.cut_after else None])

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site({"a.tar.gz": BODY})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site))
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def log_to(uri, description, run_id=None):
    """A run in MLflow's experiment "asr", whose journal lies beside the database."""
    folder = Path(uri.removeprefix("sqlite:///")).parent / "journals" / uuid4().hex
    return open_run(folder, Destination(uri, "asr"), description, run_id)


def logged_points(database, run_id):
    """(metric, step) -> its values, in MLflow's own table: one each if every step is there exactly once."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT key, step, value FROM metrics WHERE run_uuid = ?", [run_id]).fetchall()
    points = {}
    for key, step, value in rows:
        points.setdefault((key, step), []).append(value)
    return points


class MlflowServer:
    """A real `mlflow server` that tests kill and bring back, always with the same database at the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.database, self.process = folder, folder / "server.db", None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers; does nothing where it runs already."""
        if self.process:
            return
        if not self.database.exists():
            shutil.copy(empty_database(), self.database)
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.database}",
                   "--artifacts-destination", str(self.folder / "files"), "--host", "127.0.0.1",
                   "--port", str(self.port), "--workers", "1"]  # fmt: skip
        quick = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, start_new_session=True, stdout=log, stderr=log, env=os.environ | quick, cwd=self.folder
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(URLError, OSError), urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.05)
        raise RuntimeError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        """At once, with its workers."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory) -> Iterator[MlflowServer]:
    """Not started yet, or as the last test left it."""
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()
