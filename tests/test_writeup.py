"""The four runs of the writeup's three experiments: every figure that it or its logs give, against what we build.

The figures stand here as the writeup has them, so a test that fails names the figure that a config has lost.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import pytest
import torch
from audiomentations import Gain, Shift
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR
from torchaudio.transforms import FrequencyMasking, MelSpectrogram, TimeMasking

from asr import cli
from asr.config.build import Recognizer, build_data, build_optimizer, build_recognizer, make
from asr.corpora.manifest import Utterance, Utterances
from asr.data import parts as data_parts
from asr.data.augment import AddGaussianNoise, Augment, Sometimes
from asr.data.text import BLANK
from asr.models.deep_speech2 import DeepSpeech2, count_parameters

Schedule = tuple[Optimizer, LRScheduler]


class Conv(NamedTuple):
    """Sizes are frequency x time."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


FIRST, MIDDLE, LAST = Conv((41, 11), (2, 2), (20, 5)), Conv((41, 11), (2, 2), (20, 5)), Conv((21, 11), (2, 1), (10, 5))

SHIFT = (Shift, {"p": 0.2, "min_shift": -0.2, "max_shift": 0.3, "shift_unit": "fraction", "rollover": True})
GAIN = (Gain, {"p": 0.1, "min_gain_db": -10, "max_gain_db": 6})
NOISE = (AddGaussianNoise, {"p": 1.0, "min_amplitude": 0.003, "max_amplitude": 0.003})
MASKS = ((FrequencyMasking, 20, 0.3), (TimeMasking, 100, 0.3))


def sgd_one_cycle(weights: list[nn.Parameter]) -> Schedule:
    """exp1."""
    optimizer = SGD(weights, lr=0.01)
    return optimizer, OneCycleLR(optimizer, 0.01, total_steps=5000, pct_start=0.2, anneal_strategy="cos")


def adam_one_cycle(weights: list[nn.Parameter]) -> Schedule:
    """exp2, both stages."""
    optimizer = Adam(weights, lr=3e-4)
    return optimizer, OneCycleLR(optimizer, 5e-4, total_steps=5000, pct_start=0.2, anneal_strategy="cos")


def sgd_cyclic(weights: list[nn.Parameter]) -> Schedule:
    """exp3."""
    optimizer = SGD(weights, lr=3e-4, momentum=0.9)
    return optimizer, CyclicLR(optimizer, 1e-4, 6e-4, step_size_up=50, mode="triangular2")


class Published(NamedTuple):
    """One run of the writeup. norms: BatchNorm2d + ReLU behind the convolutions, and LayerNorm before the output."""

    convs: tuple[Conv, ...]
    gru_layers: int
    gru_input: int
    norms: bool
    parameters: int
    train: list[str]
    batch: int
    schedule: Callable[[list[nn.Parameter]], Schedule]
    epochs: int
    wave: tuple = ()
    masks: tuple = ()


CLEAN, OTHER = ["train-clean-100", "train-clean-360"], ["train-other-500"]
THREE = (FIRST, MIDDLE, LAST)
PUBLISHED = {
    "exp1": Published((FIRST, LAST), 4, 1024, False, 19_178_812, CLEAN, 64, sgd_one_cycle, 50),
    "exp2_clean": Published(
        THREE, 7, 512, True, 32_244_188, CLEAN, 32, adam_one_cycle, 50, (SHIFT, GAIN, NOISE), MASKS
    ),
    "exp2_other": Published(THREE, 7, 512, True, 32_244_188, OTHER, 32, adam_one_cycle, 50, (SHIFT, GAIN), MASKS),
    "exp3": Published(THREE, 4, 512, True, 18_069_980, CLEAN + OTHER, 32, sgd_cyclic, 100, (SHIFT, GAIN, NOISE), MASKS),
}
NARROW = ("model.conv_channels=3", "model.gru_size=4")
each_run = pytest.mark.parametrize("name", PUBLISHED)
each_model = pytest.mark.parametrize("name", ["exp1", "exp2_clean", "exp3"])


