"""Build objects from a config: the only caller of Hydra's instantiate."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from asr.config.rules import TRAIN
from asr.data.batches import EpochBatches
from asr.data.parts import Data, load_parts, validate_roles
from asr.data.selection import Selection, describe_dropped, select
from asr.data.text import Alphabet
from asr.decoding.decoder import Decoder
from asr.errors import InputError
from asr.models.recognizer import Recognizer
from asr.settings import check, differences
from asr.training.checkpoint import Checkpoint, from_checkpoint
from asr.training.compute import Compute, find_device
from asr.training.distributed import init_distributed
from asr.training.experiment import Experiment
from asr.training.memory import keep_freed_memory


def make(node: Any, name: str, **arguments: Any) -> Any:
    """Call the node's _target_ with its settings and the arguments; InputError if it refuses them."""
    try:
        return instantiate(node, _partial_=True, _convert_="all")(**arguments)
    except (InstantiationException, TypeError, ValueError, AssertionError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        for reported in (cause, cause.__cause__):  # the second: of a module that lacks a package
            if isinstance(reported, InputError):
                raise reported from error
        settings = ", ".join(f"{key}={value}" for key, value in node.items() if key != "_target_")
        raise InputError(f"{name}: {node.get('_target_')} refuses its settings ({settings}): {cause}") from error


def build_recognizer(config: DictConfig, seed: int) -> Recognizer:
    """Build a recogniser with fresh weights, drawn from the seed."""
    torch.manual_seed(seed)
    return Recognizer.of(config, partial(make, config.model, "model"))


def require_checkpoint(config: DictConfig) -> None:
    """Raise InputError if the setting `checkpoint` is not given."""
    if OmegaConf.is_missing(config, "checkpoint"):
        raise InputError("checkpoint is not given: name a file, such as checkpoint=outputs/runs/quickstart/best.pt")


def load_recognizer(config: DictConfig, saved: Checkpoint, path: Path) -> Recognizer:
    """Build the checkpoint's DeepSpeech2 or, where `model` names a model of one's own, that one, with its weights.

    raises: InputError if the checkpoint was trained with other settings of the model, or does not fit
    """
    if (own := config.get("model")) is None:
        return from_checkpoint(saved, path)
    settings: dict[str, Any] = OmegaConf.to_container(own, resolve=True)  # type: ignore[assignment]
    if differing := differences({"model": saved.config.get("model")}, {"model": settings}, ignore=()):
        raise InputError(
            f"checkpoint {path} was trained with another model ({'; '.join(differing)}): give the model and its "
            "settings as in its training"
        )
    return from_checkpoint(saved, path, partial(make, own, "model"))


def build_decoder(config: DictConfig, alphabet: Alphabet) -> Decoder:
    """Build the decoder of the group `decode`, which loads its language model; InputError if it has none."""
    if OmegaConf.is_missing(config, "lm"):
        raise InputError("decode.lm is not given: name an ARPA file as decode.lm=FILE, which python -m asr.lm makes")
    return make(config, "decode", alphabet=alphabet)


def build_optimizer(config: DictConfig, model: nn.Module, total_steps: int) -> tuple[Optimizer, LRScheduler]:
    """Build the optimizer of all weights, and its schedule over total_steps."""
    optimizer = make(config.optimizer, "optimizer", params=list(model.parameters()))
    return optimizer, make(config.scheduler, "scheduler", optimizer=optimizer, total_steps=total_steps)


def set_deterministic(wanted: bool) -> None:
    """Let torch use only algorithms that give the same numbers in every run; on a CPU all that we use do.

    source: torch.use_deterministic_algorithms. cuBLAS reads its variable when it is first used
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if wanted != torch.are_deterministic_algorithms_enabled():  # it imports torch's compiler, which takes a while
        torch.use_deterministic_algorithms(wanted)


def build_compute(device: str, precision: str) -> Compute:
    """Return where and how precisely to compute; InputError for a device that is not available."""
    world = init_distributed()
    own_gpu = world.size > 1 and torch.cuda.is_available()  # each process has one
    resolved = find_device(f"cuda:{world.local_rank}" if own_gpu and device in ("auto", "cuda") else device)
    if world.size > 1 and resolved.type == "cuda":
        if resolved.index != world.local_rank:
            raise InputError(f"device={device}: each of several processes has a GPU of its own; set device=cuda")
        torch.cuda.set_device(resolved)
    return Compute(resolved, precision == "bf16" or (precision == "auto" and resolved.type == "cuda"), world)


def build_data(config: DictConfig, recognizer: Recognizer) -> Data:
    """Load the parts of the data and select what is trained on.

    raises: InputError if nothing is left to train on, or an utterance has two roles
    """
    if not (config.train and config.dev and config.test):
        raise InputError(f"data: train={config.train}, dev={config.dev}, test={config.test} must each name a part")
    bounds = (recognizer.output_frames, config.max_seconds, config.max_characters)
    train = {part: select(all_of, recognizer.alphabet, *bounds) for part, all_of in load_parts(config, config.train)}
    # Dev and test are scored unfiltered, as in the writeup.
    dev, test = (
        {part: Selection(all_of.first(config.eval_utterances)) for part, all_of in load_parts(config, parts)}
        for parts in (config.dev, config.test)
    )
    data = Data(train, dev, test)
    if not any(len(selection.kept) for selection in train.values()):
        reasons = ", ".join(f"{describe_dropped(selection)} of {source}" for source, selection in train.items())
        raise InputError(
            f"data.train={list(config.train)}: no utterance is left after filtering ({reasons}); raise "
            f"data.max_seconds ({config.max_seconds}) or data.max_characters ({config.max_characters}), or train on "
            "other parts"
        )
    validate_roles(data)
    return data


def build_experiment(config: DictConfig) -> Experiment:
    """Check the settings and build everything, so that a mistake is found before training; InputError names it."""
    check(config, TRAIN)
    set_deterministic(config.deterministic)
    compute = build_compute(config.device, config.precision)
    recognizer = build_recognizer(config, config.seed)
    decoder = build_decoder(config.decode, recognizer.alphabet)
    augment = make(config.augment, "augment")
    data = build_data(config.data, recognizer)
    batch = config.batch
    sizes = batch.utterances, batch.seconds, batch.buckets
    batches = EpochBatches(data.training_utterances(), augment, config.seed, *sizes)
    steps_per_epoch = config.steps_per_epoch or batches.steps()
    recognizer.model.to(compute.device)
    if config.sync_batch_norm:
        compute.world.synchronise_batch_norm(recognizer.model)
    optimizer, scheduler = build_optimizer(config, recognizer.model, config.epochs * steps_per_epoch)
    if compute.device.type == "cpu":
        keep_freed_memory()  # not before: loading the corpus frees much that nobody needs again
    config_dict: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return Experiment(
        config_dict, recognizer, decoder, augment, optimizer, scheduler, compute, data, batches, steps_per_epoch
    )
