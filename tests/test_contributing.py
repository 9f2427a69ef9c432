"""What CONTRIBUTING.md says of one's own model, augmentation and corpus works as it stands there."""

import re
import sys
from pathlib import Path

import pytest
from conftest import CHOICES, ROOT, content, job, same, write_part
from hydra import compose, initialize_config_dir

from asr import cli, evaluate, prepare, train
from asr.errors import InputError
from asr.training import checkpoint, evaluation


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with every file that CONTRIBUTING.md shows by name, and a small corpus in LibriSpeech's layout."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for name, file in re.findall(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", text, re.DOTALL):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
    for number, part in enumerate(("lessons", "check", "exam")):
        write_part(tmp_path / "speech", part, 100 + number, 6, seed=number)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    [command] = re.findall(r"python -m asr\.(prepare \w+ root=speech .*)", text)
    monkeypatch.setattr(sys, "argv", command.split())
    prepare.command()
    return tmp_path


def run(folder, name, *overrides):
    """Train the model, augmentation and corpus of the page in folder/name."""
    chosen = [
        "model=conv_net",
        "augment=telephone",
        "data=speech",
        "epochs=3",
        "steps_per_epoch=2",
        "batch.utterances=3",
    ]
    here = [f"output_dir={folder / name}", "tracking.uri=null", "workers=0",
            "tracking.system_metrics_seconds=null", f"hydra.searchpath=[file://{folder / 'conf'}]"]  # fmt: skip
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        config = compose("train", [*chosen, *here, *overrides])
    return train.run(config, job(name, **CHOICES))


def scores(folder, *overrides):
    """Score best.pt of the resumed run by asr.evaluate."""
    here = [f"checkpoint={folder / 'resumed/best.pt'}", f"output_dir={folder / 'scores'}", "data=speech", "workers=0",
            f"hydra.searchpath=[file://{folder / 'conf'}]"]  # fmt: skip
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return evaluate.run(compose("evaluate", [*here, *overrides]))


def test_a_model_of_ones_own_trains_resumes_and_is_scored(mine, monkeypatch):
    """With one's own augmentation on one's own corpus. asr.evaluate scores its checkpoint where the model is named."""
    results = run(mine, "undisturbed")
    assert list(results) == ["exam"]
    with monkeypatch.context() as patched:
        count = iter(range(2))

        def second_dev_fails(*arguments):
            if next(count):
                raise ZeroDivisionError("stands in for a kill")
            return score_batch(*arguments)

        score_batch = evaluation.score_batch
        patched.setattr(evaluation, "score_batch", second_dev_fails)
        with pytest.raises(ZeroDivisionError):
            run(mine, "resumed")
    assert checkpoint.load(mine / "resumed/last.pt").progress["epoch"] == 1
    assert run(mine, "resumed") == results
    same(content(mine / "resumed/last.pt"), content(mine / "undisturbed/last.pt"))
    assert scores(mine, "model=conv_net") == results
    with pytest.raises(InputError, match=r"my_models\.ConvNet.*only asr\.models\..*DeepSpeech2.*model=NAME"):
        scores(mine)
    with pytest.raises(InputError, match=r"another model \(model\.width: 64 -> 32\).*as in its training"):
        scores(mine, "model=conv_net", "model.width=32")


def test_a_table_of_recordings_becomes_parts(mine, monkeypatch, capsys):
    rows = ["path,text,part"]
    for transcripts in Path("speech").rglob("*.trans.txt"):
        folder = transcripts.parent.relative_to("speech")
        for line in transcripts.read_text().splitlines():
            id, _, text = line.partition(" ")
            rows.append(f"{folder}/{id}.flac,{text},{folder.parts[0]}")
    Path("speech.csv").write_text("\n".join(rows))
    monkeypatch.setattr("sys.argv", ["prepare", "table", "file=speech.csv", "root=speech", "manifests=mine"])
    prepare.command()
    run(mine, "run", "data.manifests=mine", "dry_run=true")
    assert re.search(r"train +lessons +6 ", capsys.readouterr().out)
