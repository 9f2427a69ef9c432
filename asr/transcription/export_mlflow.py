"""Export a checkpoint as an MLflow model, which `mlflow models serve` serves: recordings in, words with times out.

MLflow runs this file, out of the model's own copy of the package, when it loads the model.
"""

import base64
import binascii
import io
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import soundfile
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, save_model
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array, Object, Property

import asr
from asr.errors import InputError
from asr.transcription.transcriber import load

COLUMN, CHECKPOINT = "audio", "checkpoint"
MOST_RECORDINGS = 32  # of a request
MOST_MEGABYTES, MOST_SECONDS, MOST_SAMPLES = 25, 600, 60_000_000  # of a recording: as a file; as sound, all channels
PACKAGES = (  # that transcription imports; our own is on no index, so the model has a copy
    *("mlflow", "torch", "torchaudio", "numpy", "scipy", "pandas", "pyarrow", "fsspec"),
    *("soundfile", "soxr", "audiomentations"),
)
WORD = Object(
    [Property("text", DataType.string), *(Property(name, DataType.double) for name in ("start", "end", "confidence"))]
)
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, COLUMN)]),
    outputs=Schema(
        [ColSpec(DataType.string, "text"), ColSpec(DataType.double, "seconds"), ColSpec(Array(WORD), "words")]
    ),
)


class ServedTranscriber(PythonModel):
    """Transcribe recordings that are sent as base64 of audio files."""

    def load_context(self, context: Any) -> None:
        """Load the checkpoint of the model."""
        self.transcriber = load(context.artifacts[CHECKPOINT])

    def predict(self, context: Any, model_input: pandas.DataFrame, params: Any = None) -> list[dict[str, Any]]:
        """Return the text, the duration in seconds, and the words of each recording.

        model_input: the column `audio` holds base64 of files in any format that soundfile reads
        raises:      MlflowException, which the server turns into status 400, for what cannot be used
        """
        try:
            if len(model_input) > MOST_RECORDINGS:
                raise InputError(f"{len(model_input)} recordings: send at most {MOST_RECORDINGS} in a request")
            transcripts = [
                self.transcriber.transcribe(*decode(encoded, row)) for row, encoded in enumerate(model_input[COLUMN])
            ]
        except InputError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        return [
            {"text": one.text, "seconds": one.seconds, "words": [word._asdict() for word in one.words]}
            for one in transcripts
        ]


def decode(encoded: str, row: int) -> tuple[np.ndarray, int]:
    """Return the samples (N, channels) and the rate of a recording; InputError names its row in the request."""
    if len(encoded) > MOST_MEGABYTES * 4e6 / 3:
        raise InputError(f"{COLUMN} {row} is larger than {MOST_MEGABYTES} MB: send FLAC, or a part of it at a time")
    try:
        with soundfile.SoundFile(io.BytesIO(base64.b64decode(encoded, validate=True))) as file:
            if file.frames > MOST_SECONDS * file.samplerate or file.frames * file.channels > MOST_SAMPLES:
                raise InputError(
                    f"{COLUMN} {row} is longer than {MOST_SECONDS} s, or than {MOST_SAMPLES:,} samples in all "
                    "channels: send a part of it at a time"
                )
            return file.read(dtype="float32", always_2d=True), file.samplerate
    except binascii.Error as error:
        raise InputError(f"{COLUMN} {row} is not base64 ({error}): send the base64 of an audio file") from error
    except soundfile.SoundFileError as error:
        raise InputError(f"{COLUMN} {row} is no audio file that can be read: send WAV, FLAC, OGG or MP3") from error


def export_mlflow(checkpoint: Path, directory: Path) -> None:
    """Write an MLflow model: the checkpoint, a copy of this package, a signature, an example and the requirements."""
    example = io.BytesIO()
    soundfile.write(example, np.zeros(1600), 16000, format="FLAC")
    save_model(
        directory,
        python_model=__file__,
        artifacts={CHECKPOINT: str(checkpoint)},
        code_paths=[os.path.dirname(asr.__file__)],
        signature=SIGNATURE,
        input_example=pandas.DataFrame({COLUMN: [base64.b64encode(example.getvalue()).decode()]}),
        # Without the "+cpu" of a build, which PyPI does not know.
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES],
    )


set_model(ServedTranscriber())
