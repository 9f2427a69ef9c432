"""Trains the same small run twice, once undisturbed and once killed (kill -9) again and again, and compares everything.

python scripts/kill_test.py                     ten kills on the synthetic corpus, about five minutes on two cores
python scripts/kill_test.py --kills 3 epochs=2  further KEY=VALUE are passed on to both trainings

It exits with 1 if any tensor, score or logged point differs. Times are the only thing that may.
"""

import argparse
import math
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from asr.tracking.journal import JOURNAL, read
from asr.training import checkpoint

FOLDER = Path("outputs/kill_test")
SETTINGS = ("experiment=quickstart", "model.conv_channels=4", "model.gru_layers=2", "model.gru_size=64", "epochs=3",
            "steps_per_epoch=20", "checkpoint.every_minutes=0.05", "tracking.log_every=1",
            "tracking.system_metrics_seconds=null")  # fmt: skip


def command(name: str, overrides: list[str]) -> list[str]:
    """One of the two trainings; they share an MLflow database, and the second goes on in its directory."""
    own = [f"output_dir={FOLDER / name}", f"tracking.uri=sqlite:///{FOLDER / 'mlflow.db'}"]
    return [sys.executable, "-m", "asr.train", *SETTINGS, *own, *overrides]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    start = time.monotonic()
    subprocess.run(command("whole", given.overrides), check=True, stdout=subprocess.DEVNULL)
    print(f"undisturbed: {time.monotonic() - start:.1f} s", flush=True)
    moments, journal = random.Random(given.seed), FOLDER / "killed" / JOURNAL
    for kill in range(1, given.kills + 1):
        before, start = last_step(journal), time.monotonic()
        process = subprocess.Popen(command("killed", given.overrides), stdout=subprocess.DEVNULL)
        # Every third kill comes at any moment from the start on, the others once the run has taken new steps.
        while kill % 3 and process.poll() is None and last_step(journal) == before:
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 4 if kill % 3 else 12))
        process.kill()
        if process.wait() == 0:
            print(f"kill {kill} came too late: the run was done; epochs=N gives it longer to live")
            break
        print(f"kill {kill:>2} after {time.monotonic() - start:4.1f} s: {whereabouts(FOLDER / 'killed')}", flush=True)
    code = subprocess.run(command("killed", given.overrides), stdout=subprocess.DEVNULL).returncode
    print(f"the last start ended with {code}")
    found = list(differences(FOLDER / "whole", FOLDER / "killed"))
    for difference in found:
        print(f"DIFFERS: {difference}")
    if not found:
        print("nothing differs, bit for bit")
    return 1 if code or found else 0


def whereabouts(run: Path) -> str:
    """What is on the disk after a kill."""
    journal = run / JOURNAL
    if not journal.exists():
        return "before anything was written"
    saved = "no checkpoint yet"
    if found := checkpoint.load_last(run):
        last, path, problem = found
        saved = f"{path.name} is of step {last.progress['step']}{f' ({problem})' if problem else ''}"
    partial = ", one half written" if list(run.glob("*.partial")) else ""
    return f"step {last_step(journal)} logged, {saved}{partial}"


def last_step(journal: Path) -> int:
    """The last that was logged; 0 for none."""
    return max((event["step"] for event in events(journal)), default=0) if journal.exists() else 0


def events(journal: Path) -> Iterator[dict[str, Any]]:
    """Those that hold points."""
    return (entry.event for entry in read(journal) if entry.event["kind"] == "metrics")


def differences(one: Path, other: Path) -> Iterator[str]:
    """Everything in which two runs differ; prints what was compared."""
    for name in (checkpoint.LAST, checkpoint.BEST):
        leaves = [dict(timeless(vars(checkpoint.load(run / name)), "")) for run in (one, other)]
        tensors = sum(isinstance(value, torch.Tensor) for value in leaves[0].values())
        print(f"{name}: {tensors} tensors and {len(leaves[0]) - tensors} other values compared")
        yield from (f"{name}: {key}" for key in leaves[0].keys() ^ leaves[1].keys())
        yield from (f"{name}: {key}" for key in leaves[0].keys() & leaves[1].keys()
                    if not equal(leaves[0][key], leaves[1][key]))  # fmt: skip
    points = [
        Counter(
            (key, event["step"], repr(value))
            for event in events(run / JOURNAL) for key, value in event["values"].items() if not of_the_clock(key)
        )
        for run in (one, other)
    ]  # fmt: skip
    print(f"points of metrics: {points[0].total()} and {points[1].total()}, by step, key and value")
    yield from (f"point {point}" for point in (points[0] - points[1]) + (points[1] - points[0]))
    if (one / "results.json").read_text() != (other / "results.json").read_text():
        yield "results.json"


def of_the_clock(key: str) -> bool:
    return "wall_" in key or "per_second" in key


def timeless(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The leaves of a nested structure, without what depends on the clock or on where the run lies."""
    if of_the_clock(name) or name.endswith("output_dir"):
        return
    if isinstance(node, (dict, list, tuple)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from timeless(value, f"{name}.{key}")
    else:
        yield name, node


def equal(one: Any, other: Any) -> bool:
    """Bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and (one == other or (isinstance(one, float) and math.isnan(one + other)))


if __name__ == "__main__":
    sys.exit(main())
