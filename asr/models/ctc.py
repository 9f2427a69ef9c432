"""The CTC loss of each utterance, and the check that an utterance can be aligned."""

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.data.text import BLANK, frames_needed


def ctc_losses(log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Return the CTC loss of each utterance, divided by its target length; zero if it cannot be aligned.

    log_probs:      (B, T, V); the blank is class 0
    lengths:        (B,) valid frames
    targets:        (B, L) symbol ids; entries beyond target_lengths are ignored
    target_lengths: (B,)
    returns:        (B,) float32, nats per symbol; the mean equals F.ctc_loss(reduction="mean", zero_infinity=True)
    source:         Graves et al. 2006
    """
    if torch.are_deterministic_algorithms_enabled():
        log_probs = log_probs.cpu()  # on CUDA the gradient of CTC is not deterministic, so torch raises
    losses = F.ctc_loss(
        log_probs.float().transpose(0, 1),  # half precision is too coarse for the sum over paths
        targets.to(log_probs.device),
        lengths,
        target_lengths,
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )
    return losses / target_lengths.to(losses.device).clamp(min=1)


def alignable(lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Return (B,) bool: whether an utterance has as many frames as CTC needs. The arguments are those of ctc_losses."""
    rows = zip(targets.tolist(), target_lengths.tolist(), strict=True)
    return lengths >= torch.tensor([frames_needed(ids[:length]) for ids, length in rows], device=lengths.device)
