"""Exports give what the checkpoint gives: ONNX Runtime's numbers are torch's, and a real server answers with the words.

The models are random: what they write is no language, but long enough to be compared.
"""

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from conftest import RATE, ROOT, compose_small, tones, wait_for
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import asr
from asr import cli, export
from asr.config.build import build_optimizer, build_recognizer
from asr.errors import InputError
from asr.training import checkpoint
from asr.training.state import TrainState
from asr.transcription import export_mlflow, export_onnx

TEXT = np.round(tones("a bad facade", np.random.default_rng(0)) * 2**15) / 2**15  # as FLAC stores it


def write_checkpoint(folder: Path, *overrides: str) -> Path:
    """Write the checkpoint of a small recogniser with random weights, large enough to write several symbols."""
    settings = compose_small(folder, folder, *overrides)
    recognizer = build_recognizer(settings, seed=3)
    with torch.no_grad():
        recognizer.model.output.weight.mul_(4)
        recognizer.model.output.bias[1].add_(1.5)  # the space
    state = TrainState(recognizer.model, *build_optimizer(settings, recognizer.model, total_steps=1))
    checkpoint.save(state.to_checkpoint(OmegaConf.to_container(settings, resolve=True)), folder / "best.pt")
    return folder / "best.pt"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


def run(path: Path, folder: Path, *overrides: str) -> str:
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return export.run(compose("export", [f"checkpoint={path}", f"output_dir={folder}", *overrides]))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["features.normalize=none", "model.gru_layers=2", "model.output_norm=true", "features.n_fft=401"],
        ["model.convs=[{kernel: [11, 5], stride: [2, 1]}, {kernel: [5, 3], stride: [1, 3]}]", "model.conv_norm=true"],
    ],
    ids=["tiny", "two_grus", "two_convs"],
)
def test_onnx_runtime_gives_the_log_probabilities_of_torch_at_any_length(tmp_path: Path, overrides: list[str]) -> None:
    transcriber = asr.load(write_checkpoint(tmp_path, *overrides))
    said = run(tmp_path / "best.pt", tmp_path / "out", "format=onnx")
    assert re.search(r"out/model\.onnx: .* at most \d\.\de-0[567] at 20 lengths", said)
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx")
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 3 * RATE).astype(np.float32)
    for waveform in (noise, noise[:1], noise[:200], noise[:201], noise[:12345]):
        (found,) = session.run(None, {"waveform": waveform[None]})
        expected = transcriber.log_probs([waveform])[0]
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert expected.std() > 0.1, "the model says something"
    recognizer = transcriber.recognizer
    assert session.get_modelmeta().custom_metadata_map == {
        "alphabet": recognizer.alphabet.symbols,
        "blank": "0",
        "sample_rate": "16000",
        "frame_seconds": str(recognizer.frame_seconds),
    }
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]


