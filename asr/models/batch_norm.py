"""Batch normalisation that excludes padded frames from its statistics."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Total = Callable[[Tensor], Tensor]  # sums a vector over all ranks


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """Apply BatchNorm2d with statistics computed over valid frames only.

    total:  sums a vector over all ranks; None if each rank uses its own statistics
    counts: False if the input must not contribute to any statistics
    """

    total: Total | None = None
    counts: bool = True

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise a batch.

        input:   (B, C, F, T); must be zero where mask is 0
        mask:    (B, 1, 1, T), 1 for valid frames; None if all are valid
        returns: (B, C, F, T), undefined where mask is 0
        """
        if not self.training or mask is None:
            return super().forward(input)
        input = input.float()  # bf16 is too coarse for sums of squares
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
    """Return the mean (C,) and variance (C,) over the valid frames, and the number of valid values per channel ()."""
    var_all, mean_all = torch.var_mean(input, (0, 2, 3), correction=0)
    frames = mask.numel() * input.shape[2]  # values per channel, padding included
    sums = torch.cat((mean_all, var_all + mean_all.square(), mask.mean()[None])) * frames
    if total is not None:
        sums = total(sums * counts)
    count = sums[-1].clamp(min=1)
    mean, square = (sums[:-1] / count).chunk(2)
    return mean, (square - mean.square()).clamp(min=0), count


class _Normalize(torch.autograd.Function):
    """Normalise with given statistics, which must be those of the valid frames of the input.

    The gradient is written by hand: it makes three passes over the input, where autograd would make eight.
    source: Ioffe and Szegedy 2015, section 3
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, count: Tensor,
        total: Total | None, counts: bool,
    ) -> Tensor:  # fmt: skip
        """Return input * scale + shift; input: (B, C, F, T), zero at padding; weight ... rstd: (C,); count: ()."""
        ctx.save_for_backward(input, weight, mean, rstd, count)
        ctx.total, ctx.counts = total, counts
        scale = weight * rstd
        return torch.addcmul((bias - mean * scale)[:, None, None], input, scale[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients, given one that is zero at padding; the gradient of the input is undefined there."""
        input, weight, mean, rstd, count = ctx.saved_tensors
        # Used only for its sums: of the gradient times the normalised input, and of the gradient.
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
