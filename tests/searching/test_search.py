"""Studies on a small corpus: they find, share, resume after a kill and prune, and refuse what cannot be searched."""

import csv
import json
import os
import shlex
import signal
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from conftest import SMALL, exit_code, forked, in_mlflow
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from mlflow import MlflowClient
from omegaconf import OmegaConf

from asr import cli, search, train
from asr.config.naming import Job, study_name
from asr.config.rules import METRICS
from asr.errors import InputError
from asr.searching import range_test, space, study, trial
from asr.searching import report as study_report
from asr.training import checkpoint

QUICK = [o for o in SMALL if not o.startswith("optimizer.lr")] + ["epochs=2", "steps_per_epoch=6"]
STUDY = ["study.name=tried", "study.metric=dev_loss", "study.pruner=none", "study.baseline=false"]
WIDE = ["search.space.optimizer.lr.low=1e-7", "search.space.optimizer.lr.high=3e-2"]


def composed(corpus, folder, *overrides):
    """Return the config of `python -m asr.search` with these overrides, and its job; it writes into folder.

    All log to one MLflow database, each folder as an experiment, since creating a database takes seconds.
    """
    typed = [f"data.root={corpus}", *QUICK, *overrides]
    own = [f"output_dir={folder / 'tried'}", f"study.storage=sqlite:///{folder / 'studies.db'}",
           in_mlflow(folder.parent), f"tracking.experiment={folder.name}"]  # fmt: skip
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        config = compose("search", overrides=[*own, *STUDY, *typed])
    return config, Job("tried", {"model": "ds2_tiny", "search": "lr"}, typed, "python -m asr.search ...")


def run_search(corpus, folder, *overrides):
    search.run(*composed(corpus, folder, *overrides))


def stored(folder):
    """Return the trials of the study by place."""
    study.quiet_optuna()
    return study.by_place(optuna.load_study(study_name="tried", storage=f"sqlite:///{folder / 'studies.db'}"))


def logged(folder):
    """Return the MLflow client, the run of the study, and the runs of its trials."""
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(folder.name).experiment_id])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "study"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1
    return client, parent, sorted(children, key=lambda run: int(run.data.tags["trial"]))


class FunctionWorker(trial.Worker):
    """Train trials by a function, and collect those that ended."""

    def __init__(self, searched, total, function, seed=1, random_trials=2):
        settings = {"trials": total, "heartbeat_seconds": 1, "retries": None, "seed": seed, "baseline": False,
                    "random_trials": random_trials}  # fmt: skip
        config = OmegaConf.create({"study": settings})
        super().__init__(searched, trial.Search(config, None, None), None)
        self.function, self.finished = function, []

    def train(self, trial, number):
        return self.function(trial, number)

    def ended(self, trial, number):
        self.finished.append((number, trial.value))


def draws(count, seed, low, high):
    """Return what the first trials of a study draw at random, without training them."""
    settings = OmegaConf.create({"seed": seed, "random_trials": count})
    space = {"optimizer.lr": optuna.distributions.FloatDistribution(low, high, log=True)}
    studies = [optuna.create_study(sampler=study.make_sampler(settings, place, {})) for place in range(count)]
    return [one.ask(space).params["optimizer.lr"] for one in studies]


def seed_of(low, high, *rules):
    """Return the first seed whose random draws satisfy one rule each, in order."""
    study.quiet_optuna()
    return next(s for s in range(999) if all(r(d) for r, d in zip(rules, draws(len(rules), s, low, high), strict=True)))


@pytest.fixture
def no_plots(monkeypatch):
    """Skip the plots, which take a second; the fixture `searched` draws them."""
    monkeypatch.setattr(study_report, "PLOTS", ())


@dataclass(frozen=True)
class Searched:
    """A study of three trials, the first with a hopeless rate, the second with a good one; tests may add trials."""

    folder: Path
    settings: tuple[str, ...]
    output: str


