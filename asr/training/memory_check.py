"""Try the longest batch before training, so that memory runs out in the first minute and not in the tenth hour."""

import torch
from torch import nn
from torch.optim import Optimizer

from asr.data.batches import WHOLE, EpochBatches, Shard
from asr.data.dataset import Batch, UtteranceDataset
from asr.training.compute import Compute
from asr.training.distributed import unsynchronised
from asr.training.experiment import Experiment
from asr.training.memory import out_of_memory_explained
from asr.training.parallel import without_trace
from asr.training.step import batch_losses

EPOCHS = 3  # of the data, in which the longest batch is looked for


def check_memory(run: Experiment, model: nn.Module) -> None:
    """Try the longest batch that training can draw, if `rehearse` is true, or auto and the device is CUDA.

    model:  as all processes train it
    raises: InputError if memory does not suffice
    """
    setting = run.config["rehearse"]
    if run.compute.device.type == "cuda" if setting == "auto" else setting:
        longest = longest_batch(run.training_dataset(), run.batches, run.shard)
        with run.compute.world.errors_shared():
            if longest.ids:  # else none of its utterances can be read
                try_batch(model, longest, run.optimizer, run.compute)


def longest_batch(dataset: UtteranceDataset, batches: EpochBatches, shard: Shard = WHOLE) -> Batch:
    """Return the micro-batch with the most audio, padding included, of the first EPOCHS epochs of the data.

    All processes try the shard of the first, which is the longest. Random batches are as long in every epoch; batches
    of similar length differ, so a later one can exceed this by a little.
    """
    found = dataset[batches.longest(EPOCHS, shard)]
    assert isinstance(found, Batch), "utterances that cannot be read are left out"
    return found


def try_batch(model: nn.Module, batch: Batch, optimizer: Optimizer, compute: Compute) -> None:
    """Run one forward and backward pass that leaves no trace, with DDP's buckets if there are several processes.

    An optimizer that has not stepped yet has no state; twice the weights are held in its place, as much as Adam's.

    raises: InputError if memory does not suffice
    source: PyTorch's Performance Tuning Guide, "Preallocate memory in case of variable input length"
    """
    what = "the longest batch that training can draw (tried before the first step)"
    with (
        without_trace(model, compute.device),
        out_of_memory_explained(batch, compute.device, compute.bf16, what),
        unsynchronised(model),  # a process that has no room must not leave the others waiting for its gradient
    ):
        held = [] if optimizer.state else [torch.empty_like(p) for p in model.parameters() for _ in range(2)]
        batch_losses(model, batch, compute)[0].mean().backward()
        del held
