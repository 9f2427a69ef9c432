"""python -m asr.export: a checkpoint as an ONNX file or as an MLflow model.

python -m asr.export checkpoint=outputs/runs/quickstart/best.pt output_dir=outputs/exports/onnx
python -m asr.export checkpoint=outputs/runs/quickstart/best.pt format=mlflow output_dir=outputs/exports/mlflow
"""

import shutil
from pathlib import Path

from omegaconf import DictConfig

import asr
from asr.cli import entry_point
from asr.config.build import require_checkpoint
from asr.console import console
from asr.errors import InputError
from asr.settings import STRING, Rules, check, one_of
from asr.training import checkpoint

RULES: Rules = {
    "checkpoint": STRING,
    "format": one_of("onnx", "mlflow"),
    "output_dir": STRING,
}


@entry_point("export")
def main(config: DictConfig) -> None:
    """Export a checkpoint, and print where it is and how to use it."""
    require_checkpoint(config)
    console.print(run(config), soft_wrap=True)


def run(config: DictConfig) -> str:
    """Write the directory, whole or not at all; return what was written, in words."""
    check(config, RULES)
    directory = Path(config.output_dir)
    if directory.exists():
        raise InputError(f"output_dir={directory}: it exists; give another, or remove this one first")
    path = Path(config.checkpoint)
    if (model := checkpoint.load(path).config["model"].get("_target_")) != checkpoint.MODEL:
        raise InputError(
            f"checkpoint {path}: its model is {model}, a class of your own, and only DeepSpeech2 can be exported: a "
            "file must not choose what code runs"
        )
    transcriber = asr.load(path)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
    partial.mkdir(parents=True)
    try:
        if config.format == "onnx":
            from asr.transcription.export_onnx import LENGTHS, export_onnx

            difference = export_onnx(transcriber, partial / "model.onnx")
            done = f"{directory}/model.onnx: its log-probabilities differ from torch's by at most {difference:.1e}"
            done += f" at {LENGTHS} lengths"
        else:
            from asr.transcription.export_mlflow import export_mlflow

            export_mlflow(path, partial)
            done = f"{directory}: serve it by mlflow models serve -m {directory} --env-manager local"
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return done


if __name__ == "__main__":
    main()
