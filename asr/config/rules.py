"""The rule of each setting of asr.train and asr.search; models, features and torch's classes check their own."""

import re
from dataclasses import fields

from asr.settings import (
    ABOVE_1,
    BELOW_1,
    FRACTION,
    GROUP,
    LIST,
    NUMBER,
    POSITIVE,
    STRING,
    STRINGS,
    SWITCH,
    Rule,
    Rules,
    one_of,
    whole,
)
from asr.training.monitor import EXAMPLES
from asr.training.state import EpochRecord

METRICS = tuple(field.name for field in fields(EpochRecord) if field.name not in ("epoch", "step", EXAMPLES))

TRAIN: Rules = {
    "model": GROUP,
    "augment": GROUP,
    "optimizer": GROUP,
    "scheduler": GROUP,
    "decode": GROUP,
    "features": GROUP,
    "seed": whole(0),
    "epochs": whole(1),
    "steps_per_epoch": whole(1).or_null,
    "max_grad_norm": POSITIVE,
    "monitor": one_of("loss", "wer", "cer", "mean_wer", "mean_cer"),
    "sync_batch_norm": SWITCH,
    "max_non_finite": whole(1),
    "max_unreadable_share": FRACTION,
    "init_from": STRING.or_null,
    "overfit_below": POSITIVE.or_null,
    "batch.at_full_scale": whole(1),
    "batch.divided_by": whole(1),
    "batch.utterances": whole(1).or_null,
    "batch.seconds": POSITIVE.or_null,
    "batch.accumulate": whole(1),
    "batch.buckets": whole(2),
    "batch.eval_seconds": POSITIVE,
    "alphabet": STRING,
    "device": STRING,
    "precision": one_of("auto", "float32", "bf16"),
    "workers": whole(0),
    "deterministic": SWITCH,
    "rehearse": one_of("auto", True, False),
    "checkpoint.every_minutes": POSITIVE,
    "tracking.uri": STRING.or_null,
    "tracking.experiment": STRING,
    "tracking.log_every": whole(1),
    "tracking.system_metrics_seconds": POSITIVE.or_null,
    "dry_run": SWITCH,
    "fresh": SWITCH,
    "output_dir": STRING,
    "data.root": Rule("the folder of the corpus; give data.root=FOLDER", STRING.holds),
    "data.manifests": STRING,
    "data.train": STRINGS,
    "data.dev": STRINGS,
    "data.test": STRINGS,
    "data.max_seconds": POSITIVE.or_null,
    "data.max_characters": whole(1).or_null,
    "data.eval_utterances": whole(1).or_null,
}
FILE_NAME = Rule(
    "letters, digits and . _ + - alone, as a directory is named after it",
    lambda value: isinstance(value, str) and re.fullmatch(r"[\w.+-]+", value) is not None,
)
SEARCH: Rules = {
    "search.kind": one_of("study", "range"),
    "search.space": GROUP,
    "study.name": FILE_NAME.or_null,
    "study.storage": STRING,
    "study.trials": whole(1),
    "study.metric": one_of(*METRICS),
    "study.baseline": SWITCH,
    "study.seed": whole(0),
    "study.random_trials": whole(0),
    "study.pruner": one_of("median", "hyperband", "none"),
    "study.pruned_by": one_of(*METRICS),
    "study.startup_trials": whole(0),
    "study.warmup_epochs": whole(0),
    "study.heartbeat_seconds": whole(1),
    "study.retries": whole(0),
    "output_dir": STRING,
}
RANGE_TEST: Rules = {"search.steps": whole(1), "search.smoothing": BELOW_1, "search.diverged_at": ABOVE_1}
# The fields of a setting in search.space, which Optuna's distributions validate further.
RANGE: Rules = {"low": NUMBER, "high": NUMBER, "step": NUMBER.or_null, "log": SWITCH.or_null, "int": SWITCH.or_null}
CHOICES: Rules = {"choices": LIST}
