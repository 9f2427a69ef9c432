"""Turn utterances into batches: read, augment, transform to features and pad, in the loader's workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from asr.corpora.manifest import Utterance
from asr.data.audio import UnreadableError, load_audio
from asr.data.augment import Augment, seeded
from asr.data.batches import Position
from asr.data.features import LogMel
from asr.data.text import Alphabet
from asr.errors import InputError


class Unreadable(NamedTuple):
    """An utterance without usable audio, and the reason."""

    id: str
    reason: str


class Batch(NamedTuple):
    """Utterances, padded to the longest.

    references: their normalised texts
    features: (B, F, T) float32, zero beyond each length; lengths: (B,) frames
    targets:  (B, L) symbol ids, zero beyond each target_length (B,)
    unreadable: utterances that were left out; if a training batch loses all of them, then B, T and L are 0
    """

    position: Position
    utterances: list[Utterance]
    references: list[str]
    features: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    unreadable: list[Unreadable]

    @property
    def ids(self) -> list[str]:
        return [utterance.id for utterance in self.utterances]

    @property
    def seconds(self) -> float:
        """Return the duration of all audio, without padding and at its original speed."""
        return sum((utterance.seconds for utterance in self.utterances), 0.0)

    @property
    def padding_share(self) -> float:
        """Padded frames over all frames of the batch; 0 if it has none."""
        frames = len(self.utterances) * self.features.shape[2]
        return 1 - float(self.lengths.sum()) / frames if frames else 0.0


class Example(NamedTuple):
    """An utterance, ready for a batch. features: (T, F)."""

    utterance: Utterance
    reference: str
    features: Tensor
    targets: Tensor


@dataclass(frozen=True)
class UtteranceDataset(Dataset):
    """Map (position, utterances) to a Batch, or to the InputError that stopped it.

    augment: of training utterances, seeded by (seed, epoch of the data, utterance id); None for dev and test
    skip_unreadable: leave out utterances without usable audio and name them in the batch; otherwise the first one is an
                     error, since scores of some of the utterances would mean nothing
    """

    alphabet: Alphabet
    features: LogMel
    augment: Augment | None
    seed: int
    skip_unreadable: bool = False

    def __getitem__(self, item: tuple[Position, list[Utterance]]) -> Batch | InputError:
        position, utterances = item
        examples: list[Example] = []
        unreadable: list[Unreadable] = []
        for utterance in utterances:
            try:
                examples.append(self.example(utterance, position.data_epoch))
            except UnreadableError as error:
                if not self.skip_unreadable:
                    # Returned, not raised: the loader would wrap it into the traceback of its worker.
                    return error
                unreadable.append(Unreadable(*error.args))
        return collate(position, examples, unreadable, self.features.n_mels)

    def example(self, utterance: Utterance, data_epoch: int) -> Example:
        """Read, augment and transform one utterance."""
        with one_thread(), seeded(self.seed, data_epoch, utterance.id):
            samples = self._waveform(utterance)
            features = self.features(
                torch.from_numpy(np.ascontiguousarray(samples)), self.augment.spectrogram if self.augment else ()
            )
        reference = self.alphabet.normalize(utterance.text)
        targets = torch.tensor(self.alphabet.encode(reference), dtype=torch.long)
        return Example(utterance, reference, features.T, targets)

    def waveform(self, utterance: Utterance, data_epoch: int) -> np.ndarray:
        """Return the (N,) samples of which the spectrogram is computed, to listen to."""
        with seeded(self.seed, data_epoch, utterance.id):
            return self._waveform(utterance)

    def _waveform(self, utterance: Utterance) -> np.ndarray:
        samples = load_audio(utterance, self.features.sample_rate)
        if self.augment is None:
            return samples
        return self.augment.waveform(samples, self.features.sample_rate, utterance.speed)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as in a loader's workers: sums of several threads can round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def collate(position: Position, examples: list[Example], unreadable: list[Unreadable], n_mels: int) -> Batch:
    """Pad examples of n_mels mel bins to a batch."""
    frames = [len(one.features) for one in examples]
    symbols = [len(one.targets) for one in examples]
    features = torch.zeros(len(examples), n_mels, max(frames, default=0))
    targets = torch.zeros(len(examples), max(symbols, default=0), dtype=torch.long)
    for row, one in enumerate(examples):
        features[row, :, : frames[row]] = one.features.T
        targets[row, : symbols[row]] = one.targets
    return Batch(
        position,
        [one.utterance for one in examples],
        [one.reference for one in examples],
        features,
        torch.tensor(frames, dtype=torch.long),
        targets,
        torch.tensor(symbols, dtype=torch.long),
        unreadable,
    )
