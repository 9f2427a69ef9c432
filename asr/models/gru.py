"""Bidirectional GRUs over padded batches: the results of packed sequences, several times faster on a CPU.

- The backward direction is a forward GRU over utterances that are reversed within their lengths. This keeps padding
  out without packed sequences, whose backward pass is slow on a CPU.
- The gradient is written by hand: the weight gradients are one large matrix product after the last step instead of a
  small one per step, and the product in each step runs in oneDNN with weights packed once. On other devices the layer
  is nn.GRU (cuDNN on CUDA).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class BidirectionalGRU(nn.Module):
    """Apply one bidirectional GRU layer to a padded batch; padding does not affect the output at valid frames."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.forward_gru = GRU(input_size, hidden_size)
        self.backward_gru = GRU(input_size, hidden_size)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Return (T, B, 2 H), undefined at padding; x: (T, B, I); index: (T * B,) from `reversal`."""
        forwards = self.forward_gru(x)
        backwards = self.backward_gru(_Permute.apply(x.flatten(0, 1), index).view_as(x))
        backwards = _Permute.apply(backwards.flatten(0, 1), index).view_as(forwards)
        return torch.cat((forwards, backwards), 2)


def reversal(lengths: Tensor, steps: int) -> Tensor:
    """Return the index that reverses each utterance of a (T, B) batch within its length and leaves padding in place.

    lengths: (B,)
    steps:   T
    returns: (T * B,) positions in the flattened batch; the permutation is its own inverse
    """
    time = torch.arange(steps, device=lengths.device)[:, None]
    reversed_time = torch.where(time < lengths, lengths - 1 - time, time)
    return (reversed_time * len(lengths) + torch.arange(len(lengths), device=lengths.device)).flatten()


class GRU(nn.GRU):
    """Apply a single-layer unidirectional GRU; the parameters and results are those of nn.GRU."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Return the hidden states (T, B, H); x: (T, B, I)."""
        if x.device.type != "cpu":
            return super().forward(x)[0]
        return _Recurrence.apply(x, self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)


class _Permute(torch.autograd.Function):
    """Reorder the rows of a matrix by an index that is its own inverse, so that the gradient is the same reordering.

    The gradient of index_select adds row by row, which is slow on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return grads[0].index_select(0, index), None


class _Recurrence(torch.autograd.Function):
    """Compute h' = (1 - z) n + z h with z, r = sigmoid(x W + b + h U + c) and n = tanh(x W + b + r (h U + c)).

    source: torch.nn.GRU; Cho et al. 2014
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx: Any, x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
        """Return the hidden states (T, B, H); x: (T, B, I); weights as in nn.GRU, rows in the order r, z, n.

        Under autocast the inputs of matrix products are rounded to bf16; everything else stays in float32.
        """
        steps, batch, _ = x.shape
        size = w_hh.shape[1]
        gates = matmul(w_ih, b_ih)(x.flatten(0, 1)).view(steps, batch, 3 * size)
        states = gates.new_zeros(steps + 1, batch, size)
        recurrent = gates.new_empty(steps, batch, size)  # h U + c for n
        product = matmul(w_hh, b_hh)
        r, z, n = gates.split(size, 2)
        each_step = zip(gates[..., : 2 * size], r, z, n, recurrent, states[:-1], states[1:], strict=True)
        for rz_t, r_t, z_t, n_t, recurrent_t, h, h_next in each_step:
            from_h = product(h)
            rz_t.add_(from_h[:, : 2 * size]).sigmoid_()
            recurrent_t.copy_(from_h[:, 2 * size :])
            n_t.addcmul_(r_t, recurrent_t).tanh_()
            torch.lerp(n_t, h, z_t, out=h_next)
        ctx.save_for_backward(x, w_ih, w_hh, gates, recurrent, states)
        return states[1:]

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients; those of a step are its dh times factors that are computed for all steps at once."""
        x, w_ih, w_hh, gates, recurrent, states = ctx.saved_tensors
        steps, batch, size = recurrent.shape
        r, z, n = gates.split(size, 2)
        to_n = (1 - n.square()).mul_(1 - z)
        to_gates = torch.stack((to_n * recurrent * (r * (1 - r)), (states[:-1] - n) * (z * (1 - z)), to_n * r), 2)
        dh = torch.zeros_like(states[0])
        product = matmul(w_hh.t())
        each_step = zip(grads[0], to_gates, to_n, z, strict=True)
        for grad_t, to_gates_t, to_n_t, z_t in reversed(list(each_step)):
            dh.add_(grad_t)
            to_n_t.mul_(dh)
            to_gates_t.mul_(dh[:, None])
            dh.mul_(z_t).add_(product(to_gates_t.flatten(1)))
        d_hidden = to_gates.view(steps * batch, 3 * size)
        dw_hh, db_hh = d_hidden.t().to(x.dtype) @ states[:-1].flatten(0, 1).to(x.dtype), d_hidden.sum(0)
        to_gates[:, :, 2] = to_n  # for n, the gradient of h U + c has a factor r that that of x W + b lacks
        dw_ih, db_ih = d_hidden.t().to(x.dtype) @ x.flatten(0, 1), d_hidden.sum(0)
        dx = matmul(w_ih.t())(d_hidden).view_as(x) if ctx.needs_input_grad[0] else None
        return dx, dw_ih, dw_hh, db_ih, db_hh


def matmul(weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """Return a function that maps rows (R, K) to rows @ weight.T + bias, with the weight (N, K) packed once.

    Rows are rounded to the dtype of the weight; for bf16, sums and result are float32. oneDNN, if torch has it, is
    faster in float32 than torch's BLAS: on AMD about 1.4 times for many rows and 2 times for few.
    """
    low, high = weight.dtype, torch.promote_types(weight.dtype, torch.float32)
    if not _packs(low):
        return lambda rows: F.linear(rows.to(low), weight, bias).to(high)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return lambda rows: torch.ops.mkldnn._linear_pointwise(rows.to(low), packed, bias, "none", [], "").to(high)


def _packs(dtype: torch.dtype) -> bool:
    """Return whether oneDNN is available and supports the dtype on this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
