"""Whole runs on a small corpus: what they write, that they learn, that they go on, and that scores are repeated."""

import json
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import CHOICES, compose_small, in_mlflow, index_part, job, write_part
from mlflow import MlflowClient

from asr import evaluate
from asr.config.build import build_experiment
from asr.console import console
from asr.errors import InputError
from asr.tracking.journal import Journal
from asr.train import run
from asr.training import checkpoint

pytestmark = pytest.mark.pictures


@dataclass(frozen=True)
class Trained:
    """A finished run; tests look at it and leave it as it is."""

    folder: Path
    settings: tuple[str, ...]
    results: dict
    printed: str

    @property
    def directory(self):
        return self.folder / "run"


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    settings = (in_mlflow(folder), "epochs=4", "steps_per_epoch=20", "seed=3")
    with console.capture() as printed:
        results = run(compose_small(corpus, folder, *settings), job())
    return Trained(folder, settings, results, printed.get())


def logged_runs(folder):
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return client, client.search_runs([client.get_experiment_by_name("asr").experiment_id])


def test_a_run_learns_and_leaves_everything_behind(trained):
    results, directory = trained.results, trained.directory
    history = [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    assert history[-1]["dev_loss"] < 0.7 * history[0]["dev_loss"]
    assert set(results) == {"test-clean", "test-other"}
    assert json.loads((directory / "config.json").read_text())["epochs"] == 4

    rows = (directory / "errors" / "test-clean.tsv").read_text().splitlines()
    rates = [float(row.split("\t")[1]) for row in rows[1:]]
    assert len(rates) == 6
    assert rates == sorted(rates, reverse=True)

    client, (logged,) = logged_runs(trained.folder)
    assert logged.info.run_name == "default", "named by its overrides, of which there are none"
    assert logged.data.tags["directory"].endswith("run")
    assert logged.info.status == "FINISHED"
    assert {name: logged.data.params[name] for name in CHOICES} == CHOICES
    assert logged.data.params["batch.utterances"] == "8"
    assert "librispeech" not in logged.data.params.values(), "which corpus it is, data.root says alone"
    for name, value in results["test-other"].as_metrics().items():
        assert logged.data.metrics[f"test-other/{name}"] == pytest.approx(value)
    assert [point.step for point in client.get_metric_history(logged.info.run_id, "dev/wer")] == [20, 40, 60, 80]
    steps = [point.step for point in client.get_metric_history(logged.info.run_id, "step/loss")]
    assert steps == list(range(10, 81, 10))
    data = {(one.tags[0].value, one.dataset.name): one.dataset for one in logged.inputs.dataset_inputs}
    assert {role for role, _ in data} == {"train", "dev", "test"}
    profile = json.loads(data["train", "train-clean-100"].profile)
    assert profile["num_rows"] == 24
    assert 0 < profile["hours"] < 0.1
    assert len({one.digest for one in data.values()}) == len(data)
    (model,) = client.search_logged_models([logged.info.experiment_id], f"source_run_id = '{logged.info.run_id}'")
    best = next(
        record for record in history if record["step"] == checkpoint.load(directory / "best.pt").progress["step"]
    )
    values = {point.key: point.value for point in model.metrics}
    assert values["dev/loss"] == best["dev_loss"]
    assert values["dev/cer"] == best["dev_cer"]
    assert values["test-other/wer"] == results["test-other"].words.rate
    assert model.tags["checkpoint"] == "checkpoints/best.pt"
    note = logged.data.tags["mlflow.note.content"]
    assert note.startswith("    python -m asr.train\n\n| best.pt on | WER | CER |\n")
    assert f"\n| test-clean | {results['test-clean'].words.rate:.2%} | " in note
    files = {file.path for folder in ("", "augmentation", "checkpoints", "errors", "errors/test-clean", "start")
             for file in client.list_artifacts(logged.info.run_id, folder)}  # fmt: skip
    assert {
        "plan.json",
        "checkpoints/best.pt",
        "errors/test-clean.tsv",
        "errors/test-clean/errors.html",
        "errors/test-clean/utterances.jsonl",
        "history.jsonl",
        "learning_curves.png",
        "learning_curves.svg",
        "results.json",
        "start/config.json",
        "start/packages.txt",
    } <= files


def test_a_run_ends_with_utterances_that_it_has_not_heard_and_the_way_to_try_it(trained):
    end = trained.printed.partition("best.pt on the test parts")[2]
    for part in trained.results:
        lines = end.partition(f"Three utterances of {part}, reference -> transcript:\n")[2].splitlines()[:3]
        assert len(lines) == 3
        rows = (trained.directory / "errors" / f"{part}.tsv").read_text().splitlines()
        pairs = {tuple(row.split("\t")[-2:]) for row in rows[1:]}
        assert {tuple(text.strip() for text in line.split("->")) for line in lines} <= {
            (reference.strip(), hypothesis.strip() or "(nothing)") for reference, hypothesis in pairs
        }
    assert re.search(r"python -m asr\.demo '?checkpoint=\S+/run/best\.pt'?$", end.strip())


def test_a_run_shows_each_of_its_augmentations(config, tmp_path):
    """As spectrograms, and as sound what changes the wave; all of them together too."""
    run(config("augment=wave_spec", "epochs=1", "steps_per_epoch=1"), job())
    names = ["1_Shift", "2_Gain", "3_AddGaussianNoise", "4_FrequencyMasking", "5_TimeMasking"]
    waves = ["before", "all", *names[:3]]
    written = {path.name for path in (tmp_path / "run" / "augmentation").iterdir()}
    pictures = {f"{name}.png" for name in ["all", *names]}
    assert written == pictures | {f"{name}.wav" for name in waves}
    before, shifted = (
        soundfile.read(tmp_path / "run" / "augmentation" / f"{name}.wav")[0] for name in ("before", "1_Shift")
    )
    assert sorted(before) == pytest.approx(sorted(shifted), abs=1e-4)  # rolled over: the same samples elsewhere
    assert np.abs(before - shifted).max() > 0.1


def test_evaluate_gives_the_numbers_of_the_end_of_training(trained, config, corpus, tmp_path):
    best = f"checkpoint={trained.directory / 'best.pt'}"
    scored = evaluate.run(config(best, "eval_seconds=3", "workers=0", name="evaluate", small=False))
    assert scored == trained.results
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test-clean"]["utterances"] == 6
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["checkpoint"] == str(trained.directory / "best.pt")
    assert written["trained"] == json.loads((trained.directory / "config.json").read_text())
    assert written["decode"] == written["trained"]["decode"]
    pages = [folder / "errors" / "test-other" / "errors.html" for folder in (trained.directory, tmp_path / "run")]
    of_training, of_evaluation = (re.search("By how often.*?</section>", page.read_text(), re.S)[0] for page in pages)
    assert "train-clean-100, train-clean-360" in of_training
    assert of_training == of_evaluation


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "data=null"),
        ({"root": "s3://bucket", "manifests": "manifests"}, "data.root=s3://bucket is not on this machine"),
        ({"root": "elsewhere", "manifests": "elsewhere/manifests"}, "has no manifest elsewhere/manifests/train"),
        ({"max_seconds": "many"}, "data.max_seconds=many"),
    ],
)
def test_words_are_counted_only_where_the_training_corpus_is(trained, data, reason):
    """Never fetched from where a checkpoint, a file of anybody's, says."""
    path = trained.directory / "best.pt"
    saved = checkpoint.load(path)
    recognizer = checkpoint.from_checkpoint(saved, path)
    saved.config["data"] = data and saved.config["data"] | data
    words = evaluate.training_words(saved, recognizer)
    assert not words.counts
    assert reason in words.source


