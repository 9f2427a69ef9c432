"""Score a model: loss, transcripts and their errors."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import nn

from asr.corpora.manifest import Utterances
from asr.data.batches import Position, Shard
from asr.data.dataset import Batch
from asr.data.loader import evaluation_batches
from asr.data.text import BLANK
from asr.decoding.alignment import align_words
from asr.decoding.decoder import Decoder
from asr.metrics import ErrorRates, Scored, score
from asr.models.ctc import alignable
from asr.models.recognizer import Recognizer
from asr.training.compute import Compute
from asr.training.memory import EVALUATION_SETTINGS, out_of_memory_explained
from asr.training.step import batch_losses


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    loss:        mean CTC loss of the utterances, in nats
    unalignable: utterances that are too short for their text, whose loss counts as 0
    blank_share: frames whose most likely class is the blank, over all frames
    """

    loss: float
    unalignable: int
    blank_share: float
    scored: list[Scored]
    audio_seconds: float
    wall_seconds: float

    @cached_property
    def rates(self) -> ErrorRates:
        """Return the word and character errors of all utterances."""
        return ErrorRates.of(self.scored)

    @property
    def symbol_ratio(self) -> float:
        """Return the symbols of all hypotheses over those of all references, without spaces.

        A model that has learned nothing writes blanks and spaces, the most frequent symbol.
        """
        hypotheses = sum(len(one.hypothesis.replace(" ", "")) for one in self.scored)
        return hypotheses / max(1, sum(len(one.reference.replace(" ", "")) for one in self.scored))

    @property
    def symbol_entropy(self) -> float:
        """Return the entropy of the references' symbols in nats: about the loss of a model that ignores the audio."""
        counts = Counter(chain.from_iterable(one.reference for one in self.scored))
        total = counts.total()
        return sum(count / total * math.log(total / count) for count in counts.values())

    def as_metrics(self) -> dict[str, float]:
        """Return the numbers by the names under which they are logged."""
        return {
            "loss": self.loss,
            **self.rates.as_metrics(),
            "blank_share": self.blank_share,
            "symbol_ratio": self.symbol_ratio,
            "symbol_entropy": self.symbol_entropy,
        }

    def examples(self) -> list[dict[str, str]]:
        """Return three utterances: those at a sixth, a half and five sixths of the ids, in sorted order."""
        by_id = sorted(self.scored, key=lambda one: one.id)
        places = sorted({len(by_id) * sixths // 6 for sixths in (1, 3, 5)}) if by_id else []
        return [{name: getattr(by_id[place], name) for name in ("id", "reference", "hypothesis")} for place in places]


class BatchScores(NamedTuple):
    """The results of a batch. losses: one number per utterance; frames exclude padding."""

    position: Position
    losses: list[float]
    unalignable: int
    frames: int
    blank_frames: int
    scored: list[Scored]
    audio_seconds: float


def evaluate(
    model: nn.Module, batches: Iterable[Batch], decoder: Decoder, compute: Compute, confidences: bool = False
) -> Evaluation:
    """Compute the loss and the transcript of every utterance; the model is left in eval mode.

    batches:     those of this process; the evaluation is of all processes' batches, and the same in each of them
    confidences: whether to compute each word's confidence too
    """
    model.eval()
    start = time.perf_counter()
    with compute.world.errors_shared():
        own = [score_batch(model, batch, decoder, compute, confidences) for batch in batches]
    scores = sorted(chain(*compute.world.gather(own)), key=lambda one: one.position)
    losses = [loss for one in scores for loss in one.losses]
    return Evaluation(
        loss=sum(losses) / max(1, len(losses)),
        unalignable=sum(one.unalignable for one in scores),
        blank_share=sum(one.blank_frames for one in scores) / max(1, sum(one.frames for one in scores)),
        scored=[utterance for one in scores for utterance in one.scored],
        audio_seconds=sum(one.audio_seconds for one in scores),
        wall_seconds=time.perf_counter() - start,
    )


@torch.inference_mode()
def score_batch(model: nn.Module, batch: Batch, decoder: Decoder, compute: Compute, confidences: bool) -> BatchScores:
    """Score a batch by a model in eval mode; see evaluate."""
    with out_of_memory_explained(batch, compute.device, compute.bf16, settings=EVALUATION_SETTINGS):
        losses, (log_probs, lengths) = batch_losses(model, batch, compute)
    unalignable = int((~alignable(lengths, batch.targets, batch.target_lengths)).sum())
    log_probs = log_probs.float().cpu()
    scored = []
    for row, (best, *_) in enumerate(decoder(log_probs, lengths)):
        utterance = batch.utterances[row]
        known: dict[str, Any] = {"speaker": utterance.speaker, "seconds": utterance.seconds}
        if confidences:
            words = align_words(log_probs[row, : lengths[row]], best.text, decoder.alphabet, frame_seconds=1.0)
            known["confidences"] = tuple(word.confidence for word in words)
        scored.append(score(utterance.id, batch.references[row], best.text, **known))
    is_valid = torch.arange(log_probs.shape[1]) < lengths[:, None]
    frames, blank_frames = int(is_valid.sum()), int(((log_probs.argmax(-1) == BLANK) & is_valid).sum())
    return BatchScores(batch.position, losses.tolist(), unalignable, frames, blank_frames, scored, batch.seconds)


def score_parts(
    recognizer: Recognizer,
    compute: Compute,
    decoder: Decoder,
    parts: Mapping[str, Utterances],
    eval_seconds: float,
    workers: int,
) -> dict[str, Evaluation]:
    """Evaluate each part on its own, with the confidence of each word."""
    dataset = recognizer.dataset(augment=None, seed=0)
    shard = Shard(compute.world.rank, compute.world.size)
    return {
        part: evaluate(
            recognizer.model,
            evaluation_batches(dataset, utterances, eval_seconds, workers, compute.pin_memory, shard),
            decoder,
            compute,
            confidences=True,
        )
        for part, utterances in parts.items()
    }