@pytest.fixture(scope="module")
def searched(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    seed = seed_of(1e-7, 3e-2, lambda lr: lr < 1e-6, lambda lr: lr > 2e-3)
    settings = (*WIDE, f"study.seed={seed}", "study.trials=3")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lines = []
        patch.setattr(search.console, "print", lambda *parts, **_: lines.extend(map(str, parts)))
        run_search(corpus, folder, *settings)
    return Searched(folder, settings, "\n".join(lines))


def test_a_study_finds_a_better_rate_than_a_hopeless_one(searched):
    trials = stored(searched.folder)
    assert [t.state.name for t in trials.values()] == ["COMPLETE"] * 3
    best = min(trials.values(), key=lambda t: t.value)
    assert best.params["optimizer.lr"] > 1e-4
    assert best.value < 0.7 * trials[0].value
    seed = int(next(s for s in searched.settings if s.startswith("study.seed")).split("=")[1])
    assert [t.params["optimizer.lr"] for t in trials.values()] == draws(3, seed, 1e-7, 3e-2)  # the same for a seed


def test_a_trial_is_a_training_without_its_test(searched):
    folder = searched.folder / "tried" / "trial-0000"
    assert not (folder / "results.json").exists()
    config = json.loads((folder / "config.json").read_text())
    rate = stored(searched.folder)[0].params["optimizer.lr"]
    assert (config["optimizer"]["lr"], config["scheduler"]["max_lr"]) == (rate, rate)
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert stored(searched.folder)[0].value == min(record["dev_loss"] for record in history)
    assert stored(searched.folder)[0].intermediate_values == {r["epoch"]: r["dev_loss"] for r in history}
    assert {key for key, value in history[0].items() if key not in ("epoch", "step", "dev_examples")} == set(METRICS)


def test_mlflow_has_the_study_over_its_trials(searched):
    client, parent, children = logged(searched.folder)
    assert parent.info.status == "FINISHED"
    assert len(children) >= 3
    assert {child.info.status for child in children} == {"FINISHED"}
    assert float(children[1].data.params["optimizer.lr"]) == stored(searched.folder)[1].params["optimizer.lr"]
    assert children[1].data.metrics["objective"] == pytest.approx(stored(searched.folder)[1].value)
    plots = ("optimization_history", "param_importances", "slice", "parallel_coordinate", "intermediate_values")
    names = {"trials.tsv", *(f"{plot}.png" for plot in plots)}
    assert names <= {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert names <= {path.name for path in (searched.folder / "tried").iterdir()}


def test_the_table_has_a_row_for_each_trial(searched):
    with open(searched.folder / "tried" / "trials.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for row, (number, one) in zip(rows, stored(searched.folder).items(), strict=True):
        assert (int(row["trial"]), row["state"], int(row["epochs"])) == (number, "complete", 2)
        assert float(row["dev_loss"]) == one.value
        assert float(row["optimizer.lr"]) == one.params["optimizer.lr"]


def test_the_command_of_the_best_trains_it_again(searched, config, tmp_path):
    command = next(line for line in searched.output.splitlines() if line.startswith("python -m asr.train"))
    overrides = shlex.split(command)[3:]
    own = [f"output_dir={tmp_path / 'run'}", f"tracking.uri=sqlite:///{tmp_path.parent / 'mlflow.db'}", "workers=0",
           "tracking.system_metrics_seconds=null"]  # fmt: skip
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        train.run(compose("train", overrides=[*overrides, *own]), Job("again", {}, overrides, command))
    best, number = min((t.value, n) for n, t in list(stored(searched.folder).items())[:3])
    again, first = (
        [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in path.read_text().splitlines()]
        for path in (tmp_path / "run" / "history.jsonl",
                     searched.folder / "tried" / f"trial-{number:04}" / "history.jsonl")
    )  # fmt: skip
    assert again == first
    assert min(record["dev_loss"] for record in again) == best


def test_a_study_that_has_all_its_trials_is_shown(searched, corpus, capsys):
    run_search(corpus, searched.folder, *searched.settings)
    assert "Train the best, with its test" in capsys.readouterr().out
    _, parent, children = logged(searched.folder)
    assert not any("resumed" in run.data.tags for run in (parent, *children))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "search.space.optimizer.lr.high=1.0",
            r"search\.space\.optimizer\.lr\.high: 0\.03 -> 1\.0.*another study\.name",
        ),
        ("max_grad_norm=5.0", r"max_grad_norm: 10\.0 -> 5\.0"),
        ("study.pruner=median", "study.pruner: none -> median"),
    ],
)
def test_another_search_under_the_same_name_is_refused(searched, corpus, override, message):
    with pytest.raises(InputError, match=message):
        run_search(corpus, searched.folder, *searched.settings, override)


