"""From audio files to batches: the same for any number of workers, new in every epoch, complete."""

from collections import Counter
from itertools import chain, islice

import audiomentations
import numpy as np
import pytest
import scipy.stats
import soundfile
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torchaudio.transforms import FrequencyMasking, TimeMasking

from asr.corpora.manifest import Utterance, Utterances
from asr.data.audio import load_audio
from asr.data.augment import AddGaussianNoise, Augment, Sometimes, Speed, at_speed, id_keys, seeded
from asr.data.batches import WHOLE, EpochBatches, Position, micro_batches
from asr.data.dataset import UtteranceDataset
from asr.data.features import LogMel
from asr.data.loader import evaluation_batches, training_batches
from asr.data.text import Alphabet
from asr.errors import InputError

LETTERS = Alphabet(" abcdefghijklmnopqrstuvwxyz")
SPED = Augment(Speed(p=0.8, slowest=0.85, fastest=1.15))
NOISY = Augment(
    wave=[AddGaussianNoise(0.001, 0.01, p=0.5)],
    spectrogram=[Sometimes(FrequencyMasking(8), 0.5), Sometimes(TimeMasking(20), 0.5)],
)


def log_mel(**changes):
    settings = {
        "sample_rate": 16000,
        "n_fft": 400,
        "hop_samples": 200,
        "n_mels": 20,
        "max_hz": None,
        "floor": 1e-5,
        "normalize": "none",
    }
    return LogMel(**(settings | changes))


def make_utterance(folder, id, seconds, text="hello", rate=16000):
    samples = np.random.default_rng(len(id)).normal(0, 0.1, int(seconds * rate)).astype(np.float32)
    soundfile.write(folder / f"{id}.flac", samples, rate)
    return Utterance(id, text, f"{id}.flac", len(samples), rate, root=str(folder))


def silent(seconds, id="u{:05}"):
    """Utterances without audio, of so many seconds each: batches are made of lengths alone."""
    return Utterances.of([Utterance(id.format(n), "", "", int(16000 * s), 16000) for n, s in enumerate(seconds)])


