"""The parts of a corpus that a run uses as training, dev and test data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from asr.corpora.manifest import Utterances, read_manifest
from asr.data.selection import Selection
from asr.errors import InputError


@dataclass(frozen=True)
class Data:
    """The utterances of a run by role; each test part is scored on its own."""

    train: dict[str, Selection]
    dev: dict[str, Selection]
    test: dict[str, Selection]

    def roles(self) -> dict[str, dict[str, Selection]]:
        """Return the parts by role."""
        return {"train": self.train, "dev": self.dev, "test": self.test}

    def training_utterances(self) -> Utterances:
        """Return the utterances of all training parts."""
        return Utterances.joined([selection.kept for selection in self.train.values()])

    def dev_utterances(self) -> Utterances:
        """Return the utterances of all dev parts."""
        return Utterances.joined([selection.kept for selection in self.dev.values()])


def load_parts(config: DictConfig, parts: Sequence[str]) -> Iterator[tuple[str, Utterances]]:
    """Read each part when it is asked for, and yield its name and its utterances."""
    for part in parts:
        if parts.count(part) > 1:
            raise InputError(f"{list(parts)}: {part} is named twice; name each part once")
        yield part, read_manifest(config.root, config.manifests, part)


def validate_roles(data: Data) -> None:
    """Raise an InputError if an utterance is in two roles, such as train and test."""
    seen: dict[str, set[str]] = {}
    for role, parts in data.roles().items():
        for part, selection in parts.items():
            place, ids = f"{role} ({part})", set(selection.kept.table["id"].to_pylist())
            for other, others in seen.items():
                if common := ids & others:
                    raise InputError(
                        f"{min(common)} is in {other} and in {place}: an utterance may have one role only, or the "
                        "scores mean nothing; take one of the parts out"
                    )
            seen[place] = ids
