"""The CTC loss, per utterance and for a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.data.text import BLANK, frames_needed


def ctc_losses(log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """The CTC loss of each utterance, divided by its number of symbols; zero where CTC cannot align it.

    log_probs: (B, T, V); blank is 0
    lengths:   (B,) valid frames
    targets:   (B, L) symbol ids, anything beyond each length
    target_lengths: (B,)
    returns:   (B,) float32, nats a symbol: their mean is torch's CTC loss with reduction "mean" and zero_infinity
    source:    Graves et al. 2006
    """
    if torch.are_deterministic_algorithms_enabled():
        log_probs = log_probs.cpu()  # on CUDA torch has no deterministic gradient of CTC, and refuses the other
    losses = F.ctc_loss(
        log_probs.float().transpose(0, 1),  # half precision has too few digits for the sum over paths
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
