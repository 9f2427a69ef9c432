"""python -m asr.transcribe: turn recordings into text, JSON and subtitles, with the time of each word.

python -m asr.transcribe checkpoint=outputs/runs/quickstart/best.pt audio=talk.mp3
python -m asr.transcribe checkpoint=outputs/runs/quickstart/best.pt audio=recordings formats=[srt]
"""

import glob
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf
from rich.table import Column, Table

from asr.cli import entry_point
from asr.config.build import build_compute, build_decoder, load_recognizer
from asr.console import console, print_facts, print_table, progress_bar
from asr.corpora.audio_files import AudioError
from asr.errors import InputError
from asr.settings import GROUP, STRING, STRINGS, Rule, Rules, check
from asr.training import checkpoint
from asr.transcription.output import FORMATS, write_transcript
from asr.transcription.recording import duration
from asr.transcription.transcriber import Transcriber, Transcript

KINDS = "aif aifc aiff au caf flac mp3 oga ogg opus rf64 snd sph w64 wav"  # of files in a folder
SUFFIXES = {f".{kind}" for kind in KINDS.split()}
MOST_ROWS = 20

RULES: Rules = {
    "model": GROUP.or_null,
    "decode": GROUP,
    "checkpoint": STRING,
    "audio": STRING,
    "formats": Rule(
        f"a list of {', '.join(FORMATS)}", lambda value: STRINGS.holds(value) and value and set(value) <= set(FORMATS)
    ),
    "chunk_seconds": Rule("a number from 5 to 600", lambda value: type(value) in (int, float) and 5 <= value <= 600),
    "device": STRING,
    "output_dir": STRING,
}


class Recordings(NamedTuple):
    """The audio files, and the folder to which their names in output_dir are relative. skipped: files of other kinds"""

    root: Path
    paths: list[Path]
    skipped: int


@entry_point("transcribe")
def main(config: DictConfig) -> None:
    """Print the plan, transcribe each recording, and print what was found and what cannot be read."""
    for key, example in (("checkpoint", "outputs/runs/quickstart/best.pt"), ("audio", "talk.mp3")):
        if OmegaConf.is_missing(config, key):
            raise InputError(f"{key} is not given: name it, such as {key}={example}")
    run(config)


def run(config: DictConfig) -> dict[Path, Transcript]:
    """Return the transcript of each recording that can be read; InputError if none can."""
    check(config, RULES)
    recordings = find_recordings(config.audio)
    path = Path(config.checkpoint)
    recognizer = load_recognizer(config, checkpoint.load(path), path)
    compute = build_compute(config.device, "float32")
    recognizer.model.eval().to(compute.device)
    transcriber = Transcriber(recognizer, build_decoder(config.decode, recognizer.alphabet), compute.device)
    seconds, unreadable = measure(recordings.paths)
    hours = f"{sum(seconds.values()) / 3600:.2f}"
    print_facts(
        {
            "recordings": f"{len(seconds)} ({hours} hours), {len(unreadable)} that cannot be read, "
            f"{recordings.skipped} files of other kinds",
            "checkpoint": str(path),
            "decoder": str(config.decode.get("_target_")).rpartition(".")[2],
            "device": compute.describe(),
            "results": f"{config.output_dir}, as {', '.join(config.formats)}",
        }
    )
    done: dict[Path, Transcript] = {}
    start = time.perf_counter()
    with progress_bar() as bar:
        task = bar.add_task("transcribing", total=sum(seconds.values()), figures="")
        before = 0.0
        for recording in seconds:
            try:
                for transcript in transcriber.stream(recording, chunk_seconds=config.chunk_seconds):
                    there = before + transcript.seconds
                    speed = there / (time.perf_counter() - start)
                    bar.update(task, completed=there, figures=f"{speed:.0f} x real time  {recording.name}")
            except InputError as error:
                unreadable[recording] = str(error).removeprefix(f"{recording}: ")
            else:
                place = Path(config.output_dir) / recording.relative_to(recordings.root)
                write_transcript(transcript, recording, place, config.formats)
                done[recording] = transcript
            before += seconds[recording]
    print_transcripts(done, recordings.root, time.perf_counter() - start)
    if unreadable:
        print_unreadable(unreadable)
    if not done:
        raise InputError(
            f"audio={config.audio}: no recording can be read, for the reasons above; ffmpeg -i IN -ac 1 OUT.flac "
            "converts what it can read"
        )
    console.print(f"Transcripts: {config.output_dir}", soft_wrap=True)
    return done


def find_recordings(audio: str) -> Recordings:
    """Find what a file, folder or pattern names; InputError if there is nothing."""
    path = Path(audio)
    if path.is_file():
        return Recordings(path.parent, [path], 0)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        paths = [file for file in files if file.suffix.lower() in SUFFIXES]
        if not paths:
            raise InputError(
                f"audio={audio}: of {len(files)} files in this folder none is named as audio ({KINDS}); name another "
                "folder, a file, or a pattern such as 'audio=\"FOLDER/*.raw\"'"
            )
        return Recordings(path, paths, len(files) - len(paths))
    paths = sorted(file for file in map(Path, glob.glob(audio, recursive=True)) if file.is_file())
    if not paths:
        raise InputError(
            f"audio={audio}: there is no such file or folder, and as a pattern it matches no file; ** stands for any "
            "folders"
        )
    fixed = [part for part in Path(audio).parts[:-1]]
    wild = next((n for n, part in enumerate(fixed) if glob.has_magic(part)), len(fixed))
    return Recordings(Path(*fixed[:wild]), paths, 0)


def measure(paths: Sequence[Path]) -> tuple[dict[Path, float], dict[Path, str]]:
    """Return the seconds of each recording that can be read, by its header, and why the others cannot."""
    seconds, unreadable = {}, {}
    for path in paths:
        try:
            seconds[path] = duration(path)
        except AudioError as error:
            unreadable[path] = str(error)
    return seconds, unreadable


def print_transcripts(done: Mapping[Path, Transcript], root: Path, wall_seconds: float) -> None:
    """Print a row for each recording, as many as fit on a screen, and the speed."""
    right = [Column(name, justify="right") for name in ("seconds", "words", "confidence")]
    table = Table("recording", *right, Column("text", no_wrap=True, overflow="ellipsis"), box=None, pad_edge=False)
    for path, transcript in list(done.items())[:MOST_ROWS]:
        words = transcript.words
        confidence = f"{sum(word.confidence for word in words) / len(words):.2f}" if words else "-"
        name = str(path.relative_to(root))
        table.add_row(name, f"{transcript.seconds:.1f}", f"{len(words):,}", confidence, transcript.text)
    seconds = sum(transcript.seconds for transcript in done.values())
    speed = f"{seconds / 3600:.2f} hours in {wall_seconds:.1f} s, {seconds / wall_seconds:.0f} x real time"
    print_table(f"{len(done):,} recordings transcribed: {speed}", table)
    if len(done) > MOST_ROWS:
        console.print(f"... and {len(done) - MOST_ROWS:,} more")


def print_unreadable(unreadable: Mapping[Path, str]) -> None:
    """Print a row for each recording that cannot be read."""
    table = Table("recording", "reason", box=None, pad_edge=False)
    for path, reason in unreadable.items():
        table.add_row(str(path), reason)
    print_table(f"{len(unreadable):,} recordings cannot be read", table)


if __name__ == "__main__":
    main()
