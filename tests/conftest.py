"""A corpus in which every letter is a tone: small, made in a second, and learnable."""

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_dir

from asr import cli
from asr.index import index_part

RATE = 16000
PARTS = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")
WORDS = ("abba", "dad", "cab", "bad", "add", "facade", "bead", "face")
SMALL = [  # a model and features that train in seconds
    "model=ds2_tiny",
    "augment=none",
    "optimizer=adamw",
    "scheduler.max_lr=5e-3",
    "model.gru_layers=1",
    "model.gru_size=32",
    "model.convs=[{channels: 4, kernel: [11, 5], stride: [2, 2]}]",
    "features.n_mels=40",
    "features.normalize=utterance",
    "batch.utterances=8",
    "workers=0",
    "tracking.system_metrics_seconds=null",
]


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


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The root of an indexed LibriSpeech-shaped tree: 24 training utterances a part, 6 elsewhere."""
    root = tmp_path_factory.mktemp("LibriSpeech")
    for number, part in enumerate(PARTS):
        write_part(root, part, 100 + number, 24 if part.startswith("train") else 6, seed=number)
        index_part(root, part, root / "cuts", jobs=1)
    return root


@pytest.fixture
def config(corpus, tmp_path, monkeypatch):
    """compose("train", ...) of a small run on the corpus; its outputs lie in tmp_path, which is the working directory."""
    monkeypatch.chdir(tmp_path)

    def composed(*overrides, name="train", small=True):
        common = [f"data.root={corpus}", f"output_dir={tmp_path / 'run'}"]
        with initialize_config_dir(str(cli.CONF), version_base="1.3"):
            return compose(name, overrides=[*common, *(SMALL if small else []), *overrides])

    return composed
