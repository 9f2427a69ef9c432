"""Getting archives: what arrives is whole or absent, a cut connection costs nothing, no archive writes elsewhere."""

import gzip
import hashlib
import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import BODY, Site

from asr.corpora import download
from asr.corpora.download import PARTS, Published, ensure_part, fetch, unpack
from asr.errors import InputError

MD5 = hashlib.md5(BODY).hexdigest()


def get(site: Site, path: Path, md5: str = MD5, name: str = "a.tar.gz") -> None:
    fetch(f"{site.url}/{name}", path, md5, wait_seconds=0)


def test_fetch_writes_the_whole_file_and_tells_its_progress(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    fetch(f"{site.url}/a.tar.gz", tmp_path / "new" / "a", MD5, lambda *told: seen.append(told))
    assert (tmp_path / "new" / "a").read_bytes() == BODY
    assert seen[-1] == ("download", len(BODY), len(BODY))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_second_fetch_asks_the_server_for_nothing(site: Site, tmp_path: Path) -> None:
    get(site, tmp_path / "a")
    get(site, tmp_path / "a")
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
    with pytest.raises(InputError, match=r"ended after 300,000 of 1,048,576 bytes \(300,000 bytes have come"):
        get(site, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "a.partial").read_bytes() == BODY[:300_000]


@pytest.mark.parametrize("partial", [BODY, BODY + b"more"], ids=["complete", "too long"])
def test_a_partial_that_needs_no_more_bytes(site: Site, tmp_path: Path, partial: bytes) -> None:
    """The server answers 416: a complete file is accepted, junk is thrown away and fetched afresh."""
    (tmp_path / "a.partial").write_bytes(partial)
    get(site, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert len(site.ranges) == (1 if partial == BODY else 2)


def test_a_corrupted_download_names_both_md5_and_the_next_call_starts_afresh(site: Site, tmp_path: Path) -> None:
    site.files["a.tar.gz"] = b"x" + BODY[1:]
    actual = hashlib.md5(site.files["a.tar.gz"]).hexdigest()
    with pytest.raises(InputError, match=f"corrupted a: MD5 {actual} .* not {MD5}"):
        get(site, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    site.files["a.tar.gz"] = BODY
    get(site, tmp_path / "a")
    assert site.ranges == [None, None]


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
        fetch(url, tmp_path / "a.tar.gz", MD5, wait_seconds=0)


def test_a_folder_on_disk_serves_as_well(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(BODY)
    fetch(f"file://{tmp_path}/a.tar.gz", tmp_path / "b", MD5)
    assert (tmp_path / "b").read_bytes() == BODY


def test_too_little_room_is_said_before_the_download(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = download.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="GB free"):
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
    with pytest.raises(InputError, match="is there and is never overwritten"):
        unpack(make_archive(tmp_path / "a.tar.gz", TXT, PART), tmp_path)
    assert list((tmp_path / "dev-clean").iterdir()) == []
    unpack(make_archive(tmp_path / "b.tar.gz", TXT, (PART[0].replace("dev", "test"), b"")), tmp_path)
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
    with pytest.raises(InputError, match=r"member '.*evil' is not a plain file or folder inside LibriSpeech/"):
        unpack(archive, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "root"]
    assert not Path("/tmp/asr-evil").exists()


def test_the_top_folder_may_not_be_a_link(tmp_path: Path) -> None:
    """What follows would be written where it points to."""
    (tmp_path / "elsewhere").mkdir()
    archive = make_archive(tmp_path / "a.tar.gz", link("LibriSpeech", str(tmp_path / "elsewhere")), PART)
    with pytest.raises(InputError, match="member 'LibriSpeech' is not a plain file or folder"):
        unpack(archive, tmp_path / "root")
    assert list((tmp_path / "elsewhere").iterdir()) == list((tmp_path / "root").iterdir()) == []


def test_a_folder_of_the_archive_is_not_put_over_one_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "root/cuts").mkdir(parents=True)
    archive = make_archive(tmp_path / "a.tar.gz", PART, link("LibriSpeech/cuts", "", tarfile.DIRTYPE))
    with pytest.raises(InputError, match="root/cuts is there and is never overwritten"):
        unpack(archive, tmp_path / "root")
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["cuts"]


def test_a_cut_off_archive_leaves_nothing(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", PART, (PART[0] + "2", BODY))
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"a\.tar\.gz is broken"):
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


TOO_DEEP = "at most 5 names deep"
HOSTILE: dict[str, tuple[tuple[str, bytes] | tarfile.TarInfo, str]] = {
    "2,000 folders deep": ((f"LibriSpeech/dev-clean/{'a/' * 2000}x", b""), TOO_DEEP),
    "folders that Python's stack does not hold": ((f"LibriSpeech/dev-clean/{'a/' * 900}x", b""), TOO_DEEP),
    "name that no file system takes": ((f"LibriSpeech/dev-clean/{'a' * 300}", b""), "is broken: .*File name too long"),
    "path of nothing but dots": ((f"LibriSpeech/dev-clean/{'./' * 3000}x", b""), "is broken"),
    "NUL in a name": (with_headers(path="LibriSpeech/dev-clean/a\0b"), "is broken"),
    "time that is no number": (with_headers(mtime="nan"), "is broken"),
    "time without end": (with_headers(mtime="inf"), "is broken"),
    "time before the universe": (with_headers(mtime="-1e300"), "is broken"),
    "file where a folder is": (("LibriSpeech/dev-clean/84", b""), "is broken: .*Is a directory"),
    "folder where a file is": ((f"{TXT[0]}/x", b""), "is broken"),
    "negative size": (with_headers(size="-1024"), "is not a plain file"),
    "sparse": (with_headers(**{"GNU.sparse.map": "0,1", "GNU.sparse.size": str(10**15)}), "is not a plain file"),
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
    "a file of 5 MB": ((header(PART[0], tarfile.REGTYPE, 5_000_000), bytes(5_000_000)), "unpacks to more than"),
    "a header of 5 MB": ((header("x", tarfile.XHDTYPE, 5_000_000), bytes(5_000_000)), "unpacks to more than"),
    "5 MB of empty files": (MEMBER * 10_000, "unpacks to more than"),
    "a size that sends the reader back for ever": (
        (header(PART[0], tarfile.REGTYPE, -512), bytes(512)),
        "is not a plain file",
    ),
    "headers of headers": (
        (header("x", tarfile.XHDTYPE, 512), b"12 a=bcdefg\n".ljust(512, b"\0")) * 2000 + MEMBER,
        "is broken: .*recursion",
    ),
    "no tar": ((b"no tar at all" * 1000,), "is broken"),
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
def dev_clean(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A tiny dev-clean that the site serves under the MD5 of the table."""
    archive = make_archive(tmp_path / "made.tar.gz", TXT, PART)
    site.files["dev-clean.tar.gz"] = archive.read_bytes()
    archive.unlink()
    md5 = hashlib.md5(site.files["dev-clean.tar.gz"]).hexdigest()
    monkeypatch.setitem(PARTS, "dev-clean", Published(md5, 1))
    return site.files["dev-clean.tar.gz"]


@pytest.mark.parametrize("keep", [True, False])
def test_ensure_part_downloads_unpacks_and_then_does_nothing(
    site: Site, dev_clean: bytes, tmp_path: Path, keep: bool
) -> None:
    root, archives = tmp_path / "root", tmp_path / "archives"
    for _ in range(2):
        tree = ensure_part(root, "dev-clean", f"{site.url}/", archives, keep_archives=keep)
    assert (tree / "84/121/84-121.trans.txt").is_file()
    assert len(site.ranges) == 1
    assert (archives / "dev-clean.tar.gz").is_file() == keep


def test_two_at_once_download_once(site: Site, dev_clean: bytes, tmp_path: Path) -> None:
    """Two commands that need the same part must not write into each other's archive."""
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(ensure_part, tmp_path, "dev-clean", site.url, tmp_path / "archives", keep_archives=False)
            for _ in range(2)
        ]
    assert {one.result() for one in both} == {tmp_path / "dev-clean"}
    assert len(site.ranges) == 1


def test_ensure_part_finds_a_root_that_is_one_folder_too_high(tmp_path: Path) -> None:
    (tmp_path / "LibriSpeech/dev-clean").mkdir(parents=True)
    with pytest.raises(InputError, match=f"set root={tmp_path}/LibriSpeech"):
        ensure_part(tmp_path, "dev-clean", "http://127.0.0.1:9", tmp_path)


def test_ensure_part_names_the_parts_that_can_be_had(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'dev-clear' is not in .*train-clean-100, .*dev-clean-2"):
        ensure_part(tmp_path, "dev-clear", "http://127.0.0.1:9", tmp_path)


def test_ensure_part_says_where_it_cannot_write(site: Site, dev_clean: bytes, tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(b"a file, not a folder")
    with pytest.raises(InputError, match=r"dev-clean cannot be put into .*/root: "):
        ensure_part(tmp_path / "root", "dev-clean", site.url, tmp_path / "archives")
