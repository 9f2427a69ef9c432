"""Batch normalisation whose statistics leave padded frames out."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Total = Callable[[Tensor], Tensor]  # the sum of a vector over all processes


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
