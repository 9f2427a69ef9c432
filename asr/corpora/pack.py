"""Pack the audio of a part into a few large files, for network file systems and object stores."""

import posixpath
from pathlib import Path

from asr.corpora.index import PartSummary, Progress
from asr.corpora.manifest import Utterance, read_manifest, write_manifest
from asr.errors import InputError
from asr.files import written_whole


def pack(root: str, manifests: str, part: str, to: Path, shard_mb: float, progress: Progress) -> PartSummary:
    """Write the audio of a part to to/PART-NUMBER.pack and its manifest to to/manifests; the bytes are those of before.

    shard_mb: size of a shard in MB; a longer utterance gets one of its own
    raises:   InputError if `to` is the root itself, audio is missing, or something cannot be written
    """
    if Path(root).resolve() == to.resolve():
        raise InputError(f"to={to} is the root itself; choose another folder for the packed corpus")
    utterances = read_manifest(root, manifests, part)
    packed: list[Utterance] = []
    rows = list(utterances)
    try:
        (to / "manifests").mkdir(parents=True, exist_ok=True)
        while len(packed) < len(rows):
            name = f"{part}-{len({one.path for one in packed}):05d}.pack"
            with written_whole(to / name) as shard:
                while len(packed) < len(rows):
                    one = rows[len(packed)]
                    content = one.read_bytes()
                    if shard.tell() and shard.tell() + len(content) > shard_mb * 1e6:
                        break
                    packed.append(_moved(one, name, shard.tell(), len(content)))
                    shard.write(content)
                    progress("pack", len(packed), len(rows))
        write_manifest(to / "manifests", part, packed, {"packed_from": posixpath.basename(root), "rejected": 0})
    except OSError as error:
        raise InputError(f"{part} cannot be packed into {to}: {error}; nothing else has changed") from error
    return PartSummary(part, read_manifest(str(to), str(to / "manifests"), part), 0)


def _moved(one: Utterance, path: str, offset: int, size: int) -> Utterance:
    return Utterance(one.id, one.text, path, one.num_samples, one.sample_rate, one.speaker, offset, size)
