"""From log-probabilities to error rates: each number against one worked out by hand or by torch."""

import pytest
import torch
import torch.nn.functional as F

from asr.data.text import Alphabet, frames_needed
from asr.decoding.greedy import Greedy
from asr.metrics import ErrorRates, score
from asr.models.ctc import alignable, ctc_losses

LETTERS = Alphabet(" ab")


def test_mean_of_losses_is_torchs_mean_reduction():
    torch.manual_seed(0)
    log_probs = torch.randn(3, 12, 4).log_softmax(-1)
    lengths, target_lengths = torch.tensor([12, 9, 2]), torch.tensor([4, 2, 5])  # the last cannot be aligned
    targets = torch.randint(1, 4, (3, 5))
    ours = ctc_losses(log_probs, lengths, targets, target_lengths)
    theirs = F.ctc_loss(log_probs.transpose(0, 1), targets, lengths, target_lengths, zero_infinity=True)
    torch.testing.assert_close(ours.mean(), theirs)
    assert ours[2] == 0


def test_loss_of_one_frame_is_its_negative_log_probability():
    log_probs = torch.tensor([[[0.2, 0.5, 0.3]]]).log()
    loss = ctc_losses(log_probs, torch.tensor([1]), torch.tensor([[1]]), torch.tensor([1]))
    torch.testing.assert_close(loss, -torch.tensor([0.5]).log())


def test_what_is_alignable_has_a_finite_loss():
    """As torch's own CTC loss says."""
    texts = ["a", "aa", "aba", "aabb", "ab"]
    rows = [torch.tensor(LETTERS.encode(t)) for t in texts]
    targets = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    for spare in (-1, 0):
        frames = torch.tensor([frames_needed(t) + spare for t in texts])
        assert alignable(frames, targets, lengths).tolist() == [spare == 0] * len(texts)
        log_probs = torch.full((int(frames.max()), len(texts), LETTERS.size), 1 / LETTERS.size).log()
        losses = F.ctc_loss(log_probs, targets, frames, lengths, reduction="none")
        assert losses.isfinite().tolist() == [spare == 0] * len(texts)


def test_greedy_merges_repeats_drops_blanks_and_stops_at_the_length():
    best = torch.tensor([[2, 2, 0, 2, 3, 3, 1, 3], [0, 0, 0, 3, 3, 3, 3, 3]])
    log_probs = F.one_hot(best, 4).float()
    assert [best.text for (best,) in Greedy(LETTERS)(log_probs, torch.tensor([8, 3]))] == ["aab b", ""]


def test_errors_of_one_utterance():
    one = score("u", "the cat sat", "the bat sat on")
    assert one.words == (1, 0, 1, 3)
    assert one.words.rate == pytest.approx(2 / 3)
    assert one.characters.length == 11


def test_corpus_rate_and_mean_of_utterances_differ():
    scored = [score("short", "a", "b"), score("long", "a b c d e f g h i", "a b c d e f g h i")]
    rates = ErrorRates.of(scored)
    assert rates.words.rate == pytest.approx(1 / 10)
    assert rates.mean_wer == pytest.approx(1 / 2)
    assert rates.utterances == 2


@pytest.mark.parametrize(("reference", "hypothesis", "rate"), [("", "", 0), ("", "a b", 2), ("a b", "", 1)])
def test_empty_texts_have_finite_rates(reference, hypothesis, rate):
    assert score("u", reference, hypothesis).words.rate == rate


def test_no_utterance_has_no_errors():
    assert ErrorRates.of([]).as_metrics()["wer"] == 0
