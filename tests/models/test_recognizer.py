"""A checkpoint is data: it describes one of our recognisers or is refused, and never chooses the code that runs."""

import os
import pickle
import zipfile
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from asr import evaluate
from asr.config.build import build_optimizer, build_recognizer
from asr.errors import InputError
from asr.training import checkpoint
from asr.training.checkpoint import from_checkpoint
from asr.training.state import TrainState


@pytest.fixture
def saved(config):
    """Return the checkpoint of a small untrained recogniser."""
    settings = config("features.sample_rate=16000")
    recognizer = build_recognizer(settings, seed=1)
    optimizer, scheduler = build_optimizer(settings, recognizer.model, total_steps=1)
    state = TrainState(recognizer.model, optimizer, scheduler)
    return state.to_checkpoint(OmegaConf.to_container(settings, resolve=True))


@pytest.fixture
def score(config, tmp_path):
    """Return a function that writes a checkpoint and evaluates it as `python -m asr.evaluate checkpoint=FILE` does."""

    def score(saved):
        path = tmp_path / "from_elsewhere.pt"
        checkpoint.save(saved, path)
        return evaluate.run(config(f"checkpoint={path}", name="evaluate", small=False))

    return score


def changed(config, key, value):
    """Return the config with another value at a dotted key, or without the key if the value is `...`."""
    *parents, name = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    if value is ...:
        del node[name]
    else:
        node[name] = value
    return config


def test_what_a_training_saved_is_scored(saved, score):
    assert score(saved)["test-clean"].utterances == 6


def runs(target, **settings):
    """Return an interpolation that calls a function when it is resolved and instantiated."""
    arguments = "".join(f", {key}: '{value}'" for key, value in settings.items())
    return f"${{oc.create:{{_target_: {target}{arguments}}}}}"


@pytest.mark.parametrize("key", ["model.conv_channels", "model.gru_size", "features.floor", "data.root", "anything"])
@pytest.mark.parametrize("kind", ["writes", "reads a pickle", "environment"])
def test_an_interpolation_is_refused_wherever_it_is(key, kind, saved, score, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "hostile.pickle").write_bytes(pickle.dumps(Hostile()))
    value = {
        "writes": runs("asr.files.write_text", text="x", path=tmp_path / "ran"),
        "reads a pickle": runs("pandas.read_pickle", filepath_or_buffer=tmp_path / "hostile.pickle"),
        "environment": "${oc.env:HOME}",
    }[kind]
    with pytest.raises(InputError, match=r"from_elsewhere\.pt.*its config holds an interpolation"):
        score(replace(saved, config=changed(saved.config, key, value)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", ..., "it lacks 'model'"),
        ("features", ..., "it lacks 'features'"),
        ("alphabet", ..., "it lacks 'alphabet'"),
        ("model", [1, 2], "describes no recogniser"),
        ("model", "asr.models.deep_speech2.DeepSpeech2", "describes no recogniser"),
        ("features", None, "describes no recogniser"),
        ("alphabet", 3, "alphabet=3: it must be a string"),
        ("alphabet", ["a", " "], "must be a string"),
        ("model", torch.zeros(2), "must hold settings, not tensors"),
        ("features.n_fft", torch.zeros(2), "must hold settings, not tensors"),
        ("model._target_", "os.system", "its model is 'os.system'; only asr.models.deep_speech2.DeepSpeech2 is built"),
        ("model._target_", "asr.files.write_text", "its model is 'asr.files.write_text'"),
        ("model._target_", "torch.nn.GRU", "its model is 'torch.nn.GRU'"),
        ("model._target_", ["os.system"], "its model is "),
        ("model._target_", ..., "its model is None"),
        ("model.command", "touch ran", "unexpected keyword argument 'command'"),
        ("model.gru_size", ..., "missing 1 required positional argument: 'gru_size'"),
        ("model.gru_size", 10**9, "model.gru_size=1000000000: it must be a whole number from 1 to 65,536"),
        ("model.gru_size", 60_000, r"weight_ih_l0 is .* where the model has \[180000"),
        ("model.gru_size", "32", "model.gru_size=32: it must be a whole number"),
        ("model.gru_size", True, "model.gru_size=true: it must be a whole number"),
        ("model.gru_layers", 10**9, "model.gru_layers=1000000000: it must be"),
        ("model.dropout", float("nan"), "model.dropout=nan: it must be a number from 0 to 1"),
        ("model.convs", [], "model.convs=.*: it must be a list"),
        ("model.convs", [{"kernel": [11, 5]}], "model.convs=.*: it must be a list"),
        ("model.convs", [{"kernel": [11, 5], "stride": [0, 2]}], "model.convs=.*: it must be a list"),
        ("model.convs", [{"kernel": [10**9 + 1, 5], "stride": [2, 2]}], "model.convs=.*: it must be a list"),
        ("features.n_fft", 10**9, "features.n_fft=1000000000: it must be a whole number from 2 to 16,000"),
        ("features.hop_samples", 0, "features.hop_samples=0: it must be a whole number from 1 to 400"),
        ("features.n_mels", 10**9, "features.n_mels=1000000000: it must be"),
        ("features.sample_rate", 10**9, "features.sample_rate=1000000000: it must be"),
        ("features.floor", 0, "features.floor=0: it must be a number above 0"),
        ("features.mels", 3, "unexpected keyword argument 'mels'"),
    ],
)
def test_a_config_that_describes_no_recogniser_is_refused_with_the_setting(key, value, message, saved, score):
    with pytest.raises(InputError, match=rf"from_elsewhere\.pt.*{message}"):
        score(replace(saved, config=changed(saved.config, key, value)))