@cache
def composed(name: str, *overrides: str) -> DictConfig:
    """The config of a run; nothing is written and no weights are looked for."""
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return compose("train", [f"experiment={name}", "output_dir=nowhere", "init_from=null", *overrides])


@cache
def small(name: str) -> Recognizer:
    """A run's recogniser with its layers at a fraction of their width."""
    return build_recognizer(composed(name, *NARROW), seed=1)


@each_run
def test_the_model_has_the_published_layers_and_parameters(name: str) -> None:
    published = PUBLISHED[name]
    model = build_recognizer(composed(name), seed=0).model
    assert count_parameters(model) == published.parameters
    assert [(c.kernel_size, c.stride, c.padding) for c in model.convs] == list(published.convs)
    assert all(c.out_channels == 32 for c in model.convs)
    assert len(model.grus) == published.gru_layers
    assert [gru.forward_gru.input_size for gru in model.grus] == [published.gru_input] + [1024] * (
        published.gru_layers - 1
    )
    assert all(gru.forward_gru.hidden_size == gru.backward_gru.hidden_size == 512 for gru in model.grus)
    assert (model.conv_norm is not None) is published.norms
    assert isinstance(model.output_norm, nn.LayerNorm) is published.norms
    assert model.dropout.p == 0
    assert model.output.out_features == 28


class Reference(nn.Module):
    """The published model in torch's own layers, built of the figures alone: it knows no padding, and lays pictures
    out as (batch, channel, time, frequency)."""

    def __init__(self, published: Published, channels: int, gru_size: int) -> None:
        super().__init__()
        sizes = [1] + [channels] * len(published.convs)
        self.convs = nn.ModuleList(
            nn.Conv2d(sizes[i], channels, conv.kernel[::-1], conv.stride[::-1], conv.padding[::-1])
            for i, conv in enumerate(published.convs)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in published.convs)
        self.conv_norm = nn.BatchNorm2d(channels) if published.norms else None
        width = channels * published.gru_input // 32
        self.gru = nn.GRU(width, gru_size, published.gru_layers, batch_first=True, bidirectional=True)
        self.output_norm = nn.LayerNorm(2 * gru_size) if published.norms else nn.Identity()
        self.output = nn.Linear(2 * gru_size, 28)

    def convolve(self, x: Tensor) -> Tensor:
        """(B, 1, T, F) -> (B, C, T', F')."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nn.Hardtanh(0, 20)(norm(conv(x)))
        return x if self.conv_norm is None else self.conv_norm(x).relu()

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, T) -> (B, T', 28)."""
        x = self.convolve(features.transpose(1, 2).unsqueeze(1))
        x, _ = self.gru(x.transpose(1, 2).flatten(2))
        return self.output(self.output_norm(x)).log_softmax(-1)

    def take_weights(self, model: DeepSpeech2) -> None:
        """Those of our model; its norms are drawn at random first, so that Hardtanh clips at both of its ends."""
        for norm in (*model.norms, *([model.conv_norm] if model.conv_norm else [])):
            nn.init.uniform_(norm.weight, 10, 30)
            nn.init.uniform_(norm.bias, -10, 20)
        for ours, theirs in zip(model.convs, self.convs, strict=True):
            theirs.weight.data.copy_(ours.weight.transpose(2, 3))
            theirs.bias.data.copy_(ours.bias)
        self.norms.load_state_dict(model.norms.state_dict())
        for name in ("conv_norm", "output_norm", "output"):
            if getattr(self, name) is not None:
                getattr(self, name).load_state_dict(getattr(model, name).state_dict())
        for layer, gru in enumerate(model.grus):
            for suffix, direction in (("", gru.forward_gru), ("_reverse", gru.backward_gru)):
                for key, weight in direction.named_parameters():
                    getattr(self.gru, key.replace("l0", f"l{layer}") + suffix).data.copy_(weight)


