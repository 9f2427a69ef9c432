"""Export a recogniser to ONNX: one file that turns a waveform into log-probabilities, features included."""

import copy
import io
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.transforms import Spectrogram

from asr.data.text import BLANK
from asr.errors import InputError, first_line
from asr.files import written_whole
from asr.models.gru import BidirectionalGRU
from asr.models.recognizer import Recognizer
from asr.transcription.transcriber import Transcriber

OPSET = 17
LENGTHS = 20  # of the waveforms on which ONNX Runtime is compared with torch
LONGEST_SECONDS = 10.0
TOLERANCE = 1e-4


class Spectrum(NamedTuple):
    """A complex spectrum (n_fft // 2 + 1, T) in two real tensors, since ONNX has no complex numbers."""

    real: Tensor
    imag: Tensor


class FourierTransform(nn.Module):
    """Compute what torchaudio's Spectrogram(power=None) does, as a product of frames and windowed cosines and sines.

    The product is in float64: beside a loud tone, the rounding of a float32 sum shows in the quiet frequencies.
    """

    waves: Tensor

    def __init__(self, spectrum: Spectrogram) -> None:
        super().__init__()
        self.n_fft, self.hop = spectrum.n_fft, spectrum.hop_length
        time, frequency = torch.arange(self.n_fft).double(), torch.arange(self.n_fft // 2 + 1).double()
        angles = 2 * torch.pi / self.n_fft * torch.outer(time, frequency)
        waves = torch.cat((angles.cos(), -angles.sin()), 1)
        self.register_buffer("waves", waves * spectrum.window.double()[:, None])

    def forward(self, waveform: Tensor) -> Spectrum:
        """Return the spectrum of a waveform (N,)."""
        half = self.n_fft // 2
        padded = F.pad(waveform[None, None], (half, half), "reflect").flatten()
        frames = (torch._shape_as_tensor(padded)[0] - self.n_fft) // self.hop + 1
        positions = torch.arange(frames)[:, None] * self.hop + torch.arange(self.n_fft)
        real, imag = (padded[positions].double() @ self.waves).float().T.chunk(2)
        return Spectrum(real, imag)


class UnpaddedGRU(nn.Module):
    """Apply a BidirectionalGRU to a batch without padding by nn.GRU, which is one operator of ONNX."""

    def __init__(self, layer: BidirectionalGRU) -> None:
        super().__init__()
        forwards, backwards = layer.forward_gru, layer.backward_gru
        self.gru = nn.GRU(forwards.input_size, forwards.hidden_size, bidirectional=True)
        reverse = {f"{name}_reverse": weight for name, weight in backwards.state_dict().items()}
        self.gru.load_state_dict(forwards.state_dict() | reverse)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Return (T, B, 2 H); x: (T, B, I); index is of no use without padding."""
        return self.gru(x)[0]


class WaveformModel(nn.Module):
    """Map a waveform (1, N) to log-probabilities (1, T, V) by operators that ONNX has."""

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.features = copy.deepcopy(recognizer.features)
        self.features.spectrum = FourierTransform(recognizer.features.spectrum)
        self.model = copy.deepcopy(recognizer.model).eval()
        self.model.grus = nn.ModuleList(UnpaddedGRU(layer) for layer in recognizer.model.grus)  # type: ignore[arg-type]

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-probabilities; a waveform that is too short is followed by silence, as in LogMel."""
        samples = torch._shape_as_tensor(waveform)[1]  # a tensor: waveform.shape[1] would be a constant of the file
        missing = torch.clamp(self.features.shortest - samples, min=0)
        features = self.features(F.pad(waveform[0], (0, missing)))  # type: ignore[arg-type]
        return self.model(features[None], torch._shape_as_tensor(features)[1:]).log_probs


def export_onnx(transcriber: Transcriber, path: Path) -> float:
    """Write a recogniser as an ONNX file, which gets its name when it agrees with torch.

    input:   waveform (1, N) float32 in -1..1 at the sample rate in the metadata, N >= 1
    output:  log_probs (1, T, V) float32
    returns: the largest difference from torch in log-probability
    raises:  InputError if onnx is not installed, or ONNX Runtime and torch differ by more than TOLERANCE
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"format=onnx: {error.name} is not installed; it is part of the extra onnx: pip install -e '.[onnx]'"
        ) from error
    recognizer = transcriber.recognizer
    model = onnx.load_from_string(_traced(recognizer))
    properties = {
        "alphabet": recognizer.alphabet.symbols,
        "blank": str(BLANK),
        "sample_rate": str(recognizer.features.sample_rate),
        "frame_seconds": str(recognizer.frame_seconds),
    }
    onnx.helper.set_model_props(model, properties)
    try:
        difference = largest_difference(onnxruntime.InferenceSession(model.SerializeToString()), transcriber)
    except Exception as error:  # the errors of ONNX Runtime have no class in common
        raise InputError(f"{path} is not written: ONNX Runtime cannot run it: {first_line(error)}") from error
    if not difference <= TOLERANCE:
        raise InputError(
            f"{path} is not written: ONNX Runtime {onnxruntime.__version__} and torch {torch.__version__} differ by "
            f"{difference:.1e} in log-probability, more than {TOLERANCE:.0e}. Other versions of the two may agree: "
            "pip install -U onnxruntime onnx"
        )
    with written_whole(path) as file:
        file.write(model.SerializeToString())
    return difference


def _traced(recognizer: Recognizer) -> bytes:
    """Return the ONNX file of a recogniser."""
    output = io.BytesIO()
    # dynamo=False: torch's newer exporter makes the number of frames of a bidirectional GRU a constant of the file.
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # on what the trace takes for a constant, which `largest_difference` checks
        torch.onnx.export(
            WaveformModel(recognizer),
            (torch.zeros(1, recognizer.features.sample_rate),),
            output,  # type: ignore[arg-type]  # which dynamo=False writes to
            input_names=["waveform"],
            output_names=["log_probs"],
            dynamic_axes={"waveform": {1: "samples"}, "log_probs": {1: "frames"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return output.getvalue()


def largest_difference(session: Any, transcriber: Transcriber) -> float:
    """Return the largest difference between ONNX Runtime's and torch's log-probabilities, at LENGTHS lengths.

    The waveforms are noise whose loudness changes, the shortest of one sample. A difference in shape is infinite.
    """
    rng = np.random.default_rng(0)
    rate = transcriber.recognizer.features.sample_rate
    largest = 0.0
    for samples in np.geomspace(1, LONGEST_SECONDS * rate, LENGTHS).astype(int):
        loudness = 10 ** np.interp(np.arange(samples), np.linspace(0, samples, 9), rng.uniform(-4, -0.5, 9))
        waveform = (rng.uniform(-1, 1, samples) * loudness).astype(np.float32)
        (found,) = session.run(None, {"waveform": waveform[None]})
        expected = transcriber.log_probs([waveform])[0].numpy()
        if found.shape != expected.shape:
            return float("inf")
        largest = max(largest, float(np.abs(found - expected).max()))
    return largest