def test_a_finished_run_is_not_trained_again(trained, corpus, capsys):
    before = (trained.directory / "best.pt").stat().st_mtime_ns
    assert run(compose_small(corpus, trained.folder, *trained.settings), job()) == trained.results
    assert (trained.directory / "best.pt").stat().st_mtime_ns == before
    assert "finished before" in capsys.readouterr().out


def test_another_config_in_the_same_directory_is_refused(trained, corpus):
    with pytest.raises(InputError, match=r"max_grad_norm: 10\.0 -> 5\.0.*fresh=true"):
        run(compose_small(corpus, trained.folder, *trained.settings, "max_grad_norm=5.0"), job())


def test_the_batch_at_full_scale_makes_no_other_run_of_one_that_gives_its_own(trained, corpus):
    """Nor of one that was begun before there was such a setting."""
    again = compose_small(corpus, trained.folder, *trained.settings, "batch.at_full_scale=64")
    assert run(again, job()) == trained.results


def test_fresh_starts_over_and_keeps_the_old(config, tmp_path):
    run(config("epochs=1", "steps_per_epoch=2"), job())
    old = (tmp_path / "run" / "best.pt").read_bytes()
    run(config("epochs=1", "steps_per_epoch=1", "fresh=true"), job())
    assert (tmp_path / "run.old-1" / "best.pt").read_bytes() == old
    assert checkpoint.load(tmp_path / "run" / "last.pt").progress["step"] == 1


def test_fresh_leaves_a_run_alone_that_is_being_trained(config, tmp_path, monkeypatch):
    monkeypatch.setattr(Journal.__init__, "__defaults__", (0.1,))  # it waits for loader processes that outlive a kill
    settings = config("epochs=1", "steps_per_epoch=1", "fresh=true")
    with closing(Journal(tmp_path / "run")), pytest.raises(InputError, match="is being trained by another process"):
        run(settings, job())
    assert not (tmp_path / "run.old-1").exists()


def test_init_from_takes_the_weights_and_nothing_else(trained, config, tmp_path):
    best = trained.directory / "best.pt"
    run(
        config("epochs=1", "steps_per_epoch=1", "optimizer.lr=1e-9", f"init_from={best}"),
        job("second", "init_from=..."),
    )
    first, second = checkpoint.load(best), checkpoint.load(tmp_path / "run" / "best.pt")
    torch.testing.assert_close(second.model["output.weight"], first.model["output.weight"], atol=1e-4, rtol=0)
    assert second.progress["step"] == 1


