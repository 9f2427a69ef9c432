"""Every config composes and builds, alone and in sweeps. (What the writeup's experiments are: test_writeup.py.)"""

import re
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.types import RunMode
from omegaconf import OmegaConf

from asr import cli
from asr.config.build import build_optimizer, build_recognizer, make
from asr.errors import InputError
from asr.models.deep_speech2 import count_parameters
from asr.settings import flatten

GROUPS = {"model", "data", "augment", "optimizer", "scheduler"}


def options(group):
    return sorted(path.stem for path in (cli.CONF / group).glob("*.yaml"))


@cache
def composed(*overrides, **settings):
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return compose("train", overrides=["output_dir=nowhere", "init_from=null", *overrides], **settings)


def learning_rates(config, steps):
    optimizer, schedule = build_optimizer(config, torch.nn.Linear(2, 2), steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return torch.tensor(rates)


@pytest.mark.parametrize("optimizer", options("optimizer"))
@pytest.mark.parametrize("scheduler", options("scheduler"))
def test_every_optimizer_goes_with_every_scheduler(optimizer, scheduler):
    rates = learning_rates(composed(f"optimizer={optimizer}", f"scheduler={scheduler}"), steps=200)
    assert (rates > 0).all()


@pytest.mark.parametrize("scheduler", options("scheduler"))
def test_a_shorter_run_keeps_the_shape_of_its_schedule(scheduler):
    config = composed("optimizer=sgd", f"scheduler={scheduler}")
    long, short = learning_rates(config, steps=5000), learning_rates(config, steps=1000)
    torch.testing.assert_close(short, long[::5], rtol=0, atol=0.01 * float(long.max()))


@pytest.mark.parametrize("model", options("model"))
def test_every_model_builds(model):
    recognizer = build_recognizer(composed(f"model={model}"), seed=0)
    log_probs, frames = recognizer.model(torch.randn(1, 128, 50), torch.tensor([50]))
    assert log_probs.shape == (1, recognizer.model.output_lengths(50), 28)
    assert frames.tolist() == [log_probs.shape[1]]


@pytest.mark.parametrize("augment", options("augment"))
def test_every_augmentation_builds_and_runs(augment):
    built = make(composed(f"augment={augment}").augment, "augment")
    samples = built.waveform(np.zeros(16_000, np.float32), sample_rate=16_000)
    assert samples.dtype == np.float32
    mel = torch.ones(128, 200)
    for transform in built.spectrogram:
        mel = transform(mel)
    assert mel.shape == (128, 200)


def test_the_canonical_command_is_the_first_stage_of_exp2():
    canonical, experiment = composed("model=ds2_7gru", "data=clean"), composed("experiment=exp2_clean")
    assert canonical == experiment


def named_groups(experiment):
    """The groups that an experiment's file sets, or the experiment that it extends."""
    defaults = OmegaConf.load(cli.CONF / "experiment" / f"{experiment}.yaml").defaults
    extended = [entry for entry in defaults if isinstance(entry, str) and entry != "_self_"]
    own = {key.removeprefix("override /") for entry in defaults if not isinstance(entry, str) for key in entry}
    return own.union(*(named_groups(parent) for parent in extended))


@pytest.mark.parametrize("name", options("experiment"))
def test_an_experiment_names_all_five_groups_and_its_command(name):
    assert named_groups(name) == GROUPS
    assert f"python -m asr.train experiment={name}\n" in (cli.CONF / "experiment" / f"{name}.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("exp3_adam", ["optimizer=adam", "optimizer.lr=6e-4"]),
        ("exp3_sgd_one_cycle", ["scheduler=one_cycle", "optimizer.lr=0.01"]),
        ("exp3_adam_one_cycle", ["optimizer=adam", "scheduler=one_cycle"]),
    ],
)
def test_the_hypotheses_differ_from_exp3_in_what_they_are_called_by_alone(name, changes):
    assert composed(f"experiment={name}") == composed("experiment=exp3", *changes)


