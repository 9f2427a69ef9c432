"""python -m asr.sync: send to MLflow what runs have logged while it was away.

python -m asr.sync
python -m asr.sync runs=outputs/runs/exp1 tracking.uri=http://HOST:5000
"""

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from asr.cli import entry_point
from asr.console import console
from asr.errors import InputError
from asr.settings import GROUP, STRING, Rules, check
from asr.tracking.journal import JOURNAL, BusyError, Journal

RULES: Rules = {
    "runs": STRING,
    "tracking": GROUP,
    "tracking.uri": STRING.or_null,
}


class Synced(NamedTuple):
    """A run, how many events of its journal were sent just now and how many are left (None: unknown), and why."""

    directory: Path
    sent: int
    pending: int | None
    state: str


@entry_point("sync")
def main(config: DictConfig) -> None:
    """Send, print a line for each run, and exit with code 1 if anything is pending."""
    synced = run(config)
    for one in synced:
        pending = "?" if one.pending is None else one.pending
        counts = f"{one.sent} sent, {pending} pending"
        console.print(f"{os.path.relpath(one.directory)}: {counts}: {one.state}", soft_wrap=True)
    if not synced:
        console.print(f"No run has a journal in {config.runs}.")
    if any(one.pending != 0 for one in synced):
        sys.exit(1)


def run(config: DictConfig) -> list[Synced]:
    """Send every journal in the folder `runs`, each to the address that it was written for, or all to tracking.uri."""
    check(config, RULES)
    folder = Path(config.runs)
    if not folder.is_dir():
        raise InputError(f"runs={folder}: there is no such folder; give the one that holds your runs")
    away: dict[str, str] = {}
    return [sync_run(path.parent, config.tracking.uri, away) for path in sorted(folder.rglob(JOURNAL))]


def sync_run(directory: Path, uri: str | None, away: dict[str, str]) -> Synced:
    """Send what is pending of one run.

    uri:  None for the one that the run was started with
    away: the servers that have not answered to an earlier run, and what was said; they are not asked again
    """
    from asr.tracking.mlflow import Sender, UnreachableError

    try:
        journal = Journal(directory, wait_seconds=0)
    except BusyError:
        return Synced(directory, 0, None, "is being trained: sends by itself")
    except InputError as error:
        return Synced(directory, 0, None, str(error))
    with closing(journal):
        if not journal.starts:
            return Synced(directory, 0, 0, "never started")
        if not (address := uri or journal.start["uri"]):
            return Synced(directory, 0, 0, "tracking.uri=null: sent when you give one here")
        sender = Sender(journal, address, journal.start["experiment"])
        before, state = sender.count_pending(), "in MLflow"
        try:
            if before and sender.uri in away:
                raise UnreachableError(away[sender.uri])
            sender.send()
        except UnreachableError as error:
            away[sender.uri] = state = str(error)
        except InputError as error:
            state = str(error)
        after = sender.count_pending()
    return Synced(directory, before - after, after, state)


if __name__ == "__main__":
    main()