@pytest.mark.parametrize("kind", ["holds itself", "holds ten of ten of ten ..."])
def test_an_endless_config_is_refused(kind, saved, tmp_path):
    endless = []
    if kind == "holds itself":
        endless.append(endless)
    for _ in range(12):
        endless = [endless] * 10
    saved.config["anything"] = endless
    checkpoint.save(saved, tmp_path / "endless.pt")
    with pytest.raises(InputError, match=r"endless\.pt.*holds more than"):
        checkpoint.load(tmp_path / "endless.pt")


WEIGHTS = {
    "quantised": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    "sparse": lambda w: w.to_sparse(),
    "meta": lambda w: w.to("meta"),
    "complex": lambda w: w.to(torch.complex64),
    "bool": lambda w: w.bool(),
    "int8": lambda w: w.to(torch.int8),
    "double": lambda w: w.double(),
    "half": lambda w: w.half(),
    "NaN": lambda w: w * float("nan"),
    "one number, repeated": lambda w: torch.zeros(1).expand(10**6, 10**6),
    "a list": lambda w: w.tolist(),
    "a parameter": torch.nn.Parameter,
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.filterwarnings("ignore")  # quantised tensors are deprecated
def test_weights_that_no_training_saves_are_refused(kind, saved, tmp_path):
    name = "output.weight"
    saved.model[name] = WEIGHTS[kind](saved.model[name])
    checkpoint.save(saved, tmp_path / "odd.pt")
    if kind == "a parameter":  # torch reads it as one, which is a tensor like any other
        assert from_checkpoint(checkpoint.load(tmp_path / "odd.pt"), tmp_path / "odd.pt")
        return
    with pytest.raises(InputError, match=r"odd\.pt"):
        from_checkpoint(checkpoint.load(tmp_path / "odd.pt"), tmp_path / "odd.pt")


def test_a_compressed_archive_is_refused_before_it_unpacks(saved, tmp_path):
    checkpoint.save(saved, tmp_path / "stored.pt")
    with zipfile.ZipFile(tmp_path / "stored.pt") as stored, \
         zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small:  # fmt: skip
        for name in stored.namelist():
            small.writestr(name, stored.read(name))
    with pytest.raises(InputError, match=r"small\.pt: cannot be read \(it is compressed"):
        checkpoint.load(tmp_path / "small.pt")


def test_a_pickle_that_runs_code_is_not_read(config, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"config": Hostile()}, tmp_path / "hostile.pt")
    with pytest.raises(InputError, match=r"hostile\.pt: cannot be read"):
        evaluate.run(config(f"checkpoint={tmp_path / 'hostile.pt'}", name="evaluate", small=False))
    assert not (tmp_path / "ran").exists()
