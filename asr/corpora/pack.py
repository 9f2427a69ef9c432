"""Pack the audio of a part into a few large files, for network file systems and object stores."""

from dataclasses import replace
from glob import escape
from pathlib import Path

from fsspec.core import url_to_fs

from asr.corpora.index import PartSummary, Progress
from asr.corpora.manifest import Utterance, read_manifest, write_manifest
from asr.errors import InputError, first_line
from asr.files import written_whole


def pack(root: str, manifests: str, part: str, to: Path, shard_mb: float, progress: Progress) -> PartSummary:
    """Write the audio of a part to to/PART-NUMBER.pack, byte for byte, and its manifest to to/manifests.

    shard_mb: size of a shard in MB; a longer utterance gets one of its own
    raises:   InputError if `to` is the root itself, audio is missing, or something cannot be written
    """
    folder = to / "manifests"
    rows = list(read_manifest(root, manifests, part))
    if _place(root) == _place(str(to)) or _place(manifests) == _place(str(folder)):
        raise InputError(f"to={to} is the root itself; choose another folder for the packed corpus")
    packed: list[Utterance] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Without a manifest, what a killed command leaves behind cannot be taken for a packed part.
        for old in (folder / f"{part}.parquet", *to.glob(f"{escape(part)}-{'[0-9]' * 5}.pack")):
            old.unlink(missing_ok=True)
        number = 0
        while len(packed) < len(rows):
            name = f"{part}-{number:05}.pack"
            with written_whole(to / name) as shard:
                for one in rows[len(packed) :]:
                    content = one.read_bytes()
                    if shard.tell() and shard.tell() + len(content) > shard_mb * 1e6:
                        break
                    packed.append(replace(one, path=name, offset=shard.tell(), bytes=len(content)))
                    shard.write(content)
                    progress("pack", len(packed), len(rows))
            number += 1
        write_manifest(folder, part, packed, {"packed_from": root, "rejected": 0})
    except OSError as error:
        raise InputError(
            f"{part} cannot be packed into {to}: {first_line(error)}; restore what is missing, or set `to` to a folder "
            "that can be written and has room"
        ) from error
    return PartSummary(part, read_manifest(str(to), str(folder), part), 0)


def _place(url: str) -> tuple[type, Path]:
    file_system, path = url_to_fs(url)
    return type(file_system), Path(path).resolve()
