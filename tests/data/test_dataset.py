"""From audio files to batches: the same for any number of workers, new in every pass, complete."""

from collections import Counter
from itertools import chain, islice

import audiomentations
import numpy as np
import pytest
import scipy.stats
import soundfile
import torch
from conftest import ROOT
from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.cut import MonoCut
from omegaconf import OmegaConf
from torchaudio.transforms import FrequencyMasking, TimeMasking

from asr.data.audio import load_audio
from asr.data.augment import AddGaussianNoise, Augment, Sometimes, Speed, at_speed, seeded
from asr.data.batches import Passes, Position
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


def make_cut(folder, id, seconds, text="hello", rate=16000):
    samples = np.random.default_rng(len(id)).normal(0, 0.1, int(seconds * rate)).astype(np.float32)
    path = folder / f"{id}.flac"
    soundfile.write(path, samples, rate)
    recording = Recording.from_file(path)
    supervision = SupervisionSegment(id, id, 0, recording.duration, text=text)
    return MonoCut(id, 0, recording.duration, 0, [supervision], recording=recording)


@pytest.fixture(scope="module")
def cuts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    return CutSet.from_cuts(make_cut(folder, f"u{i:02}", 0.3 + 0.1 * (i % 11)) for i in range(23))


def same(a, b):
    return a.ids == b.ids and torch.equal(a.features, b.features) and torch.equal(a.targets, b.targets)


@pytest.mark.parametrize("batching", [{"utterances": 4, "seconds": None}, {"utterances": None, "seconds": 4.0}])
def test_batches_are_the_same_for_any_number_of_workers(cuts, batching):
    streams = []
    for workers in (0, 1, 3):
        passes = Passes(cuts, NOISY, 5, **batching, buckets=3)
        dataset = UtteranceDataset(LETTERS, log_mel(), NOISY, seed=5)
        streams.append(list(islice(training_batches(dataset, passes, Position(0, 0), workers, False), 12)))
    for other in streams[1:]:
        assert all(same(a, b) for a, b in zip(streams[0], other, strict=True))


@pytest.mark.parametrize("batching", [{"utterances": 4, "seconds": None}, {"utterances": None, "seconds": 4.0}])
def test_the_stream_goes_on_from_any_position(cuts, batching):
    """What a resumed run reads is what it would have read."""
    dataset = UtteranceDataset(LETTERS, log_mel(), NOISY, seed=5)

    def stream(start):
        return training_batches(dataset, Passes(cuts, NOISY, 5, **batching, buckets=3), start, 0, False)

    whole = list(islice(stream(Position(0, 0)), 14))
    for done in (1, 5, 6, 13):
        before = whole[done - 1].position
        resumed = next(stream(Position(before.pass_number, before.batch_index + 1)))
        assert same(resumed, whole[done])


@pytest.mark.parametrize("batching", [{"utterances": 4, "seconds": None}, {"utterances": None, "seconds": 4.0}])
def test_a_pass_holds_every_utterance_once_in_another_order(cuts, batching):
    passes = Passes(cuts, NOISY, 5, **batching, buckets=3)
    dataset = UtteranceDataset(LETTERS, log_mel(), None, seed=5)
    orders = {0: [], 1: []}
    for batch in training_batches(dataset, passes, Position(0, 0), 0, False):
        if batch.position.pass_number == 2:
            break
        orders[batch.position.pass_number] += batch.ids
    assert Counter(orders[0]) == Counter(orders[1]) == Counter(cut.id for cut in cuts)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("batching", [(4, None), (23, None), (None, 4.0)])
def test_the_steps_of_a_pass_are_counted(cuts, batching):
    passes = Passes(cuts, SPED, 5, *batching, buckets=3)
    assert passes.steps() == len(list(passes.batches(0)))


def test_batches_of_like_length_hold_no_more_than_their_seconds(cuts):
    for batch in Passes(cuts, NOISY, 5, None, 4.0, buckets=3).batches(0):
        assert max(heard.duration for heard in batch) * len(batch) <= 4.0


@pytest.mark.parametrize("augment", [Augment(), SPED])
def test_batches_of_like_length_hold_at_most_5_percent_padding(augment):
    """Three hours with LibriSpeech's lengths (most of 12 to 16 s, a tail down to 2 s), and the buckets of conf."""
    seconds = np.random.default_rng(0).triangular(2, 15.5, 16.5, 1000).tolist()
    recordings = [Recording(f"u{i}", [], 16000, int(16000 * s), int(16000 * s) / 16000) for i, s in enumerate(seconds)]
    like_librispeech = CutSet.from_cuts(recording.to_cut() for recording in recordings)
    buckets = OmegaConf.load(ROOT / "conf" / "train.yaml").batch.buckets
    passes = Passes(like_librispeech, augment, 1, None, 320, buckets)
    batches = [[heard.duration for heard in batch] for batch in passes.batches(3)]
    with_padding = sum(len(durations) * max(durations) for durations in batches)
    assert sum(map(sum, batches)) / with_padding >= 0.95


