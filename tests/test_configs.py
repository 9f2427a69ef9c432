"""Every config composes and builds, and the experiments are the writeup's."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from asr import cli
from asr.augment import Augment
from asr.build import build_optimizer, build_recognizer, make
from asr.model import count_parameters


def options(group):
    return sorted(path.stem for path in (cli.CONF / group).glob("*.yaml"))


def composed(*overrides):
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return compose("train", overrides=["output_dir=nowhere", *overrides])


@pytest.mark.parametrize("optimizer", options("optimizer"))
@pytest.mark.parametrize("scheduler", options("scheduler"))
def test_every_optimizer_goes_with_every_scheduler(optimizer, scheduler):
    momentum = [] if optimizer == "sgd" or scheduler != "cyclic" else ["scheduler.cycle_momentum=false"]
    config = composed(f"optimizer={optimizer}", f"scheduler={scheduler}", *momentum)
    optimizer, schedule = build_optimizer(config, torch.nn.Linear(2, 2), total_steps=10)
    for _ in range(10):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] >= 0


@pytest.mark.parametrize("augment", options("augment"))
def test_every_augmentation_builds(augment):
    built = make(composed(f"augment={augment}").augment, "augment")
    assert isinstance(built, Augment)
    waves = {"none": 0, "speed_spec": 1, "wave_spec_no_noise": 2, "wave_spec": 3, "time_inversion": 4}
    assert len(built.wave) == waves[augment]
    assert len(built.spectrogram) == (0 if augment == "none" else 2)


EXPERIMENTS = {
    # parameters, training parts, batch, total steps, augmentation, optimizer
    "exp1": (19_178_812, ["train-clean-100", "train-clean-360"], 64, 5_000, 0, torch.optim.SGD),
    "exp2_clean": (32_244_188, ["train-clean-100", "train-clean-360"], 32, 5_000, 3, torch.optim.Adam),
    "exp2_other": (32_244_188, ["train-other-500"], 32, 5_000, 2, torch.optim.Adam),
    "exp3": (
        18_069_980,
        ["train-clean-100", "train-clean-360", "train-other-500"],
        32,
        10_000,
        3,
        torch.optim.SGD,
    ),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_the_writeups(name):
    parameters, train, batch, steps, waves, optimizer_class = EXPERIMENTS[name]
    config = composed(f"experiment={name}")
    recognizer = build_recognizer(config, seed=0)
    assert count_parameters(recognizer.model) == parameters
    assert list(config.data.train) == train
    assert list(config.data.dev) == ["dev-clean"]
    assert (config.data.max_seconds, config.data.max_characters) == (20, 200)
    assert config.batch.utterances == batch
    assert config.epochs * config.steps_per_epoch == steps
    assert len(config.augment.wave) == waves
    optimizer, _ = build_optimizer(config, recognizer.model, steps)
    assert type(optimizer) is optimizer_class


@pytest.mark.parametrize(
    ("name", "first", "top", "momentum"),
    [
        ("exp1", 0.01 / 25, 0.01, 0.95),
        ("exp2_clean", 5e-4 / 25, 5e-4, 0.95),
        ("exp3", 1e-4, 6e-4, 0.9),
    ],
)
def test_learning_rates_start_and_peak_where_the_writeups_do(name, first, top, momentum):
    config = composed(f"experiment={name}")
    optimizer, schedule = build_optimizer(config, torch.nn.Linear(2, 2), config.epochs * config.steps_per_epoch)
    group = optimizer.param_groups[0]
    assert group.get("momentum", group.get("betas", [None])[0]) == pytest.approx(momentum)
    rates = []
    for _ in range(config.epochs * config.steps_per_epoch):
        rates.append(group["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(first)
    assert max(rates) == pytest.approx(top)


def test_the_canonical_command_is_the_first_stage_of_exp2():
    canonical, experiment = composed("model=ds2_7gru", "data=clean"), composed("experiment=exp2_clean")
    assert canonical == experiment


@pytest.mark.parametrize("name", options("experiment"))
def test_an_experiment_names_all_five_groups_and_its_command(name):
    text = (cli.CONF / "experiment" / f"{name}.yaml").read_text()
    for group in ("model", "data", "augment", "optimizer", "scheduler"):
        assert f"override /{group}:" in text
    assert f"python -m asr.train experiment={name}" in text


def test_no_key_of_the_configs_is_unread():
    """A setting that no code reads is a lie."""
    code = "".join(path.read_text() for path in (Path(cli.__file__).parent).glob("*.py"))
    config = composed()
    for key in [*config, *config.batch, *config.tracking, *config.data]:
        assert f"{key}" in code, key
