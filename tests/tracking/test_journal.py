"""The journal: what is written stays, in order, whatever ends the process."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT

from asr.errors import InputError
from asr.tracking.journal import BusyError, Journal, read


def journal_of(directory: Path) -> Journal:
    return Journal(directory, wait_seconds=0)


def events(directory: Path) -> list[dict]:
    return [{k: v for k, v in entry.event.items() if k != "time"} for entry in read(directory / "journal.jsonl")]


def test_events_are_read_from_any_position(tmp_path: Path) -> None:
    with closing(journal_of(tmp_path)) as journal:
        for step in range(3):
            journal.append("metrics", step=step, values={"loss": 0.1 + step})
    entries = list(read(tmp_path / "journal.jsonl"))
    assert [entry.event["values"]["loss"] for entry in entries] == [0.1, 1.1, 2.1]
    assert list(read(tmp_path / "journal.jsonl", entries[0].end)) == entries[1:]
    assert entries[-1].end == (tmp_path / "journal.jsonl").stat().st_size


def test_what_was_logged_is_known_again(tmp_path: Path) -> None:
    for resumed in (0, 1):
        with closing(journal_of(tmp_path)) as journal:
            assert journal.starts == resumed
            journal.append("start", number=resumed, tags={"kind": "trial"})
            journal.append("tag", key="kind", value=f"other {resumed}")
            journal.append("metrics", step=7 + resumed, values={"loss": 1.0})
            journal.append("metrics", step=3, values={"loss": 1.0, "wer": 1.0})
    with closing(journal_of(tmp_path)) as journal:
        assert journal.starts == 2
        assert journal.start["number"] == 1
        assert journal.tags == {"kind": "other 1"}
        assert journal.last_steps == {"loss": 8, "wer": 3}


@pytest.mark.parametrize("rest", [b"{", b'{"kind": "tag", "time": 1}', b"\xff\x00"])
def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path, rest: bytes) -> None:
    with closing(journal_of(tmp_path)) as journal:
        journal.append("tag", key="a", value="1")
    with open(tmp_path / "journal.jsonl", "ab") as file:
        file.write(rest)
    assert len(events(tmp_path)) == 1, "a reader leaves it alone: it may be on its way"
    with closing(journal_of(tmp_path)) as journal:
        journal.append("tag", key="b", value="2")
    assert events(tmp_path) == [{"kind": "tag", "key": "a", "value": "1"}, {"kind": "tag", "key": "b", "value": "2"}]


@pytest.mark.parametrize("line", ["no json", "3", "{}"])
def test_a_damaged_line_is_an_input_error(tmp_path: Path, line: str) -> None:
    (tmp_path / "journal.jsonl").write_text(f"{line}\n")
    for _ in range(2):  # and the lock is not left behind
        with pytest.raises(InputError, match=r"journal\.jsonl.*damaged") as caught:
            journal_of(tmp_path)
        assert not isinstance(caught.value, BusyError)


def test_one_process_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    program = (
        "import sys, os, signal; from pathlib import Path; from asr.tracking.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for step in range(100): journal.append('metrics', step=step, values={'loss': 1 / (step + 1)})\n"
        "print('written', flush=True); sys.stdin.read(1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], text=True, env=environment,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout.readline() == "written\n"
        with pytest.raises(BusyError, match="is being trained by another process"):
            journal_of(tmp_path)
        process.communicate("x")
    with closing(journal_of(tmp_path)) as journal:
        assert journal.last_steps == {"loss": 99}
    assert [event["values"]["loss"] for event in events(tmp_path)] == [1 / (step + 1) for step in range(100)]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with closing(journal_of(tmp_path)) as journal:
        journal.append("tag", key="a", value="1")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, line: write(file, line[:10]))
            with pytest.raises(OSError, match=r"No space left.*journal\.jsonl"):
                journal.append("tag", key="b", value="2")
        journal.append("tag", key="c", value="3")
    assert [event["key"] for event in events(tmp_path)] == ["a", "c"]


def test_what_was_sent_is_kept_for_each_address(tmp_path: Path) -> None:
    with closing(journal_of(tmp_path)) as journal:
        for key in "abc":
            journal.append("tag", key=key, value="1")
        ends = [entry.end for entry in journal.pending("http://x")]
        journal.append("sent", uri="http://x", run_id="0123", end=ends[0])
        journal.append("sent", uri="http://y", run_id="4567", end=ends[2])
        journal.append("sent", uri="http://x", run_id="0123", end=ends[1])
    with closing(journal_of(tmp_path)) as journal:
        assert journal.sent == {"http://x": ("0123", ends[1]), "http://y": ("4567", ends[2])}
        assert [entry.event["key"] for entry in journal.pending("http://x")] == ["c"]
        assert not list(journal.pending("http://y")), "what was noted about sending is not sent itself"
        journal.close()


def test_an_empty_journal_leaves_nothing_behind(tmp_path: Path) -> None:
    journal_of(tmp_path / "run").close()
    assert not (tmp_path / "run").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with closing(journal_of(tmp_path / "other")):
        (tmp_path / "other").rename(tmp_path / "old")
    assert (tmp_path / "old" / "file").exists()
