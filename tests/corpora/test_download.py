"""Getting archives: what arrives is whole or absent, a cut connection costs nothing, no archive writes elsewhere."""

import gzip
import hashlib
import io
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import BODY, Site

from asr.corpora import download
from asr.corpora.download import Archive
from asr.corpora.index import Progress
from asr.errors import InputError

MD5 = hashlib.md5(BODY).hexdigest()


def silent(action: str, done: int, total: int) -> None:
    """Shows no progress."""


def fetch(url: str, path: Path, md5: str | None = MD5, progress: Progress = silent) -> bool:
    return Archive(url, path, md5, "LibriSpeech").fetch(progress, wait_seconds=0)


def get(site: Site, path: Path, md5: str | None = MD5, name: str = "a.tar.gz") -> bool:
    return fetch(f"{site.url}/{name}", path, md5)


def unpack(archive: Path, root: Path) -> None:
    Archive("", archive, None, "LibriSpeech").unpack(root, silent)


def test_fetch_writes_the_whole_file_and_shows_its_progress(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    assert fetch(f"{site.url}/a.tar.gz", tmp_path / "a", progress=lambda *shown: seen.append(shown))
    assert (tmp_path / "a").read_bytes() == BODY
    assert seen[-1] == ("download", len(BODY), len(BODY))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_second_fetch_asks_the_server_for_nothing(site: Site, tmp_path: Path) -> None:
    assert get(site, tmp_path / "a")
    assert not get(site, tmp_path / "a")
    assert len(site.ranges) == 1


def test_a_file_put_by_hand_is_checked_and_left_alone(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"something else")
    with pytest.raises(InputError, match=f"is corrupted: its MD5 is .*, not {MD5}"):
        get(site, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"something else"
    assert site.ranges == []


def test_a_connection_cut_in_the_middle_is_resumed_by_range(site: Site, tmp_path: Path) -> None:
    site.cut_after = [300_000, 200_000]
    get(site, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert site.ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_the_next_call_resumes_what_an_interrupted_one_left(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.partial").write_bytes(BODY[:1000])
    get(site, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert site.ranges == ["bytes=1000-"]


def test_a_server_without_range_makes_it_start_over(site: Site, tmp_path: Path) -> None:
    site.knows_range = False
    site.cut_after = [300_000]
    get(site, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert site.ranges == [None, "bytes=300000-"]


def test_a_server_that_always_cuts_off_is_given_up_and_what_came_is_kept(site: Site, tmp_path: Path) -> None:
    site.knows_range = False
    site.cut_after = [300_000] * 20
    with pytest.raises(InputError, match=r"ended after 300,000 of 1,048,576 bytes \(300,000 bytes are kept"):
        get(site, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "a.partial").read_bytes() == BODY[:300_000]


def test_a_partial_that_is_complete_needs_no_more_bytes(site: Site, tmp_path: Path) -> None:
    """The server answers 416."""
    (tmp_path / "a.partial").write_bytes(BODY)
    get(site, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert len(site.ranges) == 1


@pytest.mark.parametrize("partial", [b"x", BODY + b"more"], ids=["other content", "too long"])
def test_a_corrupted_download_names_both_md5_and_the_next_call_starts_afresh(
    site: Site, tmp_path: Path, partial: bytes
) -> None:
    (tmp_path / "a.partial").write_bytes(partial)
    actual = hashlib.md5(partial + BODY[len(partial) :]).hexdigest()
    with pytest.raises(InputError, match=f"a is corrupted: its MD5 is {actual}, not {MD5}; run again"):
        get(site, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    get(site, tmp_path / "a")
    assert site.ranges == [f"bytes={len(partial)}-", None]


def test_without_an_md5_nothing_is_checked(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"anything")
    assert not get(site, tmp_path / "a", md5=None)
    assert get(site, tmp_path / "b", md5=None)


def test_a_passing_server_error_is_tried_again(site: Site, tmp_path: Path) -> None:
    site.failures = [503, 500]
    get(site, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_404_says_the_url_and_the_way_out_at_once(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"/none\.tar\.gz cannot be downloaded: HTTP 404.*set base_url.*by hand"):
        get(site, tmp_path / "none.tar.gz", name="none.tar.gz")
    assert len(site.ranges) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.tar.gz", "mirror/a.tar.gz", "file:///nowhere/a.tar.gz"])
def test_an_unreachable_place_says_the_url_and_the_way_out(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(InputError, match=f"{url} cannot be downloaded: .*set base_url"):
        fetch(url, tmp_path / "a.tar.gz")


def test_a_folder_on_disk_serves_as_well(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(BODY)
    fetch(f"file://{tmp_path}/a.tar.gz", tmp_path / "b", MD5)
    assert (tmp_path / "b").read_bytes() == BODY


def test_too_little_room_is_said_before_the_download(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = download.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"has 0\.0 GB, but only 0\.0 GB are free in"):
        get(site, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def make_archive(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    """A tar.gz; a member is (name, content) or a TarInfo without content."""
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


PART = ("LibriSpeech/dev-clean/84/121/84-121.trans.txt", b"84-121-0000 HELLO\n")
TXT = ("LibriSpeech/SPEAKERS.TXT", b"speakers")


def test_unpack_puts_the_part_and_the_texts_into_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    unpack(make_archive(tmp_path / "a.tar.gz", TXT, PART), root)
    assert (root / "dev-clean/84/121/84-121.trans.txt").read_bytes() == PART[1]
    assert sorted(path.name for path in root.iterdir()) == ["SPEAKERS.TXT", "dev-clean"]


def test_unpack_overwrites_neither_a_part_nor_a_text(tmp_path: Path) -> None:
    (tmp_path / "dev-clean").mkdir()
    (tmp_path / "SPEAKERS.TXT").write_bytes(b"mine")
    unpack(make_archive(tmp_path / "a.tar.gz", TXT, PART, (PART[0].replace("dev", "test"), b"")), tmp_path)
    assert list((tmp_path / "dev-clean").iterdir()) == []
    assert (tmp_path / "SPEAKERS.TXT").read_bytes() == b"mine"
    assert (tmp_path / "test-clean").is_dir()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def renamed(path: str) -> tarfile.TarInfo:
    """Harmless by its name, but an extended header gives it another."""
    info = tarfile.TarInfo("LibriSpeech/dev-clean/good")
    info.pax_headers = {"path": path}
    return info


@pytest.mark.parametrize(
    "member",
    [
        ("LibriSpeech/../../evil", b"x"),
        ("../evil", b"x"),
        ("/tmp/asr-evil", b"x"),
        ("dev-clean/evil", b"x"),
        link("LibriSpeech/dev-clean/evil", "/etc"),
        link("LibriSpeech/dev-clean/evil", "../../../evil"),
        link("LibriSpeech/dev-clean/evil", "../../../evil", tarfile.LNKTYPE),
        link("LibriSpeech/dev-clean/evil", "", tarfile.CHRTYPE),
        link("LibriSpeech/dev-clean/evil", "", tarfile.FIFOTYPE),
        link("LibriSpeech/dev-clean/evil", "", tarfile.BLKTYPE),
        renamed("/tmp/asr-evil"),
        renamed("LibriSpeech/dev-clean/../../../evil"),
    ],
    ids=[
        "dots",
        "dots first",
        "absolute",
        "elsewhere",
        "symlink",
        "symlink up",
        "hard link",
        "device",
        "fifo",
        "block device",
        "renamed absolute",
        "renamed dots",
    ],
)
def test_hostile_members_are_refused_by_name_and_nothing_appears(
    member: tuple[str, bytes] | tarfile.TarInfo, tmp_path: Path
) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", PART, member)
    with pytest.raises(
        InputError, match=r"evil' (is not a plain file or folder inside LibriSpeech/|.*outside the destination)"
    ):
        unpack(archive, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "root"]
    assert not Path("/tmp/asr-evil").exists()


def test_the_top_folder_may_not_be_a_link(tmp_path: Path) -> None:
    """What follows would be written where it points to."""
    (tmp_path / "elsewhere").mkdir()
    archive = make_archive(tmp_path / "a.tar.gz", link("LibriSpeech", str(tmp_path / "elsewhere")), PART)
    with pytest.raises(InputError, match="'LibriSpeech' is not a plain file or folder"):
        unpack(archive, tmp_path / "root")
    assert list((tmp_path / "elsewhere").iterdir()) == list((tmp_path / "root").iterdir()) == []


def test_a_cut_off_archive_leaves_nothing(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", PART, (PART[0] + "2", random.Random(0).randbytes(100_000)))
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"a\.tar\.gz cannot be unpacked, so nothing was: Compressed file ended"):
        unpack(archive, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def with_headers(**headers: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(f"{PART[0]}2")
    info.pax_headers = headers
    return info


def header(name: str, kind: bytes, size: int) -> bytes:
    """The 512 bytes of a member's header with any size, in the base-256 notation, which allows negative ones."""
    info = tarfile.TarInfo(name)
    info.type = kind
    content = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    content[124:136] = (size % 256**12).to_bytes(12, "big") if size < 0 else b"\x80" + size.to_bytes(11, "big")
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + 8 * ord(" ") + sum(content[156:]))
    return bytes(content)


def make_raw_archive(path: Path, *content: bytes) -> Path:
    path.write_bytes(gzip.compress(b"".join(content) + bytes(1024), 1))
    return path


NOT_PLAIN, TOO_LARGE = "is not a plain file", "unpacks to more than three times its size"
HOSTILE: dict[str, tuple[tuple[str, bytes] | tarfile.TarInfo, str]] = {
    "2,000 folders deep": ((f"LibriSpeech/dev-clean/{'a/' * 2000}x", b""), NOT_PLAIN),
    "folders that Python's stack does not hold": ((f"LibriSpeech/dev-clean/{'a/' * 900}x", b""), NOT_PLAIN),
    "name that no file system takes": (
        (f"LibriSpeech/dev-clean/{'a' * 300}", b""),
        "nothing was: .*File name too long",
    ),
    "path of nothing but dots": ((f"LibriSpeech/dev-clean/{'./' * 3000}x", b""), "cannot be unpacked"),
    "NUL in a name": (with_headers(path="LibriSpeech/dev-clean/a\0b"), "cannot be unpacked"),
    "time that is no number": (with_headers(mtime="nan"), "cannot be unpacked"),
    "time without end": (with_headers(mtime="inf"), "cannot be unpacked"),
    "time before the universe": (with_headers(mtime="-1e300"), "cannot be unpacked"),
    "file where a folder is": (("LibriSpeech/dev-clean/84", b""), "nothing was: .*Is a directory"),
    "folder where a file is": ((f"{TXT[0]}/x", b""), "cannot be unpacked"),
    "negative size": (with_headers(size="-1024"), TOO_LARGE),
    "sparse": (with_headers(**{"GNU.sparse.map": "0,1", "GNU.sparse.size": str(10**15)}), TOO_LARGE),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_member_that_no_file_system_or_clock_takes_is_refused_and_leaves_nothing(what: str, tmp_path: Path) -> None:
    member, message = HOSTILE[what]
    archive = make_archive(tmp_path / "a.tar.gz", PART, TXT, member)
    with pytest.raises(InputError, match=message) as error:
        unpack(archive, tmp_path / "root")
    assert len(str(error.value)) < 1000
    assert "\n" not in str(error.value)
    assert list((tmp_path / "root").iterdir()) == []


MEMBER = (header("LibriSpeech/dev-clean/x", tarfile.REGTYPE, 0),)
RAW: dict[str, tuple[tuple[bytes, ...], str]] = {
    "a file of 5 MB": ((header(PART[0], tarfile.REGTYPE, 5_000_000), bytes(5_000_000)), TOO_LARGE),
    "a header of 5 MB": (
        (header("x", tarfile.XHDTYPE, 5_000_192), b"5000192 a=".ljust(5_000_191, b"x") + b"\n", *MEMBER),
        TOO_LARGE,
    ),
    "5 MB of empty files": (MEMBER * 10_000, TOO_LARGE),
    "a size that sends the reader back for ever": (
        (header(PART[0], tarfile.REGTYPE, -512), bytes(512)),
        TOO_LARGE,
    ),
    "headers of headers": (
        (header("x", tarfile.XHDTYPE, 512), b"12 a=bcdefg\n".ljust(512, b"\0")) * 2000 + MEMBER,
        "nothing was: .*recursion",
    ),
    "no tar": ((b"no tar at all" * 1000,), "cannot be unpacked"),
}


@pytest.mark.parametrize("what", RAW)
def test_an_archive_that_is_a_trap_for_its_reader_is_refused_and_leaves_nothing(what: str, tmp_path: Path) -> None:
    content, message = RAW[what]
    archive = make_raw_archive(tmp_path / "a.tar.gz", *content)
    with pytest.raises(InputError, match=message):
        unpack(archive, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_what_a_killed_unpack_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".a.tar.gz.unpacking/LibriSpeech/train-clean-100").mkdir(parents=True)
    unpack(make_archive(tmp_path / "a.tar.gz", PART), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "dev-clean"]


@pytest.fixture
def archive(site: Site, tmp_path: Path) -> Archive:
    """A tiny dev-clean that the site serves."""
    made = make_archive(tmp_path / "made.tar.gz", TXT, PART)
    site.files["dev-clean.tar.gz"] = made.read_bytes()
    made.unlink()
    md5 = hashlib.md5(site.files["dev-clean.tar.gz"]).hexdigest()
    return Archive(f"{site.url}/dev-clean.tar.gz", tmp_path / "archives/dev-clean.tar.gz", md5, "LibriSpeech")


@pytest.mark.parametrize("keep", [True, False])
def test_ensure_downloads_unpacks_and_then_does_nothing(
    site: Site, archive: Archive, tmp_path: Path, keep: bool
) -> None:
    root = tmp_path / "root"
    for _ in range(2):
        archive.ensure(root, "dev-clean", silent, keep)
    assert (root / "dev-clean/84/121/84-121.trans.txt").is_file()
    assert len(site.ranges) == 1
    assert archive.path.is_file() == keep


def test_an_archive_put_there_by_hand_is_used_and_stays(site: Site, archive: Archive, tmp_path: Path) -> None:
    archive.path.parent.mkdir()
    archive.path.write_bytes(site.files["dev-clean.tar.gz"])
    archive.ensure(tmp_path / "root", "dev-clean", silent, keep=False)
    assert (tmp_path / "root/dev-clean").is_dir()
    assert archive.path.is_file()
    assert site.ranges == []


def test_two_at_once_download_once(site: Site, archive: Archive, tmp_path: Path) -> None:
    """Two commands that need the same part must not write into each other's archive."""
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(archive.ensure, tmp_path, "dev-clean", silent, keep=False) for _ in range(2)]
    assert [one.result() for one in both] == [None, None]
    assert (tmp_path / "dev-clean").is_dir()
    assert len(site.ranges) == 1


def test_an_archive_of_something_else_is_named(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dev-clean\.tar\.gz holds no LibriSpeech/dev-other"):
        archive.ensure(tmp_path / "root", "dev-other", silent, keep=True)


def test_ensure_says_where_it_cannot_write(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(b"a file, not a folder")
    with pytest.raises(InputError, match=r"dev-clean cannot be put into .*/root: "):
        archive.ensure(tmp_path / "root", "dev-clean", silent, keep=True)
