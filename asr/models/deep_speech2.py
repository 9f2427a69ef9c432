"""Deep Speech 2: convolutions over the spectrogram, bidirectional GRUs over time, log-probabilities for CTC.

Pictures are laid out (batch, channel, frequency, time), so that the long side of the 41 x 11 kernels lies along
frequency, where oneDNN is fast on a CPU.
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


class ConvSpec(NamedTuple):
    """One convolution; pairs are frequency x time, and the padding is half of the kernel."""

    kernel: tuple[int, int]
    stride: tuple[int, int]


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


CONVS = Rule("a list of 1 to 16 times {kernel: [F, T], stride: [F, T]}, whole numbers from 1 to 1,001", _are_convs)


class ModelOutput(NamedTuple):
    """log_probs: (B, T', V); lengths: (B,) valid output frames, on the CPU."""

    log_probs: Tensor
    lengths: Tensor


class DeepSpeech2(nn.Module):
    """Log-probabilities of every symbol at every output frame.

    convs:       kernel and stride of the convolutions, each followed by BatchNorm2d and Hardtanh(0, 20)
    conv_channels: of every convolution
    conv_norm:   one more BatchNorm2d and ReLU between convolutions and GRUs
    gru_layers, gru_size: bidirectional layers, units of each direction
    dropout:     between GRU layers
    output_norm: LayerNorm before the output layer
    n_mels:      height F of the spectrogram
    n_classes:   V, with the blank
    raises:      InputError for a setting of another type or out of bounds
    source:      Amodei et al. 2015, section 3; sizes of the writeup
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
            raise InputError("model.convs: a kernel has an even side; odd ones keep the frames centred")
        self.specs = [ConvSpec(tuple(c["kernel"]), tuple(c["stride"])) for c in convs]
        self.n_mels = n_mels
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        channels, height = 1, n_mels
        for spec in self.specs:
            padding = (spec.kernel[0] // 2, spec.kernel[1] // 2)
            self.convs.append(nn.Conv2d(channels, conv_channels, spec.kernel, spec.stride, padding))
            self.norms.append(MaskedBatchNorm2d(conv_channels))
            channels, height = conv_channels, (height - 1) // spec.stride[0] + 1
        self.conv_norm = MaskedBatchNorm2d(channels) if conv_norm else None
        sizes = [channels * height] + [2 * gru_size] * gru_layers
        self.grus = nn.ModuleList(BidirectionalGRU(size, gru_size) for size in sizes[:-1])
        self.dropout = nn.Dropout(dropout)
        self.output_norm = nn.LayerNorm(sizes[-1]) if output_norm else nn.Identity()
        self.output = nn.Linear(sizes[-1], n_classes)

    def output_lengths(self, lengths: Frames) -> Frames:
        """Output frames for input frames (an int or a tensor): each convolution divides by its stride, rounding up."""
        for spec in self.specs:
            lengths = (lengths - 1) // spec.stride[1] + 1
        return lengths

    def forward(self, features: Tensor, lengths: Tensor) -> ModelOutput:
        """
        features: (B, F, T) log-mel; a frame is hop / sample rate seconds; what lies beyond a length is ignored
        lengths:  (B,) valid frames, 1 <= lengths <= T, on the CPU (so that checking them makes no GPU wait)
        returns:  log_probs (B, T', V) and lengths (B,), on the CPU too, where CTC wants them; V counts the blank, 0
        raises:   ValueError if F or a length is out of bounds
        """
        if features.shape[1] != self.n_mels:
            raise ValueError(f"features have {features.shape[1]} mel bins, the model was built for {self.n_mels}")
        if int(lengths.min()) < 1 or int(lengths.max()) > features.shape[2]:
            raise ValueError(
                f"lengths {lengths.tolist()}: each must lie between 1 and the {features.shape[2]} frames given"
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
        # where, not a product: padding may hold anything, and 0 * nan is nan.
        x = features.unsqueeze(1).where(mask.bool(), 0.0)
        for spec, conv, norm in zip(self.specs, self.convs, self.norms, strict=True):
            lengths = (lengths - 1) // spec.stride[1] + 1
            x = conv(x)
            mask = _mask(lengths, x.shape[3]).to(x.dtype)
            x = F.hardtanh(norm(x * mask, mask), 0.0, 20.0) * mask
        if self.conv_norm is not None:
            x = F.relu(self.conv_norm(x, mask))
        return x, lengths


def _mask(lengths: Tensor, steps: int) -> Tensor:
    """1 where a frame is valid: (B,) -> (B, 1, 1, T)."""
    return (torch.arange(steps, device=lengths.device) < lengths[:, None])[:, None, None].float()


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
