"""The model wrapped for training in several processes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from asr.models.deep_speech2 import DeepSpeech2
from asr.training.compute import Compute
from asr.training.step import zero_loss


def distribute(model: DeepSpeech2, compute: Compute) -> nn.Module:
    """Wrap the model so that its backward pass averages the gradients of all processes; return it as it is for one.

    After its first backward pass DistributedDataParallel reorders its buckets, which changes how sums over three or
    more processes round. That pass is made here, on a frame of silence, so that a resumed run rounds as an
    uninterrupted one does.
    """
    world = compute.world
    if world.size == 1:
        return model
    # No device_ids: they would move the lengths to the GPU.
    distributed = DistributedDataParallel(model, process_group=world.steps, gradient_as_bucket_view=True)
    with without_trace(model, compute.device):
        zero_loss(distributed, model.n_mels, compute).sum().backward()
    return distributed


@contextmanager
def without_trace(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put the model into train mode; afterwards restore mode, buffers and torch's generators, and drop gradients."""
    buffers, training = [(buffer, buffer.clone()) for buffer in model.buffers()], model.training
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
            model.train()
            yield
    finally:
        model.train(training)
        for parameter in model.parameters():
            parameter.grad = None
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