def test_a_checkpoint_of_another_model_is_refused_by_name(trained, config):
    with pytest.raises(InputError, match=r"another model.*gru"):
        run(config("model.gru_size=16", f"init_from={trained.directory / 'best.pt'}"), job("second", "init_from=..."))


def test_any_part_can_be_scored(trained, config, corpus, tmp_path):
    best = f"checkpoint={trained.directory / 'best.pt'}"
    results = evaluate.run(config(best, "parts=[dev-other,test-clean]", "workers=0", name="evaluate", small=False))
    assert {part: rates.utterances for part, rates in results.items()} == {"dev-other": 6, "test-clean": 6}
    assert len((tmp_path / "run" / "errors" / "dev-other.tsv").read_text().splitlines()) == 7


def test_dry_run_writes_nothing(config, tmp_path, capsys):
    assert run(config("dry_run=true", "data.max_seconds=0.9", "epochs=1", "steps_per_epoch=1"), job()) == {}
    plan = capsys.readouterr().out
    assert "1 epoch of 1 step: 1 step of 8 random utterances" in plan
    assert "too long (>= 0.9 s)" in plan
    assert "parameters" in plan
    assert list(tmp_path.iterdir()) == []


def test_the_plan_tells_what_was_rejected_and_what_is_resampled(tmp_path, capsys):
    root = tmp_path / "LibriSpeech"
    for speaker, part in enumerate(("train-clean-100", "train-clean-360", "dev-clean", "test-clean", "test-other"), 1):
        write_part(root, part, speaker, 3, seed=speaker)
    (root / "dev-clean" / "3" / "1" / "3-1-0000.flac").write_bytes(b"no audio")
    soundfile.write(root / "dev-clean" / "3" / "1" / "3-1-0001.flac", np.zeros(8000) + 0.1, 8000)
    for part in ("train-clean-100", "train-clean-360", "dev-clean", "test-clean", "test-other"):
        index_part(root, part)
    run(compose_small(root, tmp_path, "dry_run=true"), job())
    plan = " ".join(capsys.readouterr().out.split())
    assert "1 when indexed, see" in plan
    assert "1 utterances have another sample rate than 16000 Hz" in plan
    assert "dev dev-clean 2 " in plan


def test_an_epoch_is_one_of_the_data_where_no_steps_are_given(config):
    session = build_experiment(config("steps_per_epoch=null"))
    assert session.steps_per_epoch == 48 / 8


def test_bf16_trains_with_a_finite_loss(config, tmp_path):
    """What a GPU does by default, tried where a CPU can: autocast in bf16, the loss in float32."""
    run(config("epochs=1", "steps_per_epoch=2", "precision=bf16"), job())
    (record,) = checkpoint.load(tmp_path / "run" / "last.pt").history
    assert 0 < record["train_loss"] < 20
    assert 0 < record["dev_loss"] < 20


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=0", "epochs=0"),
        ("epochs=many", "epochs=many.*whole number"),
        ("monitor=speed", "loss, wer"),
        ("device=tpu", "device=tpu"),
        ("device=cuda:7", "device=cuda:7.*cpu"),
        ("precision=fp8", "float32, bf16"),
        ("data.root=/nowhere", "/nowhere"),
        ("data.root=null", "data.root=null: it must be the folder of the corpus; give data.root=FOLDER"),
        ("data.train=[train-clean-7]", "train-clean-7.*prepare"),
        ("data.max_seconds=0.1", "no utterance is left.*too long"),
        ("data.test=[dev-clean]", "dev-clean.*one role"),
        ("data.test=[]", "must each name a part"),
        ("data.train=[train-clean-100,train-clean-100]", "train-clean-100 is named twice"),
        ("optimizer.lr=-1", "optimizer.*-1"),
        ("optimizer._target_=torch.optim.Nothing", "optimizer.*Nothing"),
        ("+optimizer.speed=3", "optimizer.*speed"),
        ("model.gru_layers=0", "gru_layers=0"),
        ("batch.seconds=10", "exactly one"),
        ("features.normalize=global", "none, utterance"),
        ("features.hop_samples=0", "hop_samples=0: it must be a whole number from 1 to 400"),
        ("features.n_fft=0", "n_fft=0: it must be a whole number from 2 to 16,000"),
        ("features.n_fft=1000000", "n_fft=1000000: it must be a whole number from 2 to 16,000"),
        ("features.sample_rate=1", "sample_rate=1: it must be a whole number from 4,000"),
        ("features.n_mels=100000", "n_mels=100000: it must be"),
        ("model.gru_size=1000000000", "gru_size=1000000000: it must be"),
        ("model.convs=[{kernel: [11, 5]}]", "convs=.*it must be a list"),
        ("alphabet=abca", "alphabet"),
        ("init_from=missing.pt", "missing.pt.*no such file"),
        ("epochs=5", "pct_start=0.2: the way up"),
    ],
)
def test_what_cannot_work_is_refused_before_training(config, tmp_path, override, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        run(config("epochs=1", "steps_per_epoch=1", override), job("small", override))
    assert not (tmp_path / "run" / "last.pt").exists()
