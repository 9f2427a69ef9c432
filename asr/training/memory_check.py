"""The longest batch, tried before training, so that memory runs out in the first minute and not in the tenth hour."""

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from asr.data.augment import Augment, seeded
from asr.data.batches import WHOLE, EpochBatches, Position, Shard
from asr.data.dataset import Batch, Example, UtteranceDataset, collate
from asr.training.compute import Compute
from asr.training.distributed import unsynchronised
from asr.training.experiment import Experiment
from asr.training.memory import out_of_memory_explained
from asr.training.parallel import without_trace
from asr.training.step import batch_losses

EPOCHS = 3  # of the data, in which the longest batch is looked for
DRAWS = 100  # of the augmentation, of which the longest is taken


def check_memory(run: Experiment, model: nn.Module) -> None:
    """Try the longest batch that training can draw, where the setting `rehearse` asks for it.

    auto: on CUDA. Elsewhere a batch that is too long makes the machine swap, not fail.
    model: as all processes train it
    raises: InputError if memory does not suffice
    """
    setting = run.config["rehearse"]
    if run.compute.device.type == "cuda" if setting == "auto" else setting:
        longest = longest_batch(run.training_dataset(), run.batches, run.shard)
        with run.compute.world.errors_shared():
            rehearse(model, longest, run.optimizer, run.compute)


def longest_batch(dataset: UtteranceDataset, batches: EpochBatches, shard: Shard = WHOLE) -> Batch:
    """Return a micro-batch with as many frames, padding included, as training can draw; no other takes more memory.

    Its ids and references are real. Its features are zeros, as long for each utterance as the longest can become by
    augmentation, and each utterance has the batch's longest text. All processes try the shard of the first, which is
    the longest.

    Random batches are as long in every epoch of the data, since one of them holds the longest utterance. Batches of
    like length differ a little from epoch to epoch.
    """
    all_batches = (batch for number in range(EPOCHS) for batch in batches.batches(number))
    micro_batches = (micro_batch for batch in all_batches for micro_batch in shard._replace(rank=0).of(batch))
    longest = max(micro_batches, key=lambda some: len(some) * max(one.seconds / one.speed for one in some))
    seconds = max(one.seconds / one.speed for one in longest)
    rate = dataset.features.sample_rate
    samples = longest_augmented(dataset.augment, round(seconds * rate), rate)
    features = torch.zeros(dataset.features.frames(samples), dataset.features.n_mels)
    references = [dataset.alphabet.normalize(one.text) for one in longest]
    targets = torch.tensor(dataset.alphabet.encode(max(references, key=len)), dtype=torch.long)
    return collate(
        Position(0, 0),
        [
            Example(one.id, reference, features, targets, seconds)
            for one, reference in zip(longest, references, strict=True)
        ],
        [],
        dataset.features.n_mels,
    )


def longest_augmented(augment: Augment | None, samples: int, sample_rate: int) -> int:
    """Return the most samples that so many became in DRAWS draws; a transform does not say how far it can stretch.

    The masks of a spectrogram do not change its length.
    """
    if augment is None or not augment.wave:
        return samples
    lengths = []
    for draw in range(DRAWS):
        with seeded("rehearsal", draw):
            noise = np.random.normal(0, 0.1, samples).astype(np.float32)
            lengths.append(len(augment.waveform(noise, sample_rate)))
    return max(lengths)


def rehearse(model: nn.Module, batch: Batch, optimizer: Optimizer, compute: Compute) -> None:
    """Run one forward and backward pass that leaves no trace, with DDP's buckets if there are several processes.

    An optimizer that has not stepped yet has no state; twice the weights are held in its place, as much as Adam's.
    On CUDA torch keeps what it has allocated, so that later batches find room without new fragments.

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
