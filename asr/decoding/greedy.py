"""Greedy CTC decoding."""

import torch
from torch import Tensor

from asr.data.text import BLANK, Alphabet


def greedy(log_probs: Tensor, lengths: Tensor, alphabet: Alphabet) -> list[str]:
    """Return the text of each utterance: the most likely symbol of each frame, repeats merged, blanks removed.

    log_probs: (B, T, V)
    lengths:   (B,) valid frames
    """
    texts = []
    for best, length in zip(log_probs.argmax(-1).cpu(), lengths.tolist(), strict=True):
        merged = torch.unique_consecutive(best[:length])
        texts.append(alphabet.decode(merged[merged != BLANK].tolist()))
    return texts
