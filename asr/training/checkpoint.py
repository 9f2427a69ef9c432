"""Checkpoints, written so that a kill at any moment leaves a whole file, and read so that no code in them can run."""

import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr.errors import InputError, first_line
from asr.files import written_whole
from asr.models.deep_speech2 import DeepSpeech2
from asr.models.recognizer import Recognizer

FORMAT = 3  # 3: classes have moved into packages
MOST_VALUES = 1_000_000
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8)
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


@dataclass
class Checkpoint:
    """All that a run needs to resume, or another to start from its weights. (bf16 needs no gradient scaler.)

    config:   the run's settings, resolved, as plain dicts and lists
    progress: the counts of TrainState, among them the position of the next batch
    history:  a record of every finished epoch; best: the lowest dev score so far, or None
    rng:      the states of torch's generators, for dropout: `cpu`, `cuda` (a list), and as `others` the same of each
              process but the main one. Data and augmentation are seeded by epoch and utterance
    """

    config: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    progress: dict[str, Any]
    history: list[dict[str, Any]]
    best: float | None
    rng: dict[str, Any]
    format: int = FORMAT

    @property
    def processes(self) -> int:
        """Return how many processes trained together."""
        return 1 + len(self.rng.get("others", []))


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write another file, sync it to disk and rename it, so that `path` is always a whole checkpoint.

    raises: InputError if it cannot be written, as on a full disk; what was there before is kept
    """
    try:
        # A killed run leaves one partial file at most: the next save writes over it.
        with written_whole(path, path.with_name(path.name + ".partial")) as file:
            # A shallow dict: asdict would copy every tensor.
            torch.save({field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}, file)
    except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of the file's own error
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise InputError(
            f"checkpoint {path} cannot be written: {first_line(cause)}. Checkpoints that were there before are whole: "
            "make room on the disk, and rerun the command to resume from the last one"
        ) from error


def save_last(checkpoint: Checkpoint, directory: Path) -> None:
    """Write last.pt and keep the one before as previous.pt, since a disk may lose what was written last."""
    last, partial = directory / LAST, directory / "next.pt"
    save(checkpoint, partial)
    if last.exists():
        os.replace(last, directory / PREVIOUS)  # killed here, the run resumes from previous.pt
    os.replace(partial, last)


def load_last(directory: Path) -> tuple[Checkpoint, Path, str] | None:
    """Return the newest whole checkpoint, its path, and why it is not last.pt ("" if it is); None if there is none.

    raises: InputError if there are checkpoints, and none can be read
    """
    problems: list[InputError] = []
    for path in (directory / LAST, directory / PREVIOUS):
        if path.exists():
            try:
                return load(path), path, str(problems[0]) if problems else ""
            except InputError as error:
                problems.append(error)
    if problems:
        raise InputError(f"{problems[-1]}. No checkpoint of {directory} is whole: fresh=true starts over")
    return None


def load(path: Path) -> Checkpoint:
    """Read a checkpoint to the CPU; InputError if there is none, it cannot be read, or it is not of this suite."""
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file; a run writes best.pt and last.pt into its directory")
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("it is compressed, as torch.save never does")  # and could unpack to any size
            damaged = archive.testzip()
        content = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever zipfile, pickle and torch raise at a file that is something else
        raise InputError(
            f"checkpoint {path}: cannot be read ({first_line(error)}); use another, such as last.pt"
        ) from error
    if damaged:
        raise InputError(f"checkpoint {path}: damaged ({damaged} has another checksum); use another, such as last.pt")
    try:
        _validate(content)
    except ValueError as error:
        raise InputError(f"checkpoint {path}: not a checkpoint of this suite in format {FORMAT}: {error}") from error
    return Checkpoint(**content)  # type: ignore[arg-type]


def _validate(content: Any) -> None:
    """Check the content of a file, which may come from anywhere; ValueError says what is wrong with it."""
    names = {field.name for field in fields(Checkpoint)}
    _require(isinstance(content, dict) and set(content) == names, f"it must hold {', '.join(sorted(names))}")
    _require(content["format"] == FORMAT, f"its format is {content['format']}")
    for leaf in _leaves(content):
        _validate_leaf(leaf)
    for name in ("config", "model", "optimizer", "scheduler", "progress", "rng"):
        named = isinstance(content[name], dict) and all(isinstance(key, str) for key in content[name])
        _require(named, f"{name} must be a dict with names")
    _validate_config(content["config"])
    weights, history, best = content["model"].values(), content["history"], content["best"]
    _require(all(isinstance(weight, Tensor) for weight in weights), "model must hold tensors")
    _require({"state", "param_groups"} <= set(content["optimizer"]), "optimizer must hold state and param_groups")
    records = isinstance(history, list) and all(isinstance(record, dict) for record in history)
    _require(records, "history must be a list of records")
    _require(best is None or isinstance(best, float), "best must be a number or null")
    _require(isinstance(content["rng"].get("cpu"), Tensor), "rng must hold the state of the CPU's generator")
    _validate_progress(content["progress"])


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(rule)


def _leaves(content: Any) -> Iterator[Any]:
    """Yield the keys and values of nested dicts, lists and tuples; ValueError if they never end."""
    todo, seen = [content], 0
    while todo:
        node, seen = todo.pop(), seen + 1
        _require(seen <= MOST_VALUES, f"it holds more than {MOST_VALUES:,} values")  # as a list that holds itself does
        if isinstance(node, dict):
            todo += [*node.keys(), *node.values()]
        elif isinstance(node, list | tuple):
            todo += node
        else:
            yield node


def _validate_leaf(leaf: Any) -> None:
    """Require a plain value or a dense tensor of finite numbers."""
    if not isinstance(leaf, Tensor):
        _require(leaf is None or type(leaf) in (bool, int, float, str), f"it holds a {type(leaf).__name__}")
        return
    what = f"it holds a tensor of {leaf.dtype} on {leaf.device} that"
    dense = leaf.layout == torch.strided and not leaf.is_quantized and leaf.device.type == "cpu"
    _require(dense and leaf.is_contiguous(), f"{what} is not dense")  # a view could repeat one number without end
    _require(leaf.dtype in DTYPES, f"{what} no training saves")
    _require(bool(leaf.isfinite().all()), f"{what} has numbers that are not finite")


def _validate_config(config: dict[str, Any]) -> None:
    """Refuse an interpolation: a config was saved resolved, so one could only choose what code runs."""
    for leaf in _leaves(config):
        _require(not isinstance(leaf, Tensor), "its config must hold settings, not tensors")
        _require(not (isinstance(leaf, str) and "${" in leaf), f"its config holds an interpolation: {leaf!r}")


def _validate_progress(progress: dict[str, Any]) -> None:
    position, epoch = progress.get("position"), progress.get("this_epoch")
    counts = [progress.get(name) for name in ("epoch", "step", "non_finite_in_a_row")]
    counts += position if isinstance(position, (tuple, list)) else []
    whole = len(counts) == 5 and all(type(count) is int and count >= 0 for count in counts)
    _require(whole, "progress must hold epoch, step, non_finite_in_a_row and the position, whole numbers from 0 on")
    _require(isinstance(epoch, dict), "progress must hold the sums of this_epoch")
    numbers = all(type(number) in (int, float) for number in epoch.values())  # type: ignore[union-attr]
    _require(numbers, "the sums of this_epoch must be numbers")


def load_weights(model: nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Put weights into the model; where it has none yet, on the device "meta", they become its own.

    raises: InputError that names what differs if they are those of another model
    """
    saved, own = (
        {key: f"{list(weight.shape)} {str(weight.dtype).removeprefix('torch.')}" for key, weight in state.items()}
        for state in (weights, model.state_dict())
    )
    differing = [key for key in {**own, **saved} if saved.get(key) != own.get(key)]
    if differing:
        first = differing[0]
        raise InputError(
            f"checkpoint {path} is of another model: {len(differing)} weights differ; {first} is "
            f"{saved.get(first, 'missing')} where the model has {own.get(first, 'none')}. Choose the model group, "
            "features and alphabet that it was trained with (its config says which)"
        )
    model.load_state_dict(weights, assign=any(weight.is_meta for weight in model.parameters()))


