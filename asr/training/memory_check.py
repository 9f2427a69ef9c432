"""What is tried before training, and leaves no trace in it.

The longest batch, so that memory runs out in the first minute and not in the tenth hour; and, of several processes, a
frame of silence, so that their gradients lie where they will lie from then on.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from asr.data.augment import Augment, seeded
from asr.data.batches import WHOLE, Passes, Position, Share
from asr.data.dataset import Batch, Utterance, UtteranceDataset, collate
from asr.models.deep_speech2 import DeepSpeech2
from asr.training.compute import Compute
from asr.training.distributed import unsynchronised
from asr.training.memory import out_of_memory_explained
from asr.training.step import batch_losses, no_losses

PASSES = 3  # over the data, of which the longest batch is taken
DRAWS = 100  # of the augmentation, of which the longest is taken


def is_wanted(setting: bool | str, compute: Compute) -> bool:
    """The config's `rehearse`. auto: on CUDA. Elsewhere a batch that is too long makes the machine swap, not fail."""
    return compute.device.type == "cuda" if setting == "auto" else bool(setting)


def longest_batch(dataset: UtteranceDataset, passes: Passes, share: Share = WHOLE) -> Batch:
    """The piece of a batch with the most frames, padding included, of all passes.

    Nothing else takes more memory. Of several processes the first gets the longest share, and all try that.

    Ids and references are real. The features are zeros, as many for each utterance as the longest can have, augmented;
    and each has the batch's longest text.

    Random batches of so many utterances are as long in every pass: each has the longest utterance. Batches of like
    length are in every pass others, and lhotse lets the last utterance of one lengthen all of it, so that it exceeds
    batch.seconds by some percent; a later pass can exceed it by a little more than the PASSES that are looked through.
    """
    batches = (batch for number in range(PASSES) for batch in passes.batches(number))
    pieces = (piece for batch in batches for piece in share._replace(rank=0).of(batch))
    longest = max(pieces, key=lambda piece: len(piece) * max(heard.duration for heard in piece))
    cuts, seconds = [heard.cut for heard in longest], max(heard.duration for heard in longest)
    rate = dataset.features.sample_rate
    samples = longest_augmented(dataset.augment, round(seconds * rate), rate)
    features = torch.zeros(dataset.features.frames(samples), dataset.features.n_mels)
    references = [dataset.alphabet.normalize(cut.supervisions[0].text or "") for cut in cuts]
    targets = torch.tensor(dataset.alphabet.encode(max(references, key=len)), dtype=torch.long)
    return collate(
        Position(0, 0),
        [
            Utterance(cut.id, reference, features, targets, seconds)
            for cut, reference in zip(cuts, references, strict=True)
        ],
        [],
        dataset.features.n_mels,
    )


def longest_augmented(augment: Augment | None, samples: int, sample_rate: int) -> int:
    """The most samples that so many become: of DRAWS draws, since a transform does not tell how far it can stretch.

    The masks of a spectrogram leave its length alone.
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
    """One forward and backward pass, `without_trace`; of several processes each tries its own, with DDP's buckets.

    An optimizer that has not stepped yet has no state; for the time of the rehearsal twice the weights are held
    instead, as much as Adam's state, which is the largest that the configs have.
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


def parallel(model: DeepSpeech2, compute: Compute) -> nn.Module:
    """The model as all processes train it together, which has seen a frame of silence, `without_trace`.

    After its first backward pass DistributedDataParallel lays the gradients out anew, in the order in which they came;
    and where a gradient lies decides how its sum over three processes or more rounds. That pass is made here, so that a
    resumed run rounds as one that nothing has stopped.
    """
    trained = compute.world.parallel(model)
    if compute.world.size > 1:
        with without_trace(model, compute.device):
            no_losses(trained, model.n_mels, compute).sum().backward()
    return trained


@contextmanager
def without_trace(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, the model is in train mode; then its mode, its buffers and torch's generators are as they were.

    Gradients are None afterwards.
    """
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