def test_batches_are_made_of_utterances_at_the_speed_at_which_they_are_heard(cuts):
    """Else those of like length would not be: what the batch was made by is how long its features are."""
    passes, dataset = Passes(cuts, SPED, 5, None, 4.0, buckets=3), UtteranceDataset(LETTERS, log_mel(), SPED, seed=5)
    drawn = {}
    for number in (0, 1):
        for heard in chain(*passes.batches(number)):
            assert len(dataset.utterance(heard.cut, number).features) == pytest.approx(80 * heard.duration + 1, abs=1)
            drawn[number, heard.id] = heard.cut.duration / heard.duration
    assert len(set(drawn.values())) > len(cuts)  # another one in each pass, but for those that stay at 1
    assert 0.85 <= min(drawn.values()) < 0.9 < 1 in drawn.values()
    assert 1.1 < max(drawn.values()) <= 1.15


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


def test_a_pass_is_shuffled_beyond_what_lhotse_holds_at_once():
    """20,000 utterances of two equal halves: the first batches have as many of both."""
    recording = Recording("one", [], 16000, 16000, 1.0)
    cuts = CutSet.from_cuts(MonoCut(f"{i:05}", 0, 1 + i % 7 / 100, 0, [], recording=recording) for i in range(20_000))
    batches = islice(Passes(cuts, Augment(), 1, None, 100.0, buckets=3).batches(0), 20)
    second_half = [heard.id >= "10000" for batch in batches for heard in batch]
    assert 0.4 < np.mean(second_half) < 0.6


def test_augmentation_depends_on_seed_pass_and_utterance_alone(cuts):
    always = Augment(wave=[AddGaussianNoise(0.001, 0.01, p=1.0)])
    cut = cuts[0]

    def features(seed, pass_number, augment=always):
        return UtteranceDataset(LETTERS, log_mel(), augment, seed).utterance(cut, pass_number).features

    torch.testing.assert_close(features(1, 0), features(1, 0), atol=0, rtol=0)
    assert not torch.equal(features(1, 0), features(1, 1))
    assert not torch.equal(features(1, 0), features(2, 0))
    assert not torch.equal(features(1, 0), features(1, 0, augment=None))
    plain = Augment()
    assert torch.equal(features(1, 0, augment=plain), features(2, 3, augment=None))


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


def test_evaluation_sees_every_utterance_once_without_augmentation(cuts):
    dataset = UtteranceDataset(LETTERS, log_mel(), None, seed=0)
    batches = list(evaluation_batches(dataset, cuts, seconds=3.0, workers=0, pin_memory=False))
    assert Counter(id for batch in batches for id in batch.ids) == Counter(cut.id for cut in cuts)
    assert all(batch.lengths.max() * len(batch.ids) <= 3.0 * 80 + len(batch.ids) for batch in batches)
    assert max(batch.padding_share for batch in batches) < 0.5


def test_a_batch_is_padded_behind_its_lengths(cuts):
    dataset = UtteranceDataset(LETTERS, log_mel(), None, seed=0)
    batch = dataset[(Position(0, 0), [cuts[0], cuts[10]])]
    assert batch.features.shape == (2, 20, int(batch.lengths.max()))
    assert batch.lengths.tolist() == [round(cut.duration * 80) + 1 for cut in (cuts[0], cuts[10])]
    assert (batch.features[0, :, batch.lengths[0] :] == 0).all()
    alone = dataset[(Position(0, 0), [cuts[0]])]
    assert torch.equal(alone.features[0], batch.features[0, :, : batch.lengths[0]])
    assert batch.references == ["hello", "hello"]
    assert batch.targets[0].tolist() == LETTERS.encode("hello")


def test_another_rate_is_resampled(tmp_path):
    cut = make_cut(tmp_path, "low", 0.5, rate=8000)
    assert load_audio(cut, 16000).shape == (8000,)


def test_a_file_that_cannot_be_read_is_named_even_from_a_worker(tmp_path):
    cut = make_cut(tmp_path, "broken", 0.5)
    (tmp_path / "broken.flac").write_bytes(b"no audio")
    dataset = UtteranceDataset(LETTERS, log_mel(), None, seed=0)
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"^broken: .*broken.flac cannot be read: .*; restore the file"):
            list(evaluation_batches(dataset, CutSet.from_cuts([cut]), 10.0, workers, False))


@pytest.mark.parametrize(("utterances", "seconds"), [(None, None), (4, 10.0)])
def test_batches_are_of_one_kind(cuts, utterances, seconds):
    with pytest.raises(InputError, match="exactly one"):
        Passes(cuts, Augment(), 0, utterances, seconds, buckets=2)


def test_batches_of_like_length_need_more_than_one_utterance(cuts):
    with pytest.raises(InputError, match="one training utterance"):
        Passes(cuts.subset(first=1), Augment(), 0, None, 10.0, buckets=2)
    assert len(list(chain(*Passes(cuts.subset(first=5), Augment(), 0, None, 10.0, buckets=2).batches(0)))) == 5


def test_the_longest_utterance_must_fit_into_a_batch(cuts):
    with pytest.raises(InputError, match="longest"):
        Passes(cuts, Augment(), 0, None, 1.0, buckets=2)


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
