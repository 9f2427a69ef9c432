"""Turn cuts into batches: read, augment, transform to features and pad, in the loader's workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from lhotse.cut import Cut
from torch import Tensor
from torch.utils.data import Dataset

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

    features: (B, F, T) float32, zero beyond each length; lengths: (B,) frames
    targets:  (B, L) symbol ids, zero beyond each target_length (B,)
    seconds:  of audio, without padding
    unreadable: utterances that were left out; if a training batch loses all of them, then B, T and L are 0
    """

    position: Position
    ids: list[str]
    references: list[str]
    features: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    seconds: float
    unreadable: list[Unreadable]

    @property
    def padding_share(self) -> float:
        """Padded frames over all frames of the batch; 0 if it has none."""
        frames = len(self.ids) * self.features.shape[2]
        return 1 - float(self.lengths.sum()) / frames if frames else 0.0


class Utterance(NamedTuple):
    """One utterance, ready for a batch. features: (T, F)."""

    id: str
    reference: str
    features: Tensor
    targets: Tensor
    seconds: float


@dataclass(frozen=True)
class UtteranceDataset(Dataset):
    """Map (position, cuts) to a Batch, or to the InputError that stopped it.

    augment: of training utterances, seeded by (seed, epoch of the data, utterance id); None for dev and test
    skip_unreadable: leave out utterances without usable audio and name them in the batch; otherwise the first one is an
                     error, since scores of some of the utterances would mean nothing
    """

    alphabet: Alphabet
    features: LogMel
    augment: Augment | None
    seed: int
    skip_unreadable: bool = False

    def __getitem__(self, item: tuple[Position, list[Cut]]) -> Batch | InputError:
        position, cuts = item
        utterances: list[Utterance] = []
        unreadable: list[Unreadable] = []
        for cut in cuts:
            try:
                utterances.append(self.utterance(cut, position.pass_number))
            except UnreadableError as error:
                if not self.skip_unreadable:
                    # Returned, not raised: the loader would wrap it into the traceback of its worker.
                    return error
                unreadable.append(Unreadable(*error.args))
        return collate(position, utterances, unreadable, self.features.n_mels)

    def utterance(self, cut: Cut, data_epoch: int) -> Utterance:
        """Read, augment and transform one cut."""
        with one_thread(), seeded(self.seed, data_epoch, cut.id):
            samples = self._waveform(cut, data_epoch)
            features = self.features(torch.from_numpy(samples), self.augment.spectrogram if self.augment else ())
        reference = self.alphabet.normalize(cut.supervisions[0].text or "")
        return Utterance(
            cut.id, reference, features.T, torch.tensor(self.alphabet.encode(reference), dtype=torch.long), cut.duration
        )

    def waveform(self, cut: Cut, data_epoch: int) -> np.ndarray:
        """Return the (N,) samples of which the spectrogram is computed, to listen to."""
        with seeded(self.seed, data_epoch, cut.id):
            return self._waveform(cut, data_epoch)

    def _waveform(self, cut: Cut, data_epoch: int) -> np.ndarray:
        samples = load_audio(cut, self.features.sample_rate)
        if self.augment is None:
            return samples
        speed = self.augment.speed_of(self.seed, data_epoch, cut.id)
        return self.augment.waveform(samples, self.features.sample_rate, speed)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as in a loader's workers: sums of several threads can round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def collate(position: Position, utterances: list[Utterance], unreadable: list[Unreadable], n_mels: int) -> Batch:
    """Pad utterances of n_mels mel bins to a batch."""
    frames = [len(u.features) for u in utterances]
    symbols = [len(u.targets) for u in utterances]
    features = torch.zeros(len(utterances), n_mels, max(frames, default=0))
    targets = torch.zeros(len(utterances), max(symbols, default=0), dtype=torch.long)
    for row, one in enumerate(utterances):
        features[row, :, : frames[row]] = one.features.T
        targets[row, : symbols[row]] = one.targets
    return Batch(
        position,
        [u.id for u in utterances],
        [u.reference for u in utterances],
        features,
        torch.tensor(frames, dtype=torch.long),
        targets,
        torch.tensor(symbols, dtype=torch.long),
        sum((u.seconds for u in utterances), 0.0),
        unreadable,
    )