@pytest.mark.parametrize("name", [name for name in options("experiment") if name.startswith("exp")])
def test_mini_is_the_same_experiment_at_a_fraction_of_its_size(name):
    experiment, mini_config = composed(f"experiment={name}"), composed(f"experiment={name}", "scale=mini")
    full, mini = (flatten(OmegaConf.to_container(config, resolve=True)) for config in (experiment, mini_config))
    assert full.keys() == mini.keys()
    assert {key: full[key] / mini[key] for key in full if full[key] != mini[key]} == {
        "model.conv_channels": 4,
        "model.gru_size": 4,
        "batch.utterances": 4,  # exp1's stay twice those of the others
        "batch.divided_by": 1 / 4,
        "steps_per_epoch": 5,
    }
    model = build_recognizer(mini_config, seed=0).model
    assert count_parameters(model) < 2.5e6
    build_optimizer(mini_config, model, mini_config.epochs * mini_config.steps_per_epoch)
    assert composed(f"experiment={name}", "scale=full") == experiment


def test_mini_takes_a_quarter_of_the_batch_of_any_experiment(tmp_path):
    """One of the user's own too, whatever its name."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nbatch: {at_full_scale: 128}\n")
    config = composed("experiment=mine", "scale=mini", f"hydra.searchpath=[{tmp_path}]")
    assert config.batch.utterances == 32
    assert type(config.batch.utterances) is int


def test_mini_leaves_batches_by_seconds_as_they_are():
    config = composed("experiment=quickstart", "scale=mini")
    assert (config.batch.utterances, config.batch.seconds) == (None, 120)


@pytest.mark.parametrize("name", options("sweep"))
def test_a_sweep_is_a_multirun_of_jobs_that_build(name):
    hydra = composed(f"sweep={name}", return_hydra_config=True).hydra
    assert hydra.mode is RunMode.MULTIRUN
    values = [[f"{key}={value}" for value in str(values).split(",")] for key, values in hydra.sweeper.params.items()]
    for job in product(*values):
        config = composed(f"sweep={name}", *job)
        make(config.augment, "augment")
        build_optimizer(config, torch.nn.Linear(2, 2), config.epochs * config.steps_per_epoch)
    assert f"python -m asr.train sweep={name}\n" in (cli.CONF / "sweep" / f"{name}.yaml").read_text()


def test_the_writeup_trains_exp2s_second_stage_after_the_first():
    hydra = composed("sweep=writeup", return_hydra_config=True).hydra
    assert hydra.sweeper.params == {"experiment": "exp1,exp2_clean,exp2_other,exp3"}


@pytest.mark.parametrize("scheduler", options("scheduler"))
def test_one_setting_moves_the_learning_rate_under_every_schedule(scheduler):
    """So a multirun or a search over optimizer.lr compares what it says it does."""

    def highest(lr):
        config = composed(f"scheduler={scheduler}", f"optimizer.lr={lr}")
        optimizer, schedule = build_optimizer(config, torch.nn.Linear(2, 2), 200)
        rates = []
        for _ in range(200):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return max(rates)

    assert (highest(1e-4), highest(3e-3)) == pytest.approx((1e-4, 3e-3), rel=1e-6)


def test_a_peak_apart_from_the_optimizers_lr_is_refused():
    config = composed("scheduler.max_lr=0.1")
    with pytest.raises(InputError, match=r"scheduler.max_lr=0.1 and optimizer.lr=0.0005.*set that to 0.1"):
        build_optimizer(config, torch.nn.Linear(2, 2), 200)


def test_no_key_of_the_configs_is_unread():
    """A setting that neither code nor another setting reads is a lie."""
    code = "".join(path.read_text() for path in Path(cli.__file__).parent.rglob("*.py"))
    references = "".join(re.findall(r"\$\{.*\}", "".join(path.read_text() for path in cli.CONF.rglob("*.yaml"))))
    config = composed()
    for key in [*config, *config.batch, *config.tracking, *config.data]:
        assert key in code + references, key
