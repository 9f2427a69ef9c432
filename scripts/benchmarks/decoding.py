"""How many times faster than speech an evaluation is: features, model, greedy transcripts, error rates."""

from collections.abc import Iterator

import numpy as np

from asr.config.build import build_experiment
from asr.training.evaluation import score_parts
from benchmarks import Figure, composed

UTTERANCES = 128


def measure(corpus: list[str]) -> Iterator[Figure]:
    """corpus: the overrides that choose the data. Weights are random: what is heard makes no difference to the time."""
    config = composed(["model=ds2_7gru", "augment=none", *corpus])
    session = build_experiment(config)
    utterances = session.data.training_utterances()
    these = utterances.filter(np.arange(len(utterances)) < UTTERANCES)
    evaluation = score_parts(
        session.recognizer, session.compute, session.decoder, {"these": these}, config.batch.eval_seconds, 1
    )["these"]
    speed = evaluation.audio_seconds / evaluation.wall_seconds
    yield Figure("decode", "greedy evaluation of ds2_7gru", speed, "x real time", 30)
