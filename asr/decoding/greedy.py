"""Greedy CTC decoding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from asr.data.text import BLANK, Alphabet
from asr.decoding.decoder import Hypothesis


@dataclass(frozen=True)
class Greedy:
    """Take the most likely symbol of each frame, merge repeats and remove blanks."""

    alphabet: Alphabet

    def __call__(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        """Return one hypothesis for each utterance, with the log-probability of its path; see Decoder."""
        best, classes = (x.cpu() for x in log_probs.max(-1))
        hypotheses = []
        for scores, path, length in zip(best, classes, lengths.tolist(), strict=True):
            merged = torch.unique_consecutive(path[:length])
            text = self.alphabet.decode(merged[merged != BLANK].tolist())
            hypotheses.append([Hypothesis(text, float(scores[:length].sum()))])
        return hypotheses
