"""What the pictures show, read back from the figures; the PNGs are made too, with every warning an error."""

import math
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from asr.artifacts.plots import learning_curves, save_picture, spectrogram_pair
from asr.data.features import LogMel

pytestmark = pytest.mark.filterwarnings("error")
RANDOM = np.random.default_rng(0)


def epoch_records(count: int) -> list[dict]:
    return [
        {"epoch": n, "train_loss": 3 / n, "dev_loss": 4 / n, "dev_wer": abs(n - 3) / 10 + 0.1, "dev_cer": 0.3 / n,
         "learning_rate": 3e-4 / n}
        for n in range(1, count + 1)
    ]  # fmt: skip


def saved_size(figure, path: Path) -> tuple[int, int]:
    figure.savefig(path)
    with Image.open(path) as image:
        assert len(set(image.convert("L").tobytes())) > 10, "a blank picture"
        return image.size


def test_spectrograms_share_scale_and_seconds(tmp_path: Path) -> None:
    before = RANDOM.normal(-5.0, 2.0, (128, 400))
    after = before + 1.0
    after[20:35] = -11.5
    figure = spectrogram_pair(before, after, 0.0125, 8000.0, "1272-128104-0000")
    upper, lower, bar = figure.axes
    first, second = upper.images[0], lower.images[0]
    assert first.get_clim() == second.get_clim()
    assert tuple(first.get_extent()) == (0.0, 5.0, 0.0, 128.0)
    assert first.get_clim()[0] > -11.5, "masks do not stretch the scale"
    assert first.get_clim()[1] > np.percentile(before, 99.9), "nor does the louder of the two leave it"
    assert (lower.get_xlabel(), upper.get_ylabel(), bar.get_ylabel()) == ("seconds", "Hz (mel scale)", "log-mel energy")
    assert np.array_equal(first.get_array(), before)
    assert np.array_equal(second.get_array(), after)
    assert saved_size(figure, tmp_path / "pair.png")[0] == 1200


def test_a_tone_stands_at_its_frequency() -> None:
    """The features are the training's own, and the axis says where its bins lie."""
    features = LogMel(16000, 400, 200, 128, None, 1e-5, "none")
    for hertz in (500, 2000, 4000):
        tone = torch.sin(2 * math.pi * hertz * torch.arange(16000) / 16000)
        picture = features(tone).numpy()
        upper = spectrogram_pair(picture, picture, 0.0125, features.mel.f_max, "a tone").axes[0]
        ticks = {
            label.get_text(): place for label, place in zip(upper.get_yticklabels(), upper.get_yticks(), strict=True)
        }
        loudest = picture.mean(axis=1).argmax() + 0.5
        assert ticks[f"{hertz:,}"] == pytest.approx(loudest, abs=1.0)
        assert set(ticks) == {"250", "500", "1,000", "2,000", "4,000", "8,000"}


@pytest.mark.parametrize("scale", [0.1, 1.0, 1000.0])
def test_no_label_is_cut_off(scale: float) -> None:
    picture = RANDOM.normal(-8.0, 1.0, (128, 400)) * scale
    figure = spectrogram_pair(picture, picture, 0.0125, 8000.0, "before and after Gain")
    drawn = figure.get_tightbbox()
    assert drawn.x0 >= 0
    assert drawn.y0 >= 0
    assert drawn.x1 <= figure.get_figwidth() - 0.05
    assert drawn.y1 <= figure.get_figheight()


def test_a_picture_for_papers_is_written_beside_each(tmp_path: Path) -> None:
    png, svg = save_picture(learning_curves(epoch_records(3)), tmp_path / "curves.png")
    with Image.open(png) as image:
        assert image.size[0] == 1200
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")


def test_spectrograms_of_different_length_keep_their_seconds(tmp_path: Path) -> None:
    figure = spectrogram_pair(RANDOM.normal(size=(80, 300)), RANDOM.normal(size=(80, 200)), 0.01, 8000.0, "faster")
    upper, lower, _ = figure.axes
    assert upper.get_xlim() == lower.get_xlim() == (0.0, 3.0)
    assert tuple(lower.images[0].get_extent()) == (0.0, 2.0, 0.0, 80.0)


@pytest.mark.parametrize("value", [0.0, -math.inf, math.nan])
def test_silence_can_be_drawn(value: float, tmp_path: Path) -> None:
    figure = spectrogram_pair(np.full((64, 50), value), np.full((64, 50), -11.5), 0.01, 8000.0, "silence")
    assert saved_size(figure, tmp_path / "silence.png")[0] == 1200


def test_learning_curves_show_every_epoch(tmp_path: Path) -> None:
    figure = learning_curves(epoch_records(6))
    loss, errors, rate = figure.axes
    assert {line.get_label(): list(line.get_ydata()) for line in loss.lines} == {
        "train": [3 / n for n in range(1, 7)],
        "dev": [4 / n for n in range(1, 7)],
    }
    assert list(errors.lines[0].get_xdata()) == [1, 2, 3, 4, 5, 6]
    assert errors.lines[0].get_ydata() == pytest.approx([30, 20, 10, 20, 30, 40])
    assert errors.get_title(loc="left").endswith("lowest WER 10.0 % in epoch 3")
    assert list(rate.lines[0].get_ydata()) == [3e-4 / n for n in range(1, 7)]
    assert saved_size(figure, tmp_path / "curves.png")[0] == 1200


@pytest.mark.parametrize("count", [0, 1, 100])
def test_learning_curves_of_any_length(count: int, tmp_path: Path) -> None:
    assert saved_size(learning_curves(epoch_records(count)), tmp_path / "curves.png")[0] == 1200


def test_what_is_missing_or_not_finite_is_a_gap(tmp_path: Path) -> None:
    history = epoch_records(4)
    history[0]["train_loss"] = math.inf
    history[1]["train_loss"] = math.nan
    del history[2]["dev_wer"]
    history[3]["dev_wer"] = None
    figure = learning_curves(history)
    loss, errors, _ = figure.axes
    assert np.isnan(loss.lines[0].get_ydata()).tolist() == [True, True, False, False]
    assert np.isnan(errors.lines[0].get_ydata()).tolist() == [False, False, True, True]
    assert errors.get_title(loc="left").endswith("lowest WER 20.0 % in epoch 2")
    saved_size(figure, tmp_path / "gaps.png")


def test_a_curve_that_is_never_finite_can_be_drawn(tmp_path: Path) -> None:
    history = [record | {"train_loss": math.nan, "dev_wer": None} for record in epoch_records(3)]
    assert saved_size(learning_curves(history), tmp_path / "nan.png")[0] == 1200


def test_no_window_system_is_touched() -> None:
    spectrogram_pair(np.zeros((8, 8)), np.zeros((8, 8)), 0.01, 8000.0, "plain figure")
    assert "matplotlib.pyplot" not in sys.modules or sys.modules["matplotlib.pyplot"].get_fignums() == []
