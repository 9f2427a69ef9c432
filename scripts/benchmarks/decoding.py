"""How many times faster than speech an evaluation is: audio, model, transcripts, their words' times, errors."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from asr.config.build import build_experiment
from asr.decoding.beam import BeamSearch
from asr.decoding.decoder import Decoder
from asr.decoding.ngram import estimate, write_arpa
from asr.training.evaluation import score_parts
from benchmarks import Figure, composed

UTTERANCES = 128


def measure(corpus: list[str]) -> Iterator[Figure]:
    """corpus: the overrides that choose the data. Weights are random, which makes beam search slower than trained ones.

    The language model is a 3-gram of the training transcripts.
    """
    config = composed(["model=ds2_7gru", "augment=none", *corpus])
    session = build_experiment(config)
    utterances = session.data.training_utterances()
    these = utterances.filter(np.arange(len(utterances)) < UTTERANCES)
    alphabet = session.recognizer.alphabet

    def speed(decoder: Decoder) -> float:
        evaluation = score_parts(
            session.recognizer, session.compute, decoder, {"these": these}, config.batch.eval_seconds, 1
        )["these"]
        return evaluation.audio_seconds / evaluation.wall_seconds

    yield Figure("decode", "greedy evaluation of ds2_7gru", speed(session.decoder), "x real time", 30)
    with tempfile.TemporaryDirectory() as folder:
        lm = Path(folder) / "lm.arpa"
        texts = (alphabet.normalize(text) for text in utterances.table["text"].to_pylist())
        write_arpa(estimate(texts, 3, [0], 1, None), lm)
        beam = BeamSearch(alphabet, lexicon="lm", lm=str(lm), lm_weight=0.5)
        yield Figure("decode", "beam 100 and a 3-gram: evaluation of ds2_7gru", speed(beam), "x real time", 20)
