"""Greedy CTC decoding."""

import torch
from torch import Tensor

from asr.data.text import BLANK, Alphabet


def best_path(log_probs: Tensor) -> Tensor:
    """Return the most likely class of each frame: (B, T) on the CPU for log_probs (B, T, V)."""
    return log_probs.argmax(-1).cpu()


def greedy(best: Tensor, lengths: Tensor, alphabet: Alphabet) -> list[str]:
    """Return the text of each utterance: the most likely symbol of each frame, repeats merged, blanks removed.

    best:    (B, T), as best_path returns it
    lengths: (B,) valid frames
    """
    texts = []
    for path, length in zip(best, lengths.tolist(), strict=True):
        merged = torch.unique_consecutive(path[:length])
        texts.append(alphabet.decode(merged[merged != BLANK].tolist()))
    return texts