@pytest.fixture(scope="module")
def utterances(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    made = [make_utterance(folder, f"u{i:02}", 0.3 + 0.1 * (i % 11)) for i in range(23)]
    return Utterances.of(made, str(folder))


def same(a, b):
    return a.ids == b.ids and torch.equal(a.features, b.features) and torch.equal(a.targets, b.targets)


@pytest.mark.parametrize("batching", [{"size": 4, "seconds": None}, {"size": None, "seconds": 4.0}])
def test_batches_are_the_same_for_any_number_of_workers(utterances, batching):
    streams = []
    for workers in (0, 1, 3):
        batches = EpochBatches(utterances, NOISY, 5, **batching, buckets=3)
        dataset = UtteranceDataset(LETTERS, log_mel(), NOISY, seed=5)
        streams.append(list(islice(training_batches(dataset, batches, Position(0, 0), workers, False), 12)))
    for other in streams[1:]:
        assert all(same(a, b) for a, b in zip(streams[0], other, strict=True))


@pytest.mark.parametrize("batching", [{"size": 4, "seconds": None}, {"size": None, "seconds": 4.0}])
def test_the_stream_goes_on_from_any_position(utterances, batching):
    """What a resumed run reads is what it would have read."""
    dataset = UtteranceDataset(LETTERS, log_mel(), NOISY, seed=5)

    def stream(start):
        return training_batches(dataset, EpochBatches(utterances, NOISY, 5, **batching, buckets=3), start, 0, False)

    whole = list(islice(stream(Position(0, 0)), 14))
    for done in (1, 5, 6, 13):
        before = whole[done - 1].position
        resumed = next(stream(Position(before.data_epoch, before.batch_index + 1)))
        assert same(resumed, whole[done])


@pytest.mark.parametrize("batching", [{"size": 4, "seconds": None}, {"size": None, "seconds": 4.0}])
def test_a_pass_holds_every_utterance_once_in_another_order(utterances, batching):
    batches = EpochBatches(utterances, NOISY, 5, **batching, buckets=3)
    dataset = UtteranceDataset(LETTERS, log_mel(), None, seed=5)
    orders = {0: [], 1: []}
    for batch in training_batches(dataset, batches, Position(0, 0), 0, False):
        if batch.position.data_epoch == 2:
            break
        orders[batch.position.data_epoch] += batch.ids
    assert Counter(orders[0]) == Counter(orders[1]) == Counter(one.id for one in utterances)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("batching", [(4, None), (23, None), (None, 4.0)])
def test_the_steps_of_a_pass_are_counted(utterances, batching):
    batches = EpochBatches(utterances, SPED, 5, *batching, buckets=3)
    assert batches.steps() == len(list(batches.batches(0)))


def test_batches_of_like_length_hold_no_more_than_their_seconds(utterances):
    for batch in EpochBatches(utterances, SPED, 5, None, 4.0, buckets=3).batches(0):
        assert max(one.seconds / one.speed for one in batch) * len(batch) <= 4.0


@pytest.mark.parametrize("augment", [Augment(), SPED])
def test_batches_of_like_length_hold_at_most_5_percent_padding(augment):
    """Three hours with LibriSpeech's lengths (most of 12 to 16 s, a tail down to 2 s), and the buckets of conf."""
    like_librispeech = silent(np.random.default_rng(0).triangular(2, 15.5, 16.5, 1000))
    buckets = OmegaConf.load(ROOT / "conf" / "train.yaml").batch.buckets
    batches = EpochBatches(like_librispeech, augment, 1, None, 320, buckets)
    lengths = [[one.seconds / one.speed for one in batch] for batch in batches.batches(3)]
    with_padding = sum(len(batch) * max(batch) for batch in lengths)
    assert sum(map(sum, lengths)) / with_padding >= 0.95


def test_batches_are_made_of_utterances_at_the_speed_at_which_they_are_heard(utterances):
    """Else those of like length would not be: what the batch was made by is how long its features are."""
    batches = EpochBatches(utterances, SPED, 5, None, 4.0, buckets=3)
    dataset = UtteranceDataset(LETTERS, log_mel(), SPED, seed=5)
    for one in chain(*batches.batches(0)):
        assert len(dataset.example(one, 0).features) == pytest.approx(80 * one.seconds / one.speed + 1, abs=1)


def test_speeds_depend_on_seed_epoch_and_id_alone_and_are_distributed_as_they_are_set():
    ids = [f"1089-134686-{n:04}" for n in range(10_000)]
    drawn = {(seed, epoch): SPED.speeds(seed, epoch, id_keys(ids)) for seed in (1, 2) for epoch in (0, 1)}
    assert np.array_equal(SPED.speeds(1, 0, id_keys(ids[::-1])), drawn[1, 0][::-1])
    for one, other in ((drawn[1, 0], drawn[1, 1]), (drawn[1, 0], drawn[2, 0])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.03
    for speeds in drawn.values():
        changed = speeds[speeds != 1]
        assert len(changed) == pytest.approx(8_000, abs=150)
        assert scipy.stats.kstest(changed, scipy.stats.uniform(0.85, 0.3).cdf).pvalue > 0.01
        neighbours = np.corrcoef(speeds[:-1], speeds[1:])[0, 1]
        assert abs(neighbours) < 0.03
    assert (Augment().speeds(1, 0, id_keys(ids)) == 1).all()


def test_another_speed_moves_length_and_pitch():
    samples = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
    faster = at_speed(samples, 1.1)
    assert len(faster) == pytest.approx(16000 / 1.1, abs=1)
    spectrum = np.abs(np.fft.rfft(faster, 16000))
    assert spectrum.argmax() == pytest.approx(1100, abs=2)
    assert at_speed(samples, 1.0) is samples


@pytest.mark.parametrize("wrong", [{"p": 2}, {"slowest": 0}, {"slowest": 1.2}])
def test_a_speed_that_cannot_be_is_refused(wrong):
    with pytest.raises(InputError, match=r"augment\.speed: .* are needed"):
        Speed(**({"p": 0.8, "slowest": 0.85, "fastest": 1.15} | wrong))


def test_the_order_of_an_epoch_has_nothing_of_that_of_the_corpus():
    """20,000 utterances of two equal halves: the first batches have as many of both."""
    utterances = silent(1 + np.arange(20_000) % 7 / 100, id="{:05}")
    for size, seconds in ((100, None), (None, 100.0)):
        batches = islice(EpochBatches(utterances, Augment(), 1, size, seconds, buckets=3).batches(0), 20)
        second_half = [one.id >= "10000" for batch in batches for one in batch]
        assert 0.4 < np.mean(second_half) < 0.6


@pytest.mark.parametrize("batching", [(4, None), (None, 4.0)])
def test_an_epoch_is_resumed_without_making_the_batches_before(utterances, batching):
    batches = EpochBatches(utterances, SPED, 5, *batching, buckets=3)
    assert list(batches.batches(1, start=2)) == list(batches.batches(1))[2:]
    (position, _) = next(micro_batches(batches, Position(1, 2), WHOLE))
    assert position == (1, 2)


def test_augmentation_depends_on_seed_epoch_and_utterance_alone(utterances):
    always = Augment(wave=[AddGaussianNoise(0.001, 0.01, p=1.0)])
    first = next(iter(utterances))

    def features(seed, data_epoch, augment=always):
        return UtteranceDataset(LETTERS, log_mel(), augment, seed).example(first, data_epoch).features

    torch.testing.assert_close(features(1, 0), features(1, 0), atol=0, rtol=0)
    assert not torch.equal(features(1, 0), features(1, 1))
    assert not torch.equal(features(1, 0), features(2, 0))
    assert not torch.equal(features(1, 0), features(1, 0, augment=None))
    plain = Augment()
    assert torch.equal(features(1, 0, augment=plain), features(2, 3, augment=None))


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "augment").glob("*.yaml")))
def test_every_augmentation_that_conf_names_gives_finite_features(name, utterances):
    """Ten epochs of some utterances: transforms are drawn with small probabilities."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        augment = instantiate(compose("train", [f"augment={name}"]).augment, _convert_="all")
    dataset = UtteranceDataset(LETTERS, log_mel(), augment, seed=1)
    for data_epoch in range(10):
        batch = dataset[Position(data_epoch, 0), utterances.rows(np.arange(6))]
        assert len(batch.ids) == 6
        assert batch.features.isfinite().all()


@pytest.mark.parametrize("noise", [AddGaussianNoise, audiomentations.AddGaussianNoise])
def test_noise_is_gaussian_of_the_drawn_amplitude_as_audiomentations_has_it(noise):
    samples = np.linspace(-1, 1, 100_000, dtype=np.float32)
    for amplitude in (0.001, 0.5):
        with seeded("noise"):
            added = noise(amplitude, amplitude, p=1.0)(samples.copy(), sample_rate=16_000) - samples
        assert added.dtype == np.float32
        assert scipy.stats.kstest(added / amplitude, "norm").pvalue > 0.05
    with seeded("amplitude"):
        drawn = [np.std(noise(0.001, 0.01, p=1.0)(samples * 0, sample_rate=16_000)) for _ in range(100)]
    assert scipy.stats.kstest(drawn, scipy.stats.uniform(0.001, 0.009).cdf).pvalue > 0.05


def test_seeding_an_utterance_leaves_the_global_generators_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = torch.rand(1)
    with seeded(1, "x"):
        inside = torch.rand(3)
    assert torch.equal(torch.cat((first, torch.rand(1))), expected)
    with seeded(1, "x"):
        assert torch.equal(torch.rand(3), inside)


def test_evaluation_sees_every_utterance_once_without_augmentation(utterances):
    dataset = UtteranceDataset(LETTERS, log_mel(), None, seed=0)
    batches = list(evaluation_batches(dataset, utterances, seconds=3.0, workers=0, pin_memory=False))
    assert Counter(id for batch in batches for id in batch.ids) == Counter(one.id for one in utterances)
    assert all(batch.lengths.max() * len(batch.ids) <= 3.0 * 80 + len(batch.ids) for batch in batches)
    assert max(batch.padding_share for batch in batches) < 0.5


def test_a_batch_is_padded_behind_its_lengths(utterances):
    dataset = UtteranceDataset(LETTERS, log_mel(), None, seed=0)
    short, long = utterances.rows(np.array([0, 10]))
    batch = dataset[(Position(0, 0), [short, long])]
    assert batch.features.shape == (2, 20, int(batch.lengths.max()))
    assert batch.lengths.tolist() == [round(one.seconds * 80) + 1 for one in (short, long)]
    assert (batch.features[0, :, batch.lengths[0] :] == 0).all()
    alone = dataset[(Position(0, 0), [short])]
    assert torch.equal(alone.features[0], batch.features[0, :, : batch.lengths[0]])
    assert batch.references == ["hello", "hello"]
    assert batch.targets[0].tolist() == LETTERS.encode("hello")


def test_another_rate_is_resampled(tmp_path):
    assert load_audio(make_utterance(tmp_path, "low", 0.5, rate=8000), 16000).shape == (8000,)


def test_a_file_that_cannot_be_read_is_named_even_from_a_worker(tmp_path):
    broken = Utterances.of([make_utterance(tmp_path, "broken", 0.5)], str(tmp_path))
    (tmp_path / "broken.flac").write_bytes(b"no audio")
    dataset = UtteranceDataset(LETTERS, log_mel(), None, seed=0)
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"^broken: .*broken.flac: unreadable.*; restore the file"):
            list(evaluation_batches(dataset, broken, 10.0, workers, False))


@pytest.mark.parametrize(("size", "seconds"), [(None, None), (4, 10.0)])
def test_batches_are_of_one_kind(utterances, size, seconds):
    with pytest.raises(InputError, match="exactly one"):
        EpochBatches(utterances, Augment(), 0, size, seconds, buckets=2)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_few_utterances_make_batches_of_like_length_too(number):
    batches = list(EpochBatches(silent([1.0] * number), Augment(), 0, None, 10.0, buckets=30).batches(0))
    assert [len(batch) for batch in batches] == [number]


def test_the_longest_utterance_must_fit_into_a_batch(utterances):
    with pytest.raises(InputError, match="longest"):
        EpochBatches(utterances, Augment(), 0, None, 1.0, buckets=2)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")  # of torchaudio's own spectrogram
def test_features_are_torchaudios_with_masks_before_the_log():
    from torchaudio.transforms import MelSpectrogram

    samples = torch.randn(4000) * 0.1
    features = log_mel(n_mels=128)
    mel = MelSpectrogram(16000)(samples)  # its defaults are the writeup's
    torch.testing.assert_close(features(samples), torch.log(mel + 1e-5))
    masked = features(samples, [lambda m: m * 0])
    torch.testing.assert_close(masked, torch.full_like(mel, 1e-5).log())
    assert features.frames(4000) == mel.shape[1]


def test_normalised_features_have_mean_0_and_deviation_1():
    features = log_mel(normalize="utterance")(torch.randn(8000))
    torch.testing.assert_close(features.mean(1), torch.zeros(20), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(1), torch.ones(20), atol=0.1, rtol=0)


@pytest.mark.parametrize("samples", [1, 150, 200, 201])
def test_the_shortest_utterances_have_frames(samples):
    features = log_mel()
    assert features(torch.randn(samples)).shape == (20, features.frames(samples))
