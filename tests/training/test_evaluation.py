"""What an evaluation tells of blanks and symbols, and which utterances it shows."""

import math
import random

import pytest
import torch

from asr.corpora.manifest import Utterance
from asr.data.batches import Position
from asr.data.dataset import Batch
from asr.data.text import Alphabet
from asr.decoding.greedy import Greedy
from asr.metrics import score
from asr.models.deep_speech2 import ModelOutput
from asr.training.compute import Compute
from asr.training.evaluation import Evaluation, evaluate

ALPHABET = Alphabet(" ab")


def evaluation(scored):
    return Evaluation(0.0, 0, 0.0, scored, 1.0, 1.0)


class Fixed(torch.nn.Module):
    """A model whose most likely classes are given, whatever it hears."""

    def __init__(self, classes):
        super().__init__()
        self.classes = torch.tensor(classes)

    def forward(self, features, lengths):
        return ModelOutput(torch.nn.functional.one_hot(self.classes, 4).float().log_softmax(-1), lengths)


def test_blanks_are_counted_within_the_lengths_and_symbols_without_spaces():
    targets = torch.tensor([[2, 3, 1, 2], [3, 0, 0, 0]])
    frames, symbols = torch.tensor([6, 3]), torch.tensor([4, 1])
    features = torch.zeros(2, 1, 6)
    utterances = [Utterance(id, "", "", 8000, 16000) for id in "xy"]
    batch = Batch(Position(0, 0), utterances, ["ab a", "b"], features, frames, targets, symbols, [])
    model = Fixed([[0, 2, 2, 0, 1, 0], [0, 0, 1, 0, 0, 0]])  # "a " and " ", then three frames of padding
    found = evaluate(model, [batch], Greedy(ALPHABET), Compute(torch.device("cpu"), bf16=False))
    assert [one.hypothesis for one in found.scored] == ["a ", " "]
    metrics = found.as_metrics()
    assert metrics["blank_share"] == pytest.approx(5 / 9)
    assert metrics["symbol_ratio"] == pytest.approx(1 / 4)
    frequencies = (2 / 5, 2 / 5, 1 / 5)  # a, b and the space
    assert metrics["symbol_entropy"] == pytest.approx(-sum(p * math.log(p) for p in frequencies))


def test_nothing_at_all_is_counted_as_zero():
    metrics = evaluation([]).as_metrics()
    assert (metrics["symbol_ratio"], metrics["symbol_entropy"]) == (0, 0)


@pytest.mark.parametrize(
    ("utterances", "shown"),
    [(12, ["02", "06", "10"]), (3, ["00", "01", "02"]), (2, ["00", "01"]), (1, ["00"]), (0, [])],
)
def test_the_same_three_utterances_are_shown_whatever_their_order(utterances, shown):
    scored = [score(f"{number:02}", f"a{'b' * number}", "ab") for number in range(utterances)]
    random.Random(1).shuffle(scored)
    examples = evaluation(scored).examples()
    assert [one["id"] for one in examples] == shown
    for one in examples:
        assert one == {"id": one["id"], "reference": f"a{'b' * int(one['id'])}", "hypothesis": "ab"}