@pytest.mark.parametrize("training", [True, False])
@each_model
def test_without_padding_the_model_gives_what_the_published_layers_give(name: str, training: bool) -> None:
    """The layout of the pictures and the way of the backward GRU are ours; the numbers are not."""
    model = build_recognizer(composed(name, *NARROW), seed=1).model.double()
    reference = Reference(PUBLISHED[name], channels=3, gru_size=4).double()
    reference.take_weights(model)
    features = torch.randn(2, 128, 21, dtype=torch.double)
    ours = model.train(training)(features, torch.tensor([21, 21])).log_probs
    torch.testing.assert_close(ours, reference.train(training)(features), check_dtype=False, rtol=1e-4, atol=1e-5)


@each_model
def test_time_shrinks_by_the_published_convolutions(name: str) -> None:
    """ceil(T / 2) behind 2 convolutions, ceil(ceil(T / 2) / 2) behind 3."""
    published, model = PUBLISHED[name], small(name).model
    reference = Reference(published, channels=1, gru_size=1)
    frames = range(1, 201)
    halves = [(n + 1) // 2 for n in frames]
    expected = halves if len(published.convs) == 2 else [(n + 1) // 2 for n in halves]
    assert [model.output_lengths(n) for n in frames] == expected
    assert model.output_lengths(torch.tensor(frames)).tolist() == expected
    with torch.inference_mode():
        for n in (1, 2, 3, 4, 5, 8, 61, 200):
            assert model(torch.randn(1, 128, n), torch.tensor([n])).log_probs.shape == (1, expected[n - 1], 28)
            assert reference.convolve(torch.randn(1, 1, n, 128)).shape[2] == expected[n - 1]


def stepped(schedule: Schedule, steps: int) -> Tensor:
    """(steps, 2): the learning rate and the momentum (Adam: beta1) that each step is made with."""
    optimizer, scheduler = schedule
    group = optimizer.param_groups[0]
    used = []
    for _ in range(steps):
        used.append((group["lr"], group["betas"][0] if "betas" in group else group["momentum"]))
        optimizer.step()
        scheduler.step()
    return torch.tensor(used, dtype=torch.double)


@cache
def our_rates(name: str) -> Tensor:
    """`stepped` as the config has it, from the first step to the last."""
    config = composed(name)
    steps = config.epochs * config.steps_per_epoch
    return stepped(build_optimizer(config, nn.Linear(1, 1), steps), steps)


@each_run
def test_every_step_has_the_published_learning_rate_and_momentum(name: str) -> None:
    published = PUBLISHED[name]
    config = composed(name)
    assert (config.epochs, config.steps_per_epoch) == (published.epochs, 100)
    weights = list(nn.Linear(1, 1).parameters())
    theirs, ours = published.schedule(weights), make(config.optimizer, "optimizer", params=weights)
    assert type(ours) is type(theirs[0])
    # The schedule overrules lr, whose values follow; fused is how the same rule is computed.
    published_settings = theirs[0].defaults | {key: ours.defaults[key] for key in ("lr", "fused")}
    assert ours.defaults == published_settings
    actual, expected = our_rates(name), stepped(theirs, published.epochs * 100)
    for step in (0, 1, 50, 100, 500, 1000, 2500, len(expected) - 1):
        assert actual[step].tolist() == pytest.approx(expected[step].tolist(), rel=1e-9), f"step {step}"
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("name", "step", "learning_rate", "momentum"),
    [
        ("exp1", 0, 4e-4, 0.95),  # max_lr / 25
        ("exp1", 999, 0.01, 0.85),  # a fifth of 5,000 steps
        ("exp1", 4999, 4e-8, 0.95),  # the first / 10,000
        ("exp2_clean", 0, 2e-5, 0.95),
        ("exp2_clean", 999, 5e-4, 0.85),
        ("exp2_clean", 4999, 2e-9, 0.95),
        ("exp3", 0, 1e-4, 0.9),
        ("exp3", 25, 3.5e-4, 0.85),
        ("exp3", 50, 6e-4, 0.8),
        ("exp3", 100, 1e-4, 0.9),
        ("exp3", 150, 3.5e-4, 0.85),  # the second triangle is half as high, in momentum too
        ("exp3", 9999, 1e-4, 0.9),
    ],
)
def test_schedules_worked_out_by_hand(name: str, step: int, learning_rate: float, momentum: float) -> None:
    assert our_rates(name)[step].tolist() == pytest.approx([learning_rate, momentum], rel=1e-6)


def test_exp3_with_101_steps_an_epoch_and_101_triangles_is_exp3_as_logged() -> None:
    """step_size_up was 50 steps, and 100 epochs of 101 steps hold 101 such triangles."""
    config = composed("exp3", "steps_per_epoch=101", "scheduler.cycles=101")
    actual = stepped(build_optimizer(config, nn.Linear(1, 1), 10_100), 10_100)
    torch.testing.assert_close(
        actual, stepped(sgd_cyclic(list(nn.Linear(1, 1).parameters())), 10_100), rtol=1e-9, atol=0
    )


def test_exp3_has_all_but_stopped_rising_after_10_of_its_100_epochs() -> None:
    """Each triangle is half as high as the one before: from there on less than 0.5 % of the first one's height."""
    heights = (our_rates("exp3")[:, 0] - 1e-4) / 5e-4
    assert heights[:100].max() == pytest.approx(1)
    assert heights[1000:].max() < 0.005


@each_run
def test_batches_parts_clipping_and_the_choice_of_the_best(name: str) -> None:
    published, config = PUBLISHED[name], composed(name)
    assert list(config.data.train) == published.train
    assert list(config.data.dev) == ["dev-clean"]
    assert list(config.data.test) == ["test-clean", "test-other"]
    assert (config.batch.utterances, config.batch.seconds) == (published.batch, None)
    assert config.max_grad_norm == 10
    assert config.monitor == "loss"


@pytest.mark.parametrize("more", [[], ["seed=2", "scale=mini", "data.root=/data/other"]])
def test_exp2_other_starts_from_the_best_of_exp2_clean(more: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the run that the same command makes of exp2_clean."""
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        first, second = (
            compose("train", [f"experiment={name}", *more], return_hydra_config=True)
            for name in ("exp2_clean", "exp2_other")
        )
    monkeypatch.setattr(HydraConfig.instance(), "cfg", first)
    directory = first.output_dir
    monkeypatch.setattr(HydraConfig.instance(), "cfg", second)
    assert second.init_from == f"{directory}/best.pt"


def silent(id: str, seconds: float, text: str) -> Utterance:
    """Without audio."""
    return Utterance(id, text, "", round(seconds * 16_000), 16_000)


@each_run
def test_training_utterances_of_20_seconds_or_200_characters_are_dropped(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dev and test are scored unfiltered."""

    def load(root: str, manifests: str, part: str) -> Utterances:
        seconds = {"shorter": 19.99, "20 s": 20.0, "longer": 30.0}
        words = {"199 characters": 199, "200 characters": 200, "201 characters": 201}
        return Utterances.of(
            [silent(f"{part} {id}", value, "so it is") for id, value in seconds.items()]
            + [silent(f"{part} {id}", 19, "AB" * (n // 2) + "'" * 9 + "A" * (n % 2)) for id, n in words.items()]
        )

    monkeypatch.setattr(data_parts, "read_manifest", load)
    data = build_data(composed(name).data, small(name))
    for part, selection in data.train.items():
        assert [one.id for one in selection.kept] == [f"{part} shorter", f"{part} 199 characters"]
        assert {reason: [id.removeprefix(f"{part} ") for id in d.ids] for reason, d in selection.dropped.items()} == {
            "too long (>= 20 s)": ["20 s", "longer"],
            "too many characters (>= 200)": ["200 characters", "201 characters"],
        }
    assert [len(selection.kept) for selection in (*data.dev.values(), *data.test.values())] == [6, 6, 6]


@each_run
def test_28_classes(name: str) -> None:
    """Blank 0, space, a to z; all else is dropped from the texts."""
    alphabet = small(name).alphabet
    assert (alphabet.size, BLANK) == (28, 0)
    assert alphabet.decode(range(1, 28)) == " abcdefghijklmnopqrstuvwxyz"
    assert alphabet.normalize("DON'T STOP") == "dont stop"


@each_run
def test_features_are_the_log_of_torchaudios_default_mels(name: str) -> None:
    features = small(name).features
    samples = torch.randn(16_123) * 0.1
    with pytest.warns(UserWarning, match="mel filterbank has all zero values"):  # some of the 128 filters are empty
        mel = MelSpectrogram(16_000)(samples)
    torch.testing.assert_close(features(samples), torch.log(mel + 1e-5))
    assert mel.shape == (128, features.frames(len(samples)))
    assert (features.spectrum.n_fft, features.spectrum.hop_length) == (400, 200)
    assert features.sample_rate / features.hop_samples == 80
    assert features(torch.zeros(400)).unique().tolist() == pytest.approx([-11.513], abs=1e-3)


def check_transforms(augment: Augment, wave: Sequence, masks: Sequence) -> None:
    """Class and parameters of each transform, in order."""
    assert [type(transform) for transform in augment.wave] == [published for published, _ in wave]
    for transform, (_, parameters) in zip(augment.wave, wave, strict=True):
        assert {key: getattr(transform, key) for key in parameters} == parameters
        assert getattr(transform, "fade_duration", 0) == 0
    assert all(type(sometimes) is Sometimes for sometimes in augment.spectrogram)
    assert [(type(s.transform), s.transform.mask_param, s.p) for s in augment.spectrogram] == list(masks)
    assert all(s.transform.p == 1 for s in augment.spectrogram)  # TimeMasking's own: the longest mask, as a share


@each_run
def test_augmentation_is_the_published(name: str) -> None:
    published = PUBLISHED[name]
    check_transforms(make(composed(name).augment, "augment"), published.wave, published.masks)


def test_the_fixed_augmentation_differs_in_rolling_over_alone() -> None:
    published = PUBLISHED["exp2_clean"]
    still = (Shift, SHIFT[1] | {"rollover": False})
    augment = make(composed("exp2_clean", "augment=wave_spec_fixed").augment, "augment")
    check_transforms(augment, (still, *published.wave[1:]), published.masks)


def test_masks_put_0_into_the_mels_before_the_log() -> None:
    """So that what is masked looks like silence: log(1e-5)."""
    features = small("exp2_clean").features
    frequency, time = (s.transform for s in make(composed("exp2_clean").augment, "augment").spectrogram)
    torch.manual_seed(0)
    samples = torch.randn(24_000)
    plain = features(samples)
    for mask, longest, dimension in ((frequency, 20, 0), (time, 100, 1)):
        widths = []
        for _ in range(20):
            masked = features(samples, [mask])
            changed = masked != plain
            torch.testing.assert_close(masked[changed], torch.full((int(changed.sum()),), 1e-5).log())
            widths.append(int(changed.any(1 - dimension).sum()))
        assert longest / 2 < max(widths) < longest


def test_masks_come_with_their_probability() -> None:
    torch.manual_seed(0)
    for sometimes in make(composed("exp2_clean").augment, "augment").spectrogram:
        applied = sum(not sometimes(torch.ones(128, 200)).all() for _ in range(2000))
        assert applied / 2000 == pytest.approx(0.3, abs=0.05)  # a mask of length 0 does nothing: 1 in 20, 1 in 100