def test_a_study_resumes_with_more_trials(searched, corpus, no_plots):
    before = {number: one.params for number, one in stored(searched.folder).items()}
    run_search(corpus, searched.folder, *searched.settings, "study.trials=4")
    after = stored(searched.folder)
    assert len(after) == 4
    assert {number: after[number].params for number in before} == before
    assert len(logged(searched.folder)[2]) == 4


def test_a_dry_run_writes_nothing(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_search(corpus, tmp_path, "scheduler=cyclic", "study.baseline=true", "dry_run=true")
    plan = capsys.readouterr().out
    assert "optimizer.lr=0.0003; it is never pruned" in plan
    assert list(tmp_path.iterdir()) == []


def test_trials_that_are_pruned_or_diverge_are_marked_and_the_study_continues(corpus, tmp_path, monkeypatch, no_plots):
    real = search.create_or_wait

    def with_rates(*arguments):
        begun = real(*arguments)
        for rate in (1e-2, 1e-6, 1e28):
            begun.enqueue_trial({"optimizer.lr": rate})
        return begun

    monkeypatch.setattr(search, "create_or_wait", with_rates)
    median = ("study.pruner=median", "study.startup_trials=1", "study.warmup_epochs=1", "epochs=3")
    rates = ("search.space.optimizer.lr.low=1e-6", "search.space.optimizer.lr.high=1e30", "steps_per_epoch=3")
    run_search(corpus, tmp_path, *rates, *median, "study.metric=dev_cer", "study.trials=3")  # and pruned by dev_loss
    good, hopeless, wild = stored(tmp_path).values()
    assert (good.state.name, list(good.intermediate_values)) == ("COMPLETE", [1, 2, 3])
    assert (hopeless.state.name, list(hopeless.intermediate_values)) == ("PRUNED", [1])
    (record,) = map(json.loads, (tmp_path / "tried" / "trial-0001" / "history.jsonl").read_text().splitlines())
    assert hopeless.intermediate_values[1] == record["dev_loss"]
    assert wild.state.name == "PRUNED"
    assert wild.user_attrs[study.REASON] == "diverged after epoch 1: dev_loss is nan"
    children = logged(tmp_path)[2]
    assert [child.info.status for child in children] == ["FINISHED", "KILLED", "FAILED"]
    assert children[1].data.tags["pruned"] == "after epoch 1"
    assert children[2].data.tags["diverged"] == "after epoch 1: dev_loss is nan"
    with open(tmp_path / "tried" / "trials.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["state"] for row in rows] == ["complete", "pruned", "diverged"]
    assert float(rows[1]["dev_cer"]) == record["dev_cer"]


def test_a_study_without_a_complete_trial_says_so(tmp_path, capsys):
    study.quiet_optuna()
    nothing = optuna.create_study()
    files = study_report.write_report(nothing, tmp_path, "dev_cer")
    assert [file.name for file in files] == ["trials.tsv"]
    assert study_report.print_best(nothing, "dev_cer") is None
    printed = capsys.readouterr().out
    assert "No plot of param_importances: it needs 2 complete trials, there are 0" in printed
    assert "No trial was complete" in printed


def test_a_trial_whose_process_is_killed_resumes_from_its_checkpoint(corpus, tmp_path, monkeypatch, capsys, no_plots):
    settings = ("epochs=3", "study.trials=2", "steps_per_epoch=3")
    real = checkpoint.save_last

    def save_then_die(saved, directory):
        real(saved, directory)
        if saved.progress["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_last", save_then_die)
        assert exit_code(forked(lambda: run_search(corpus, tmp_path, *settings))) == -signal.SIGKILL
    assert [one.state.name for one in stored(tmp_path).values()] == ["RUNNING"]
    with closing(sqlite3.connect(tmp_path / "studies.db")) as database, database:  # a minute later
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-61 seconds')")

    run_search(corpus, tmp_path, *settings)
    assert "epoch 2 is done" in capsys.readouterr().out
    trials = stored(tmp_path)
    assert {number: (one.number, one.state.name) for number, one in trials.items()} == {
        0: (1, "COMPLETE"),  # resumed under a new number
        1: (2, "COMPLETE"),
    }
    history = (tmp_path / "tried" / "trial-0000" / "history.jsonl").read_text().splitlines()
    recorded = [(record["epoch"], record["dev_loss"]) for record in map(json.loads, history)]
    assert list(trials[0].intermediate_values.items()) == recorded  # each epoch once, in order
    assert [epoch for epoch, _ in recorded] == [1, 2, 3]
    _, _, children = logged(tmp_path)
    assert [child.data.tags.get("resumed") for child in children] == ["1", None]
    assert {child.info.status for child in children} == {"FINISHED"}


def test_a_trial_that_is_interrupted_is_queued_again_at_once():
    study.quiet_optuna()
    stopped = optuna.create_study()

    def train_until_interrupted(one, number):
        one.suggest_float("x", 0, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FunctionWorker(stopped, 1, train_until_interrupted).run_one()
    (one,) = study.by_place(stopped).values()
    assert (one.number, one.state.name, one.params) == (1, "WAITING", stopped.trials[0].params)
    resumed = FunctionWorker(stopped, 1, lambda trial, _: trial.suggest_float("x", 0, 1))
    resumed.run()
    assert resumed.finished == [(0, one.params["x"])]


def test_a_study_that_is_stopped_ends_as_one_that_is_not():
    """Its trials have the same places, values and results, whichever of them were resumed, and how often."""
    study.quiet_optuna()

    def ended(*stops):
        searched = optuna.create_study()
        left = list(stops)

        def train_one(one, place):
            x = one.suggest_float("x", 0, 1)
            if left and left[0] == place:
                left.pop(0)
                raise KeyboardInterrupt
            return (x - 0.3) ** 2

        for _ in range(len(stops)):
            with pytest.raises(KeyboardInterrupt):
                FunctionWorker(searched, 4, train_one).run()
        FunctionWorker(searched, 4, train_one).run()
        return {place: (one.params, one.value) for place, one in study.by_place(searched).items()}

    whole = ended()
    assert list(whole) == [0, 1, 2, 3]
    assert ended(0, 2, 2) == whole


def test_two_processes_share_a_study(corpus, tmp_path, no_plots):
    """Both start before the study, its database and its MLflow run exist."""
    settings = ("study.trials=5", "steps_per_epoch=2", "study.baseline=true")
    children = [forked(lambda: run_search(corpus, tmp_path, *settings)) for _ in range(2)]
    assert [exit_code(child) for child in children] == [0, 0]
    trials = stored(tmp_path)
    assert Counter(one.state.name for one in trials.values()) == {"COMPLETE": 5}
    assert len({one.params["optimizer.lr"] for one in trials.values()}) == 5
    assert [number for number, one in trials.items() if study.BASELINE in one.user_attrs] == [0]
    assert len(list((tmp_path / "tried").glob("trial-*"))) == 5
    _, parent, runs = logged(tmp_path)
    assert (parent.info.status, [run.data.tags["trial"] for run in runs]) == ("FINISHED", list(map(str, trials)))
    assert len((tmp_path / "tried" / "trials.tsv").read_text().splitlines()) == 6


def test_the_command_names_the_study_and_its_directory(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["asr.search", f"data.root={corpus}", *QUICK[:2], "study.trials=7", "dry_run=true"]
    )
    search.main()
    plan = capsys.readouterr().out
    assert f"outputs/studies/lr+augment-none+data.root-{corpus.name}+model-ds2_tiny" in plan
    assert "sqlite:///outputs/studies.db: 7 trials in all, none started yet" in plan
    assert not (tmp_path / "outputs").exists()

    monkeypatch.setattr(sys, "argv", ["asr.search", "search=lrr"])
    with pytest.raises(SystemExit):
        search.main()
    assert "lr, lr_full, lr_range" in capsys.readouterr().err


def test_processes_that_start_the_last_trial_together_make_one_of_it():
    """The trial with the higher number gives way and does not appear in the study."""
    study.quiet_optuna()
    shared = optuna.create_study()
    first = shared.ask()
    late = FunctionWorker(shared, 1, lambda *_: pytest.fail("it trained"))
    late.run_one()
    assert late.finished == []
    assert list(study.by_place(shared)) == [first.number]


def test_a_trial_that_was_given_away_is_left_to_the_other():
    """A process that was suspended for long finds its trial failed and queued again."""
    study.quiet_optuna()
    shared = optuna.create_study()
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback()

    def train_slowly(one, number):
        shared.tell(number, state=optuna.trial.TrialState.FAIL)
        retry(shared, shared.trials[number])
        one.report(1.0, 1)

    suspended = FunctionWorker(shared, 1, train_slowly)
    suspended.run_one()
    assert suspended.finished == []
    assert [one.state.name for one in study.by_place(shared).values()] == ["WAITING"]


def test_draws_do_not_depend_on_when_a_study_was_stopped():
    study.quiet_optuna()
    storage = optuna.storages.InMemoryStorage()

    def score(one, _):
        return (one.suggest_float("x", 0, 1) - 0.3) ** 2

    whole = optuna.create_study()
    FunctionWorker(whole, 6, score).run()
    for total in (2, 3, 6):
        part = optuna.create_study(storage=storage, study_name="part", load_if_exists=True)
        FunctionWorker(part, total, score).run()
    assert [one.params for one in part.trials] == [one.params for one in whole.trials]
    assert len({one.params["x"] for one in whole.trials}) == 6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+search.space.optimizer.lrr={low: 1, high: 2}"], "optimizer.lrr: .*did you mean optimizer.lr"),
        (["+search.space.batch={choices: [1]}"], "batch is not a single setting"),
        (["+search.space.workers={low: 1, high: 2}"], "how a run is executed"),
        (["~search.space.optimizer"], "search.space is empty"),
        (["search.space=3"], "search.space=3: it must be a group"),
        (["search.space.optimizer.lr.low=1"], r"search.space.optimizer.lr=.*`low <= high` must hold"),
        (["search.space.optimizer.lr.low=0"], "`low > 0` must hold for `log=True`"),
        (["search.space.optimizer.lr.low=many"], r"search.space.optimizer.lr.low=many: it must be a number"),
        (["~search.space.optimizer.lr.high"], r"search.space.optimizer.lr.high=null: it must be a number"),
        (["+search.space.optimizer.lr.hgih=1"], "unexpected keyword argument 'hgih'"),
        (["+search.space.seed={low: 1, high: 2.5, int: true}"], "int: true needs whole numbers"),
        (["+search.space.seed={low: 1, high: 6, step: 2, int: true}"], "not divisible by `step`"),
        (["+search.space.seed={choices: [[1]]}"], "contains .1. which is of type list"),
        (["+search.space.seed={choices: many}"], "search.space.seed.choices=many: it must be a list"),
        (["+search.space.scheduler.base_lr=1"], "scheduler.base_lr: there is no such setting"),
        (["optimizer.lr=0.1"], "optimizer.lr is given on the command line"),
        (["scheduler.max_lr=0.1"], "scheduler.max_lr=0.1 and optimizer.lr=.*set that to 0.1"),
        (["+search.space.model.dropout={low: 0, high: 2}"], "model.dropout=2.*is invalid.*dropout"),
        (["search=lr_full", "batch.buckets=2", "search.space.batch.seconds.choices=[1,2]"], "batch.seconds=1.*longest"),
        (["study.metric=dev_car"], "study.metric=dev_car.*dev_cer"),
        (["study.pruner=mean"], "median, hyperband, none"),
        (["study.storage=postgresql://me:secret@127.0.0.1:1/x"], r"//me:\*\*\*@127.0.0.1.*refused"),
        (["study.storage=nonsense"], "study.storage=nonsense"),
        (["study.storage=sqlite:////proc/none/x.db"], "sqlite:////proc/none"),
        (["tracking.uri=nonsense"], "tracking.uri=nonsense"),
        (["tracking.uri=http://127.0.0.1:9"], "tracking.uri=http://127.0.0.1:9 does not answer"),
        (["tracking.uri=null"], "tracking.uri=null: a study compares its trials in MLflow; give the address of one"),
        (["study.name=a/b"], "study.name=a/b"),
        (["data.root=/nowhere"], "^(?!.*edge of the space).*/nowhere"),
        (["fresh=true"], "start another by study.name"),
        (["search=lr_range", "search.smoothing=1"], "search.smoothing=1"),
        (["search=lr_range", "+search.space.model.dropout={low: 0, high: 1}"], "needs optimizer.lr.*alone"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_any_trial(corpus, tmp_path, monkeypatch, overrides, message):
    monkeypatch.chdir(tmp_path)
    if "search=lr_full" in overrides:
        config, job = composed(corpus, tmp_path, *overrides)
        job = job._replace(overrides=[o for o in job.overrides if not o.startswith("batch.utterances")])
    else:
        config, job = composed(corpus, tmp_path, *overrides)
    with pytest.raises(InputError, match=f"(?s){message}") as refused:
        search.run(config, job)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "tried").exists()


def test_trials_without_their_study_are_not_overwritten(corpus, tmp_path):
    (tmp_path / "tried" / "trial-0000").mkdir(parents=True)
    with pytest.raises(InputError, match=r"trial-0000 belongs to a study tried.*does not contain"):
        run_search(corpus, tmp_path)


def test_the_range_test_suggests_a_rate_and_draws_the_curve(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_search(corpus, tmp_path, "search=lr_range", "search.steps=40", "search.space.optimizer.lr.high=10")
    with open(tmp_path / "tried" / "lr_range.tsv", newline="") as file:
        points = list(csv.DictReader(file, delimiter="\t"))
    rates = [float(point["learning_rate"]) for point in points]
    assert rates[0] == pytest.approx(1e-6)
    assert rates[1] / rates[0] == pytest.approx(rates[-1] / rates[-2]) == pytest.approx(1e7 ** (1 / 39))
    assert (tmp_path / "tried" / "lr_range.png").stat().st_size > 10_000
    client = MlflowClient(f"sqlite:///{tmp_path.parent / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name(tmp_path.name).experiment_id])
    assert run.data.tags["kind"] == "lr_range"
    assert run.info.status == "FINISHED"
    steepest = float(run.data.tags["lr_range.steepest"])
    assert 1e-6 < steepest < 10
    assert {"lr_range.png", "lr_range.tsv"} <= {file.path for file in client.list_artifacts(run.info.run_id)}
    printed = capsys.readouterr().out
    assert "Smith 2015" in printed
    diverged = run.data.tags.get("lr_range.diverged_at")
    suggested = float(diverged) / 10 if diverged else steepest
    assert f"optimizer.lr={float(f'{suggested:.2g}')}" in printed


def test_a_tenth_of_the_diverging_rate_is_suggested_before_the_steepest_descent():
    losses = (9.0, 8.9, 4.0, 3.9, 3.8)
    points = [range_test.Point(10.0**-n, loss, loss) for n, loss in zip(range(6, 1, -1), losses, strict=True)]
    assert range_test.Curve(points, 0.5).suggestion == 0.05
    assert (
        range_test.Curve(points, None).suggestion == range_test.Curve(points, None).steepest == points[1].learning_rate
    )
    assert range_test.Curve([], None).suggestion is None


def test_cyclic_is_searched_in_the_published_proportion(corpus, tmp_path):
    config, job = composed(corpus, tmp_path, "scheduler=cyclic")
    read = space.read_space(config, job.overrides)
    training = space.trial_config(config, read, {"optimizer.lr": 6e-4})
    assert space.trial_settings(training, read) == {"optimizer.lr": 6e-4}
    assert (training.scheduler.base_lr, training.scheduler.max_lr) == (1e-4, 6e-4)
    assert config.optimizer.lr != 6e-4  # the config itself is as it was
    assert "search" not in training


def test_the_best_is_compared_with_the_configs_own_values(corpus, tmp_path, monkeypatch, capsys, no_plots):
    """Trial 0 has these values and runs to its end, however bad they are, so that others can be compared with it."""
    monkeypatch.chdir(tmp_path)
    median = ("study.pruner=median", "study.startup_trials=0", "study.warmup_epochs=1", "study.random_trials=9")
    low, high = 1e-4, 2e-2
    seed = seed_of(low, high, lambda _: True, lambda lr: lr > 2e-3)  # number 1 is the first that is drawn
    monkeypatch.setattr(space.Space, "baseline", lambda *_: {"optimizer.lr": low})
    space_of = (f"search.space.optimizer.lr.low={low}", f"search.space.optimizer.lr.high={high}")
    run_search(corpus, tmp_path, *space_of, *median, f"study.seed={seed}", "study.baseline=true", "study.trials=2")
    trials = stored(tmp_path)
    assert [t.state.name for t in trials.values()] == ["COMPLETE"] * 2
    assert trials[0].params == {"optimizer.lr": low}
    assert trials[1].value < trials[0].value
    shown = capsys.readouterr().out
    values = [f"{trial.value:.4g}" for trial in trials.values()]
    assert f"Trial 0 is the config as it is: dev_loss {values[0]}. Trial 1 has {values[1]}." in shown


def test_values_outside_the_space_are_no_baseline(corpus, tmp_path):
    config, job = composed(corpus, tmp_path)
    searched_space = space.read_space(config, job.overrides)
    assert searched_space.baseline(config) == {"optimizer.lr": config.optimizer.lr}
    for value in (1.0, None):
        config.optimizer.lr = value
        assert searched_space.baseline(config) is None


@pytest.mark.parametrize("value", [None, True, 3, 1e-05, 0.0001704851049802231, "one", "null", "1e3", "it's; $x"])
def test_settings_are_typed_so_that_hydra_reads_the_same_value(value):
    (text,) = space.train_overrides(["search=lr", "study.trials=3"], {"key": value})
    read = OverridesParser.create().parse_override(text).value()
    read = getattr(read, "text", read)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        (None, [], "lr"),
        (None, ["study.trials=30", "scale=mini", "experiment=exp3", "search=lr"], "lr+exp3+scale-mini"),
        (None, ["search.space.optimizer.lr.high=1", "workers=3"], "lr+search.space.optimizer.lr.high-1"),
        ("mine", ["experiment=exp3"], "mine"),
    ],
)
def test_a_study_is_named_by_what_its_trials_depend_on(name, overrides, expected):
    assert study_name(name, "lr", overrides) == expected


def test_every_search_fits_every_scheduler(corpus, tmp_path):
    for name in ("lr", "lr_full", "lr_range"):
        for scheduler in ("one_cycle", "cyclic", "constant"):
            config, _ = composed(corpus, tmp_path, f"search={name}", f"scheduler={scheduler}")
            read = space.read_space(config, [])
            assert read.fixed == ({"batch.utterances": None} if name == "lr_full" else {})
            training = space.trial_config(config, read, read.corners()[-1])
            assert space.trial_settings(training, read) == read.corners()[-1] | read.fixed


def test_a_fixed_setting_follows_one_that_is_drawn(corpus, tmp_path):
    """It is typed, resolved, in the command that trains the best again."""
    config, job = composed(corpus, tmp_path, "+search.space.optimizer.weight_decay=${optimizer.lr}")
    read = space.read_space(config, [])
    training = space.trial_config(config, read, {"optimizer.lr": 6e-4})
    assert space.trial_settings(training, read) == {"optimizer.lr": 6e-4, "optimizer.weight_decay": 6e-4}
    command = trial.Search(config, job, read).training_job(training).command
    assert " optimizer.lr=0.0006 optimizer.weight_decay=0.0006 " in command
