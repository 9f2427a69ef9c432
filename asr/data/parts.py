"""The parts of a corpus that a run uses as training, dev and test data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lhotse import CutSet
from omegaconf import DictConfig

from asr.corpora.cuts import load_cuts
from asr.data.selection import Selection
from asr.errors import InputError


@dataclass(frozen=True)
class Data:
    """The cuts of a run by role; each test part is scored on its own."""

    train: dict[str, Selection]
    dev: dict[str, Selection]
    test: dict[str, Selection]

    def roles(self) -> dict[str, dict[str, Selection]]:
        """Return the parts by role."""
        return {"train": self.train, "dev": self.dev, "test": self.test}

    def training_cuts(self) -> CutSet:
        """Return the cuts of all training parts."""
        return _joined(self.train)

    def dev_cuts(self) -> CutSet:
        """Return the cuts of all dev parts."""
        return _joined(self.dev)


def _joined(parts: dict[str, Selection]) -> CutSet:
    return CutSet.from_cuts(cut for selection in parts.values() for cut in selection.kept)


def load_parts(config: DictConfig, sources: Sequence[str]) -> Iterator[tuple[str, CutSet]]:
    """Load each source when it is asked for, and yield its name (a file's without folder and suffixes) and its cuts."""
    names = [Path(source).name.split(".")[0] for source in sources]
    for name, source in zip(names, sources, strict=True):
        if names.count(name) > 1:
            raise InputError(
                f"{list(sources)}: {name} is named twice; name each part once, and give each file its own name"
            )
        yield name, load_cuts(source, Path(config.root), Path(config.manifests))


def validate_roles(data: Data) -> None:
    """Raise an InputError if an utterance is in two roles, such as train and test."""
    seen: dict[str, str] = {}
    for role, parts in data.roles().items():
        for source, selection in parts.items():
            place = f"{role} ({source})"
            for cut in selection.kept:
                if cut.id in seen:
                    raise InputError(
                        f"{cut.id} is in {seen[cut.id]} and in {place}: an utterance may have one role only, or the "
                        "scores mean nothing; take one of the parts out"
                    )
                seen[cut.id] = place
