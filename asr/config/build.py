"""From config to objects: the only caller of Hydra's instantiate."""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from asr.corpora.parts import Data, _refuse_two_roles, load_parts
from asr.corpora.selection import drops, select
from asr.data.augment import Augment
from asr.data.batches import Passes
from asr.data.text import frames_needed
from asr.errors import InputError, first_line
from asr.models.recognizer import Recognizer
from asr.settings import (
    GROUP,
    POSITIVE,
    SHARE,
    TEXT,
    TEXTS,
    WHOLE_FROM_0,
    WHOLE_FROM_1,
    WHOLE_FROM_2,
    Rules,
    check,
    one_of,
)
from asr.training.compute import Compute
from asr.training.distributed import join
from asr.training.memory import keep_freed_memory

MONITORS = ("loss", "wer", "cer", "mean_wer", "mean_cer")
RULES: Rules = {
    GROUP: "model data augment optimizer scheduler batch features checkpoint tracking",
    TEXT: "alphabet device precision output_dir init_from? tracking.uri? tracking.experiment data.root data.manifests",
    TEXTS: "data.train data.dev data.test",
    WHOLE_FROM_1: "epochs steps_per_epoch? batch.utterances? batch.accumulate tracking.log_every "
    "data.max_characters? max_non_finite",
    WHOLE_FROM_0: "workers seed",
    WHOLE_FROM_2: "batch.buckets",
    POSITIVE: "max_grad_norm batch.seconds? batch.eval_seconds data.max_seconds? tracking.system_metrics_seconds? "
    "checkpoint.every_minutes",
    SHARE: "max_unreadable_share",
    one_of(*MONITORS): "monitor",
    one_of("auto", True, False): "rehearse",
    one_of(True, False): "deterministic dry_run fresh sync_batch_norm",
}


def make(node: Any, name: str, **arguments: Any) -> Any:
    """Calls the node's _target_ with its settings and the arguments; InputError if it refuses them."""
    try:
        return instantiate(node, _partial_=True, _convert_="all")(**arguments)
    except (InstantiationException, TypeError, ValueError, AssertionError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, InputError):
            raise cause from error
        settings = ", ".join(f"{key}={value}" for key, value in node.items() if key != "_target_")
        raise InputError(f"{name}: {node.get('_target_')} refuses its settings ({settings}): {cause}") from error


def build_recognizer(config: DictConfig, seed: int) -> Recognizer:
    """Build a recogniser with fresh weights, drawn from the seed."""
    torch.manual_seed(seed)
    return Recognizer.of(config, partial(make, config.model, "model"))


def build_optimizer(config: DictConfig, model: nn.Module, total_steps: int) -> tuple[Optimizer, LRScheduler]:
    """The optimizer over all weights, and the schedule that is stepped total_steps times."""
    optimizer = make(config.optimizer, "optimizer", params=list(model.parameters()))
    return optimizer, make(config.scheduler, "scheduler", optimizer=optimizer, total_steps=total_steps)


def set_deterministic(wanted: bool) -> None:
    """Whether torch takes only algorithms that give the same numbers in every run; on a CPU ours do without.

    source: torch.use_deterministic_algorithms. cuBLAS reads its variable when it is first used
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if wanted != torch.are_deterministic_algorithms_enabled():  # it imports torch's compiler, which takes a while
        torch.use_deterministic_algorithms(wanted)


def build_compute(device: str, precision: str) -> Compute:
    """Resolves auto; InputError for a device that is not there."""
    if precision not in ("auto", "float32", "bf16"):
        raise InputError(f"precision={precision}: it is one of auto, float32, bf16")
    world = join()
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        resolved = torch.device(name)
        if resolved.type == "cuda" and world.size > 1:
            if resolved.index not in (None, world.local_rank):
                raise InputError(f"device={device}: of several processes each has a GPU of its own; device=cuda")
            resolved = torch.device("cuda", world.local_rank)
            torch.cuda.set_device(resolved)
        torch.zeros(1, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device={device}: torch cannot use it ({first_line(error)}); device=cpu always works"
        ) from error
    return Compute(resolved, precision == "bf16" or (precision == "auto" and resolved.type == "cuda"), world)


def build_data(config: DictConfig, recognizer: Recognizer) -> Data:
    """Loads and filters; InputError if nothing is left to train on, or an utterance has two roles."""
    if not (config.train and config.dev and config.test):
        raise InputError(f"data: train={config.train}, dev={config.dev}, test={config.test} must each name a part")
    choose = partial(
        select,
        normalize=recognizer.alphabet.normalize,
        output_frames=recognizer.output_frames,
        needed=frames_needed,
        max_seconds=config.max_seconds,
        max_characters=config.max_characters,
    )
    train = load_parts(config, config.train, choose)
    # Dev and test are scored unfiltered, as in the writeup.
    data = Data(train, load_parts(config, config.dev), load_parts(config, config.test))
    if not any(len(selection.kept) for selection in train.values()):
        reasons = ", ".join(f"{drops(selection)} of {source}" for source, selection in train.items())
        raise InputError(
            f"data.train={list(config.train)}: no utterance is left after filtering ({reasons}); raise "
            f"data.max_seconds ({config.max_seconds}) or data.max_characters ({config.max_characters}), or train on "
            "other parts"
        )
    _refuse_two_roles(data)
    return data


@dataclass(frozen=True)
class Session:
    """All that a training run is made of, before anything is written."""

    recognizer: Recognizer
    augment: Augment
    optimizer: Optimizer
    scheduler: LRScheduler
    compute: Compute
    data: Data
    passes: Passes
    steps_per_epoch: int


def build_session(config: DictConfig) -> Session:
    """Checks and builds everything, so that a mistake is found before training; InputError says which."""
    check(config, RULES)
    set_deterministic(config.deterministic)
    compute = build_compute(config.device, config.precision)
    recognizer = build_recognizer(config, config.seed)
    augment = make(config.augment, "augment")
    data = build_data(config.data, recognizer)
    batch = config.batch
    passes = Passes(data.training_cuts(), augment, config.seed, batch.utterances, batch.seconds, batch.buckets)
    steps_per_epoch = config.steps_per_epoch or passes.steps()
    recognizer.model.to(compute.device)
    if config.sync_batch_norm:
        compute.world.synchronise_batch_norm(recognizer.model)
    optimizer, scheduler = build_optimizer(config, recognizer.model, config.epochs * steps_per_epoch)
    if compute.device.type == "cpu":
        keep_freed_memory()  # not before: loading the corpus frees much that nobody needs again
    return Session(recognizer, augment, optimizer, scheduler, compute, data, passes, steps_per_epoch)
