"""Deep Speech 2: convolutions over the spectrogram, bidirectional GRUs over time, log-probabilities for CTC.

Pictures are laid out (batch, channel, frequency, time), so that the long side of the 41 x 11 kernels lies along
frequency, where oneDNN is fast on a CPU.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from asr.errors import InputError
from asr.gru import BidirectionalGRU, reversal
from asr.settings import SHARE, Rule, one_of, require, whole

Frames = TypeVar("Frames", int, Tensor)
Total = Callable[[Tensor], Tensor]  # the sum of a vector over all processes


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


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics leave out the padded frames.

    total:  sums a vector over all processes; None where each has statistics of its own
    counts: false for an input that is to leave no trace in the statistics of others
    """

    total: Total | None = None
    counts: bool = True

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """input: (B, C, F, T), zero where mask (B, 1, 1, T) is 0; returns (B, C, F, T), anything where mask is 0."""
        if not self.training or mask is None:
            return super().forward(input)
        input = input.float()  # bf16 has too few digits for sums of squares
        mean, var, count = _statistics(input.detach(), mask.float(), self.total, self.counts)
        if self.counts:
            self._update_running(mean, var, count)
        rstd = torch.rsqrt(var + self.eps)
        return _Normalize.apply(input, self.weight, self.bias, mean, rstd, count, self.total, self.counts)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        momentum = self.momentum or 0.0
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((var * count / (count - 1).clamp(min=1)).to(self.running_var.dtype), momentum)
        self.num_batches_tracked.add_(1)


def _statistics(input: Tensor, mask: Tensor, total: Total | None, counts: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (C,) of what is not masked, and how many values of a channel that is ()."""
    var_all, mean_all = torch.var_mean(input, (0, 2, 3), correction=0)
    frames = mask.numel() * input.shape[2]  # of all bins, padding included
    sums = torch.cat((mean_all, var_all + mean_all.square(), mask.mean()[None])) * frames
    if total is not None:
        sums = total(sums * counts)
    count = sums[-1].clamp(min=1)
    mean, square = (sums[:-1] / count).chunk(2)
    return mean, (square - mean.square()).clamp(min=0), count


class _Normalize(torch.autograd.Function):
    """Batch norm by statistics that are those of the valid frames of its input.

    Written out, its gradient reads and writes the picture three times; autograd's, through mean and variance, eight.
    source: Ioffe and Szegedy 2015, section 3
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, count: Tensor,
        total: Total | None, counts: bool,
    ) -> Tensor:  # fmt: skip
        """input: (B, C, F, T), zero where it is not valid; weight, bias, mean, rstd: (C,); count: ()."""
        ctx.save_for_backward(input, weight, mean, rstd, count)
        ctx.total, ctx.counts = total, counts
        scale = weight * rstd
        return torch.addcmul((bias - mean * scale)[:, None, None], input, scale[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """A gradient beyond the valid frames is taken to be zero; that of the input is anything there."""
        input, weight, mean, rstd, count = ctx.saved_tensors
        # torch's own, for its sums alone: of the gradient times the normalised input, and of the gradient.
        _, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
            grads[0], input, weight, None, None, mean, rstd, True, 0.0, [False, True, True]
        )
        sums = torch.cat((d_weight, d_bias))
        along, level = ((sums if ctx.total is None else ctx.total(sums)) * ctx.counts / count).chunk(2)
        by_grad = weight * rstd
        by_input = -by_grad * rstd * along
        shift = -by_grad * level - by_input * mean
        d_input = torch.addcmul(shift[:, None, None], input, by_input[:, None, None])
        d_input.addcmul_(grads[0], by_grad[:, None, None])
        return d_input, d_weight, d_bias, None, None, None, None, None


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
        require("model.conv_norm", conv_norm, one_of(True, False))
        require("model.gru_layers", gru_layers, whole(1, 100))
        require("model.gru_size", gru_size, whole(1, 65_536))
        require("model.dropout", dropout, SHARE)
        require("model.output_norm", output_norm, one_of(True, False))
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
