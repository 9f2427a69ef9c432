"""Deep Speech 2: convolutions over the spectrogram, bidirectional GRUs over time, log-probabilities for CTC.

Tensors are laid out as (batch, channel, frequency, time) with kernels of 41 x 11; on a CPU, oneDNN is faster with this
layout than with (batch, channel, time, frequency) and 11 x 41.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.errors import InputError
from asr.models.batch_norm import MaskedBatchNorm2d
from asr.models.gru import BidirectionalGRU, reversal
from asr.settings import FRACTION, SWITCH, Rule, require, whole

Frames = TypeVar("Frames", int, Tensor)


def _are_convs(value: Any) -> bool:
    sizes = whole(1, 1_001)
    return (
        isinstance(value, Sequence)
        and 1 <= len(value) <= 16
        and all(isinstance(conv, Mapping) and set(conv) == {"kernel", "stride"} for conv in value)
        and all(
            isinstance(pair, Sequence) and len(pair) == 2 and all(map(sizes.holds, pair))
            for conv in value
            for pair in conv.values()
        )
    )


CONVS = Rule("a list of 1 to 16 {kernel: [F, T], stride: [F, T]}, whole numbers from 1 to 1,001", _are_convs)


class ModelOutput(NamedTuple):
    """The output of the model: log_probs (B, T', V), and lengths (B,), the valid output frames, on the CPU."""

    log_probs: Tensor
    lengths: Tensor


class DeepSpeech2(nn.Module):
    """Compute the log-probability of each symbol at each output frame.

    convs:         {kernel, stride} of each convolution, as [frequency, time]; the padding is kernel // 2, and each is
                   followed by BatchNorm2d and Hardtanh(0, 20)
    conv_channels: output channels of each convolution
    conv_norm:     whether to add a BatchNorm2d and a ReLU between the convolutions and the GRUs
    gru_layers:    number of bidirectional GRU layers
    gru_size:      hidden size of each direction
    dropout:       dropout probability between GRU layers
    output_norm:   whether to apply LayerNorm before the output layer
    n_mels:        F, the mel bins of the spectrogram
    n_classes:     V, the number of symbols including the blank
    raises:        InputError if a setting has the wrong type or is out of bounds
    source:        Amodei et al. 2015, section 3; the sizes are those of the writeup
    """

    def __init__(
        self,
        convs: Sequence[Any],
        conv_channels: int,
        conv_norm: bool,
        gru_layers: int,
        gru_size: int,
        dropout: float,
        output_norm: bool,
        n_mels: int,
        n_classes: int,
    ) -> None:
        super().__init__()
        require("model.convs", convs, CONVS)
        require("model.conv_channels", conv_channels, whole(1, 4_096))
        require("model.conv_norm", conv_norm, SWITCH)
        require("model.gru_layers", gru_layers, whole(1, 100))
        require("model.gru_size", gru_size, whole(1, 65_536))
        require("model.dropout", dropout, FRACTION)
        require("model.output_norm", output_norm, SWITCH)
        if any(size % 2 == 0 for conv in convs for size in conv["kernel"]):
            raise InputError("model.convs: a kernel has an even size; use odd sizes, which keep the frames centred")
        self.time_strides = [int(conv["stride"][1]) for conv in convs]
        self.n_mels = n_mels
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        channels, height = 1, n_mels
        for conv in convs:
            (kernel_f, kernel_t), stride = conv["kernel"], tuple(conv["stride"])
            padding = (kernel_f // 2, kernel_t // 2)
            self.convs.append(nn.Conv2d(channels, conv_channels, (kernel_f, kernel_t), stride, padding))
            self.norms.append(MaskedBatchNorm2d(conv_channels))
            channels, height = conv_channels, (height - 1) // stride[0] + 1
        self.conv_norm = MaskedBatchNorm2d(channels) if conv_norm else None
        sizes = [channels * height] + [2 * gru_size] * gru_layers
        self.grus = nn.ModuleList(BidirectionalGRU(size, gru_size) for size in sizes[:-1])
        self.dropout = nn.Dropout(dropout)
        self.output_norm = nn.LayerNorm(sizes[-1]) if output_norm else nn.Identity()
        self.output = nn.Linear(sizes[-1], n_classes)

    def output_lengths(self, lengths: Frames) -> Frames:
        """Return the number of output frames for a number (or tensor) of input frames, rounded up by each stride."""
        for stride in self.time_strides:
            lengths = (lengths - 1) // stride + 1
        return lengths

    def forward(self, features: Tensor, lengths: Tensor) -> ModelOutput:
        """Return log-probabilities and the number of valid output frames.

        features: (B, F, T) log-mel, hop_samples / sample_rate seconds per frame; padding is ignored
        lengths:  (B,) valid frames, 1 <= lengths <= T, on the CPU, so that checking them does not synchronise a GPU
        returns:  log_probs (B, T', V) with the blank as class 0, and lengths (B,) on the CPU, as F.ctc_loss expects
        raises:   ValueError if F differs from n_mels or a length is out of bounds
        """
        if features.shape[1] != self.n_mels:
            raise ValueError(f"features have {features.shape[1]} mel bins, the model was built for {self.n_mels}")
        if int(lengths.min()) < 1 or int(lengths.max()) > features.shape[2]:
            raise ValueError(
                f"lengths {lengths.tolist()}: each must be between 1 and {features.shape[2]}, the frames given"
            )
        x, on_device = self._convolve(features, lengths.to(features.device, non_blocking=True))
        x = x.permute(3, 0, 1, 2).flatten(2)  # (B, C, F, T) -> (T, B, C * F)
        index = reversal(on_device, len(x))
        for i, gru in enumerate(self.grus):
            x = gru(self.dropout(x) if i else x, index)
        logits = self.output(self.output_norm(x)).transpose(0, 1)
        return ModelOutput(F.log_softmax(logits.float(), -1), self.output_lengths(lengths))

    def _convolve(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        mask = _mask(lengths, features.shape[2])
        # where() instead of a product: padding may hold nan, and 0 * nan is nan.
        x = features.unsqueeze(1).where(mask.bool(), 0.0)
        for stride, conv, norm in zip(self.time_strides, self.convs, self.norms, strict=True):
            lengths = (lengths - 1) // stride + 1
            x = conv(x)
            mask = _mask(lengths, x.shape[3]).to(x.dtype)
            x = F.hardtanh(norm(x * mask, mask), 0.0, 20.0) * mask
        if self.conv_norm is not None:
            x = F.relu(self.conv_norm(x, mask))
        return x, lengths


def _mask(lengths: Tensor, steps: int) -> Tensor:
    """Return (B, 1, 1, T), 1 for valid frames, from lengths (B,)."""
    return (torch.arange(steps, device=lengths.device) < lengths[:, None])[:, None, None].float()


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
