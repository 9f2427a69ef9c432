"""What every decoder does: turn log-probabilities into texts."""

from typing import NamedTuple, Protocol

from torch import Tensor

from asr.data.text import Alphabet


class Hypothesis(NamedTuple):
    """A text and its score, the decoder's log-probability, which only ranks the hypotheses of one utterance."""

    text: str
    score: float


class Decoder(Protocol):
    """Turn the log-probabilities of a batch into texts; conf/decode has one file for each decoder."""

    @property
    def alphabet(self) -> Alphabet: ...

    def __call__(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        """Return the hypotheses of each utterance, at least one, the best first.

        log_probs: (B, T, V); the blank is class 0
        lengths:   (B,) valid frames
        """
