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
from rich.table import Table

from asr.cli import entry_point
from asr.console import console
from asr.errors import InputError
from asr.settings import GROUP, STRING, Rules, check
from asr.tracking.journal import JOURNAL, BusyError, Cursor, Journal, UnreachableError

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
    """Send, print a table, and exit with code 1 if anything is pending."""
    synced = run(config)
    print_synced(synced)
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

    uri:  null for the one that the run was started with
    away: the servers that have not answered to an earlier run, and what was said; they are not asked again
    """
    from asr.tracking.mlflow import Sender, require_database

    cursor, before, state = Cursor(""), None, "in MLflow"
    try:
        with closing(Journal(directory, wait_seconds=0)) as journal:
            if not journal.starts:
                return Synced(directory, 0, 0, "never started")
            if not (address := uri or journal.start["uri"]):
                return Synced(directory, 0, 0, "tracking.uri=null: sent when you give one here")
            sender = Sender(journal, address, journal.start["experiment"])
            cursor = sender.cursor
            if before := cursor.pending(directory):
                if cursor.uri in away:
                    raise UnreachableError(away[cursor.uri])
                if uri is None:  # the database that the run was started with may have moved with the project
                    require_database(cursor.uri)
                sender.send()
        if cursor.refused:
            state += f", but for {cursor.refused} that it refused"
    except BusyError:
        cursor, state = Cursor.load(directory) or cursor, "is being trained: sends by itself"
        before = cursor.pending(directory)
    except UnreachableError as error:
        away[cursor.uri] = state = str(error)
    except InputError as error:
        state = str(error)
    after = None if before is None else cursor.pending(directory)
    return Synced(directory, (before or 0) - (after or 0), after, state)


def print_synced(synced: list[Synced]) -> None:
    """Print a line for each run."""
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("sent", justify="right")
    table.add_column("pending", justify="right")
    table.add_column("state")
    for one in synced:
        pending = "?" if one.pending is None else f"{one.pending:,}"
        table.add_row(os.path.relpath(one.directory), f"{one.sent:,}", pending, one.state)
    console.print(table if synced else "No run has a journal there.")


if __name__ == "__main__":
    main()
