"""DeepSpeech2 and its layers: outputs do not depend on padding or on the other utterances of a batch."""

import pytest
import torch
from torch import nn

from asr.errors import InputError
from asr.models.batch_norm import MaskedBatchNorm2d
from asr.models.deep_speech2 import DeepSpeech2, count_parameters
from asr.models.gru import BidirectionalGRU, reversal

CONV_41 = {"kernel": [41, 11], "stride": [2, 2]}
CONV_21 = {"kernel": [21, 11], "stride": [2, 1]}


def small_model(**changes):
    torch.manual_seed(0)
    settings = {
        "convs": [CONV_41, CONV_41, CONV_21],
        "conv_channels": 4,
        "conv_norm": True,
        "gru_layers": 2,
        "gru_size": 8,
        "dropout": 0.0,
        "output_norm": True,
        "n_mels": 32,
        "n_classes": 5,
    }
    return DeepSpeech2(**(settings | changes))


def test_output_is_the_same_alone_and_in_any_batch():
    """Lengths start at one frame, and padding is nan."""
    model = small_model().eval()
    lengths = torch.tensor([1, 2, 3, 4, 5, 17, 60, 61, 100])
    features = torch.randn(len(lengths), 32, 110)
    for row, length in zip(features, lengths, strict=True):
        row[:, length:] = torch.nan
    log_probs, frames = model(features, lengths)
    for i, length in enumerate(lengths):
        alone, frames_alone = model(features[i : i + 1, :, :length], lengths[i : i + 1])
        assert frames[i] == frames_alone[0] == alone.shape[1]
        torch.testing.assert_close(log_probs[i, : frames[i]], alone[0], atol=1e-5, rtol=0)


def test_training_statistics_leave_padding_out():
    """In training mode too, outputs, gradients and running statistics do not depend on padding."""
    lengths = torch.tensor([30, 41, 7])
    features = torch.randn(3, 32, 41)
    outputs, gradients, running = [], [], []
    for padding in (0, 50):
        model = small_model().train()
        padded = torch.cat((features, torch.randn(3, 32, padding)), 2)
        log_probs, frames = model(padded, lengths)
        valid = torch.cat([row[:n] for row, n in zip(log_probs, frames, strict=True)])
        valid[:, 1].sum().backward()
        outputs.append(valid)
        gradients.append(model.convs[0].weight.grad)
        running.append(model.norms[1].running_var)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(running[0], running[1])


def test_masked_batch_norm_is_batch_norm_where_nothing_is_padded():
    ours, theirs = MaskedBatchNorm2d(4), nn.BatchNorm2d(4)
    x = torch.randn(3, 4, 8, 20) * 3 + 1
    torch.testing.assert_close(ours(x, torch.ones(3, 1, 1, 20)), theirs(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)


def test_bidirectional_layer_equals_torchs_packed_one():
    """Outputs and gradients equal those of torch's bidirectional GRU over packed sequences."""
    ours, theirs = BidirectionalGRU(6, 5), nn.GRU(6, 5, bidirectional=True)
    for name, weight in ours.forward_gru.named_parameters():
        getattr(theirs, name).data.copy_(weight)
    for name, weight in ours.backward_gru.named_parameters():
        getattr(theirs, f"{name}_reverse").data.copy_(weight)
    lengths = torch.tensor([9, 4, 1])
    x = torch.randn(9, 3, 6, requires_grad=True)
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths)
    expected, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0])
    valid = (torch.arange(9)[:, None] < lengths)[..., None]
    actual = ours(x, reversal(lengths, 9)) * valid
    torch.testing.assert_close(actual, expected)
    gradients = torch.autograd.grad(actual.square().sum(), [x, *ours.parameters()])
    weights = dict(theirs.named_parameters())
    suffixes = {"forward_gru": "", "backward_gru": "_reverse"}
    names = [name.split(".") for name, _ in ours.named_parameters()]
    same = [weights[key + suffixes[direction]] for direction, key in names]
    for ours_is, theirs_is in zip(gradients, torch.autograd.grad(expected.square().sum(), [x, *same]), strict=True):
        torch.testing.assert_close(ours_is, theirs_is)


@pytest.mark.parametrize("packs", [True, False])
def test_a_layer_under_autocast_multiplies_in_bf16(monkeypatch, packs):
    """The results are float32 with the error of rounded inputs, with and without oneDNN's bf16 products."""
    monkeypatch.setattr("asr.models.gru._packs", lambda dtype: packs)
    torch.manual_seed(1)
    layer, x = BidirectionalGRU(40, 32), torch.randn(200, 3, 40, requires_grad=True)
    index = reversal(torch.tensor([200, 150, 7]), 200)

    def outputs_and_gradients(bf16):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = layer(x, index)
        return output, *torch.autograd.grad(output.square().mean(), [x, *layer.parameters()])

    for rounded, exact in zip(outputs_and_gradients(True), outputs_and_gradients(False), strict=True):
        assert rounded.dtype == torch.float32
        error = (rounded - exact).norm() / exact.norm()
        assert 1e-3 < error < 5e-3


@pytest.mark.parametrize("convs", [[CONV_41, CONV_21], [CONV_41, CONV_41, CONV_21]])
def test_output_lengths_are_those_of_the_convolutions(convs):
    model = small_model(convs=convs).eval()
    lengths = torch.arange(1, 201)
    with torch.inference_mode():
        shapes = [model(torch.randn(1, 32, n), torch.tensor([n])).log_probs.shape[1] for n in lengths[::13].tolist()]
    assert model.output_lengths(lengths)[::13].tolist() == shapes
    halvings = len(convs) - 1
    expected = lengths
    for _ in range(halvings):
        expected = (expected + 1) // 2
    assert model.output_lengths(lengths).tolist() == expected.tolist()


def test_probabilities_sum_to_one():
    log_probs, _ = small_model()(torch.randn(2, 32, 40), torch.tensor([40, 11]))
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 10))


def test_wrong_shapes_are_refused():
    model = small_model()
    with pytest.raises(ValueError, match="32"):
        model(torch.randn(1, 40, 20), torch.tensor([20]))
    for length in (0, 21):
        with pytest.raises(ValueError, match=f"{length}"):
            model(torch.randn(1, 32, 20), torch.tensor([length]))
    with pytest.raises(InputError, match="conv"):
        small_model(convs=[])


def test_parameters_are_counted():
    assert count_parameters(nn.Linear(3, 2)) == 8


def test_batch_norm_in_bf16_has_statistics_in_float32():
    """Sums of squares in bf16 would lose the variance if the mean is far from 0."""
    norm = MaskedBatchNorm2d(2)
    input = (20 + torch.randn(4, 2, 8, 50, generator=torch.Generator().manual_seed(1))).bfloat16()
    output = norm(input, torch.ones(4, 1, 1, 50, dtype=torch.bfloat16))
    assert output.mean().item() == pytest.approx(0, abs=0.01)
    assert output.std().item() == pytest.approx(1, abs=0.01)