MODEL = f"{DeepSpeech2.__module__}.{DeepSpeech2.__qualname__}"  # the one model that a checkpoint may ask for


def from_checkpoint(saved: Checkpoint, path: Path, make_own: Callable[..., Any] | None = None) -> Recognizer:
    """Build the recogniser that a checkpoint describes, with its weights.

    The config of a file is data: it gives sizes, but never chooses what code runs. Its model is DeepSpeech2, laid out
    without memory until its weights have the shapes of the saved ones, however large the config says it is.

    make_own: builds the user's own model instead, from the keyword arguments n_mels and n_classes
    raises:   InputError that names the file and the setting or the weight
    """

    def make_model(**sizes: Any) -> DeepSpeech2:
        settings = dict(saved.config["model"])
        if make_own:
            return make_own(**sizes)
        if (target := settings.pop("_target_", None)) != MODEL:
            raise InputError(
                f"its model is {target!r}; only {MODEL} is built from a file alone, as any other could run code; "
                "name yours: model=NAME, with --config-dir for a config that is not in conf/model"
            )
        with torch.device("meta"):
            return DeepSpeech2(**settings, **sizes)

    try:
        recognizer = Recognizer.of(saved.config, make_model)
    except (KeyError, TypeError, ValueError, InputError) as error:
        problem = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(
            f"checkpoint {path}: its config describes no recogniser: {problem}. Use a checkpoint that asr.train wrote"
        ) from error
    load_weights(recognizer.model, saved.model, path)
    return recognizer
