"""A packed part gives the utterances, batches and training of loose files, from any file system."""

import os
import re
import shutil
import signal
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import compose_small, content, same

from asr import prepare, train
from asr.config.naming import Job
from asr.corpora.manifest import Utterances, read_manifest
from asr.data.augment import Augment, Speed
from asr.data.batches import EpochBatches, Position
from asr.data.dataset import Batch, UtteranceDataset
from asr.data.features import LogMel
from asr.data.loader import evaluation_batches, training_batches
from asr.data.text import Alphabet
from asr.errors import InputError
from asr.training import loop
from asr.training.signals import Interrupted

PARTS = ("train-clean-100", "dev-clean", "test-clean")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["prepare", "pack", *arguments])
    with prepare.console.capture() as printed:
        prepare.command()
    return printed.get()


@pytest.fixture(scope="module")
def packed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts in shards of about five utterances."""
    to = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        for part in PARTS:
            printed = call(patch, f"root={corpus}", f"part={part}", f"to={to}", "shard_mb=0.1")
            assert f"{to}, manifests in {to}/manifests" in printed.replace("\n", " ")
            assert re.search(rf"{part} +{24 if part.startswith('train') else 6} +1 +0\.0\d +0 +0 *\n", printed)
    return to


def read(root: Path | str, part: str = "train-clean-100") -> Utterances:
    return read_manifest(str(root), f"{root}/manifests", part)


def batches(utterances: Utterances, workers: int, start: Position) -> list[Batch]:
    """The batches of an epoch, and those of scoring."""
    features = LogMel(16_000, n_fft=400, hop_samples=200, n_mels=8, max_hz=None, floor=1e-5, normalize="none")
    alphabet = Alphabet(" abcdefghijklmnopqrstuvwxyz")
    augment = Augment(Speed(0.5, 0.8, 1.2))
    dataset = UtteranceDataset(alphabet, features, augment, seed=3)
    epochs = EpochBatches(utterances, augment, seed=3, size=None, seconds=10, buckets=3)
    trained = training_batches(dataset, epochs, start, workers, pin_memory=False)
    scored = evaluation_batches(UtteranceDataset(alphabet, features, None, 0), utterances, 10.0, workers, False)
    found = [*islice(trained, 2 * epochs.steps()), *scored]
    assert len(found) > 10
    assert all(batch.features.numel() for batch in found)
    return found


def contents(batches: list[Batch]) -> list[tuple]:
    """All that is in the batches, but where the audio lies."""
    return [tuple(batch._replace(utterances=[(one.id, one.seconds) for one in batch.utterances])) for batch in batches]


def test_the_bytes_are_those_of_the_loose_files(corpus: Path, packed: Path) -> None:
    loose, shards = list(read(corpus)), list(read(packed))
    assert len({one.path for one in shards}) > 3
    assert sorted({one.path for one in shards}) == sorted(path.name for path in packed.glob("train-*.pack"))
    for one, other in zip(loose, shards, strict=True):
        assert one.read_bytes() == other.read_bytes() == (corpus / one.path).read_bytes()
        kept = ("id", "text", "speaker", "num_samples", "sample_rate")
        assert [getattr(one, name) for name in kept] == [getattr(other, name) for name in kept]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [Position(0, 0), Position(1, 2)])
def test_the_batches_are_those_of_the_loose_files(corpus: Path, packed: Path, workers: int, start: Position) -> None:
    loose, shards = batches(read(corpus), 0, start), batches(read(packed), workers, start)
    assert len(loose) == len(shards)
    same(contents(loose), contents(shards))


@pytest.mark.parametrize("address", ["file://{packed}", "memory://{name}"])
def test_a_root_may_be_an_address(address: str, corpus: Path, packed: Path, tmp_path: Path) -> None:
    root = address.format(packed=packed, name=tmp_path.name)
    if root.startswith("memory"):
        fsspec.filesystem("memory").put(str(packed), f"/{tmp_path.name}", recursive=True)
    loose, shards = batches(read(corpus), 0, Position(0, 0)), batches(read(root), 1, Position(0, 0))
    assert len(loose) == len(shards)
    same(contents(loose), contents(shards))


def test_a_part_at_an_address_can_be_packed(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch, f"root=file://{packed}", "part=dev-clean", f"to={tmp_path}")
    (shard,) = tmp_path.glob("*.pack")
    assert shard.read_bytes() == b"".join(path.read_bytes() for path in sorted(packed.glob("dev-clean-*.pack")))


def test_a_training_and_its_scores_are_those_of_the_loose_files_also_after_a_resume(
    corpus: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(root: Path | str, name: str, *overrides: str) -> dict:
        parts = (
            "data.train=[train-clean-100]",
            "data.test=[test-clean]",
            "epochs=2",
            "steps_per_epoch=4",
            "tracking.uri=null",
        )
        config = compose_small(root, tmp_path, *parts, f"output_dir={tmp_path / name}", *overrides)
        train.run(config, Job(name, {}, [], "python -m asr.train"))
        saved = content(tmp_path / name / "last.pt")
        saved.pop("config")  # names the root
        return saved

    whole = run(corpus, "whole")
    calls, train_step = iter(range(100)), loop.train_step

    def stopped(*given: Any) -> Any:
        if next(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopped)
        with pytest.raises(Interrupted):
            run(f"file://{packed}", "packed", "workers=2")
    same(whole, run(f"file://{packed}", "packed", "workers=2"))
    errors = [(tmp_path / name / "errors/test-clean.tsv").read_text() for name in ("whole", "packed")]
    assert errors[0] == errors[1]


def test_a_damaged_shard_is_named_with_its_utterance(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    call(monkeypatch, f"root={corpus}", "part=dev-clean", f"to={tmp_path}")
    shard, damaged = tmp_path / "dev-clean-00000.pack", list(read(tmp_path, "dev-clean"))[2]
    damage = bytearray(shard.read_bytes())
    damage[damaged.offset + 500 : damaged.offset + 600] = bytes(100)
    shard.write_bytes(damage)
    with pytest.raises(InputError, match=rf"{damaged.id}: {shard}.* byte {damaged.offset:,}"):
        batches(read(tmp_path, "dev-clean"), 0, Position(0, 0))
    shard.write_bytes(damage[:-1])
    with pytest.raises(InputError, match=f"missing or too short, the first {shard}"):
        read(tmp_path, "dev-clean")


def test_packing_again_leaves_no_shard_of_before_and_no_other_part_is_touched(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "dev-clean-2-00001.pack"
    other.write_bytes(b"of another part")
    call(monkeypatch, f"root={corpus}", "part=dev-clean", f"to={tmp_path}", "shard_mb=1e-6")
    assert len(list(tmp_path.glob("dev-clean-0*.pack"))) == 6
    call(monkeypatch, f"root={corpus}", "part=dev-clean", f"to={tmp_path}")
    assert [path.name for path in tmp_path.glob("dev-clean-0*.pack")] == ["dev-clean-00000.pack"]
    assert len(read(tmp_path, "dev-clean")) == 6
    assert other.exists()


@pytest.mark.parametrize(
    ("root", "to", "manifests"),
    [
        ("{corpus}", "{corpus}", "{corpus}/manifests"),
        ("file://{corpus}", "{corpus}/../{corpus.name}", "{corpus}/manifests"),
        ("{corpus}", "{link}", "{corpus}/manifests"),
        ("{corpus}", "{link.parent}/elsewhere", "{link.parent}/elsewhere/manifests"),
    ],
    ids=["same", "as an address", "by a link", "same manifests"],
)
def test_a_root_is_not_packed_into_itself(
    root: str, to: str, manifests: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    link = tmp_path / "link"
    link.symlink_to(corpus)
    shutil.copytree(corpus / "manifests", tmp_path / "elsewhere/manifests")
    settings = {"root": root, "to": to, "manifests": manifests}
    with pytest.raises(SystemExit):
        call(monkeypatch, "part=dev-clean", *(f"{k}={v.format(corpus=corpus, link=link)}" for k, v in settings.items()))
    assert "is the root itself; choose another folder" in capsys.readouterr().err
    assert (
        len(read(corpus, "dev-clean"))
        == len(read_manifest(str(corpus), f"{tmp_path}/elsewhere/manifests", "dev-clean"))
        == 6
    )


def test_what_cannot_be_written_is_said(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SystemExit):
        call(monkeypatch, f"root={corpus}", "part=dev-clean", f"to={tmp_path}/file")
    assert "dev-clean cannot be packed into" in (error := capsys.readouterr().err)
    assert error.count("\n") <= 1
