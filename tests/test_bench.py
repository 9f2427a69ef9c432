"""The benchmark's yardstick is the same network, and its operations are counted right."""

import sys

import pytest
import torch
from conftest import ROOT
from torch.utils.flop_counter import FlopCounterMode

from asr.config.build import build_recognizer
from asr.models.deep_speech2 import count_parameters

sys.path.append(str(ROOT / "scripts"))
from benchmarks import composed
from benchmarks.reference import PublishedDeepSpeech2
from benchmarks.training import flop, lengths, made_up_batch


@pytest.mark.parametrize("model", ["ds2_7gru", "ds2_2conv_4gru"])
def test_reference_is_the_same_network(model):
    """As many parameters, and torch counts as many operations in its step as are reckoned for ours."""
    recognizer = build_recognizer(composed([f"model={model}", "model.gru_size=64", "model.conv_channels=8"]), 1)
    reference = PublishedDeepSpeech2(recognizer.model)
    assert count_parameters(reference) == count_parameters(recognizer.model)
    batch = made_up_batch([0.4, 1.3], recognizer)
    with FlopCounterMode(display=False) as counter:
        reference(batch.features).sum().backward()
    assert flop(recognizer.model, batch) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_lengths_are_those_of_the_distribution():
    assert lengths(torch.tensor([0.0, 0.05, 0.5, 1.0]).numpy()) == pytest.approx([1.6, 2.5, 12.0, 17.0])