def test_the_program_in_the_documents_decodes_as_greedy_does(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    run(tiny, Path("outputs/exports/onnx"))
    soundfile.write("recording.wav", TEXT, RATE)
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
    assert set(re.findall(r"^(?:import|from) (\w+)", program, re.MULTILINE)) == {"wave", "numpy", "onnxruntime"}
    exec(program, {})
    text = asr.load(tiny).transcribe("recording.wav").text
    assert len(text) > 3
    assert " ".join(capsys.readouterr().out.split()) == text


def test_a_file_that_differs_from_torch_is_not_kept(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_onnx, "TOLERANCE", 1e-12)
    with pytest.raises(InputError, match=r"not written: .* differ by \d\.\de-0"):
        run(tiny, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_frames_that_is_a_constant_of_the_file_is_noticed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of torch's newer exporter: the file works at the length of its example alone."""
    monkeypatch.setattr(torch, "_shape_as_tensor", lambda x: torch.tensor(x.shape))
    with pytest.raises(InputError, match="not written"):
        run(tiny, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_said_in_a_sentence(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(InputError, match=r"none\.pt: no such file"):
        run(tmp_path / "none.pt", tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match=r"output_dir=.*there: it exists; give another"):
        run(tiny, tmp_path / "there")
    with pytest.raises(InputError, match="format=tflite: it must be one of onnx, mlflow"):
        run(tiny, tmp_path / "out", "format=tflite")
    saved = checkpoint.load(tiny)
    saved.config["model"]["_target_"] = "mine.Model"
    checkpoint.save(saved, tmp_path / "mine.pt")
    with pytest.raises(InputError, match=r"its model is mine\.Model, .*only DeepSpeech2 can be exported"):
        run(tmp_path / "mine.pt", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onnxruntime is not installed.*pip install -e '\.\[onnx\]'"):
        run(tiny, tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["asr.export"])
    with pytest.raises(SystemExit, match="2"):
        export.main()
    assert "checkpoint is not given" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.pt", "there"]


def encoded(samples: np.ndarray, rate: int = RATE) -> str:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC")
    return base64.b64encode(file.getvalue()).decode()


def test_a_recording_that_is_too_large_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert export_mlflow.decode(encoded(TEXT), 0)[0].shape == (len(TEXT), 1)
    with pytest.raises(InputError, match="audio 3 is longer than 600 s"):
        export_mlflow.decode(encoded(np.zeros(700 * 100), 100), 3)
    with pytest.raises(InputError, match=r"audio 3 is longer than .* in all channels"):
        export_mlflow.decode(encoded(np.zeros((60_000_000 // 8 + 1, 8), np.int16), 384_000), 3)
    with pytest.raises(InputError, match="audio 3 is larger than 25 MB"):
        export_mlflow.decode("A" * 34_000_000, 3)


def test_a_served_model_answers_with_the_words(tiny: Path, tmp_path: Path) -> None:
    """The slowest test here: a real server needs ten seconds to start."""
    model = tmp_path / "model"
    assert "mlflow models serve" in run(tiny, model, "format=mlflow")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    (tmp_path / "elsewhere").mkdir()
    with open(model / "code/asr/__init__.py", "a") as own:  # the model's own copy is what runs
        own.write("\nopen('own_copy', 'w').close()\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local",
               "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # mlflow calls uvicorn by its name
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path / "elsewhere", env=environment, stdout=log, stderr=log,
                                  start_new_session=True)  # fmt: skip

    def answers() -> bool:
        assert server.poll() is None, (tmp_path / "log").read_text()
        with suppress(URLError, OSError), urlopen(f"{url}/ping", timeout=5):
            return True
        return False

    def post(payload: object) -> tuple[int, dict]:
        request = Request(f"{url}/invocations", json.dumps(payload).encode(), {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)

    try:
        wait_for(answers, "the server", seconds=120)
        expected = asr.load(tiny).transcribe(TEXT, RATE)
        prediction = {
            "text": expected.text,
            "seconds": expected.seconds,
            "words": [pytest.approx(word._asdict()) for word in expected.words],
        }
        assert len(prediction["words"]) > 1
        audio = encoded(TEXT)
        for payload in (
            {"dataframe_split": {"columns": ["audio"], "data": [[audio], [audio]]}},
            {"dataframe_records": [{"audio": audio}] * 2},
            {"instances": [{"audio": audio}] * 2},
            {"inputs": [audio] * 2},
        ):
            assert post(payload) == (200, {"predictions": [prediction] * 2}), payload.keys()
        for sent, message in (
            ([audio, "AA*A"], "audio 1 is not base64"),
            (["AAAA"], "audio 0 is no audio file that can be read"),
            ([audio] * 33, "33 recordings: send at most 32 in a request"),
        ):
            status, answer = post({"inputs": sent})
            assert status == 400
            assert message in answer["message"]
        assert (tmp_path / "elsewhere/own_copy").exists()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
