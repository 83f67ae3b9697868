"""CLUENER2020 as it is published: fetched, unpacked with care, and counted."""

import lzma
import os
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

from flax_ner.errors import UserError
from flax_ner.text.audit import statistics
from flax_ner.text.cluener import read_cluener
from flax_ner.text.download import Progress, disk_told, fetch

# Where the CLUE benchmark publishes it (github.com/CLUEbenchmark/CLUENER2020).
URL = "https://storage.googleapis.com/cluebenchmark/tasks/cluener_public.zip"
ARCHIVE = "cluener_public.zip"
# In bytes, of the archive and of each member unpacked: 1 and 2.3 million in truth.
LIMIT = 32 << 20


class Counts(NamedTuple):
    """Texts; entities, distinct (category, surface) a text; mentions."""

    texts: int
    distinct: int
    mentions: int

    def __str__(self) -> str:
        return (
            f"{self.texts:,} texts, {self.distinct:,} distinct entities, {self.mentions:,} mentions"
        )


SPLITS = {
    "train.json": Counts(10748, 23338, 23972),
    "dev.json": Counts(1343, 2982, 3072),
    "test.json": Counts(1345, 0, 0),  # its labels are not published
}
# Of the archive's other members these are unpacked, where they are there.
BESIDE = "README.md", "cluener_predict.json"


def download_cluener(
    folder: Path,
    url: str = URL,
    progress: Progress = lambda done, total: None,
    splits: Mapping[str, Counts] = SPLITS,
) -> bool:
    """Have CLUENER2020 in a folder. Files appear there whole and counted, or not at all.

    An archive that lies in the folder already (`cluener_public.zip`) is taken instead of the
    published one, and left there.

    Args:
        folder: made where it is missing.
        url: of the archive.
        progress: as `fetch` takes it.
        splits: the files and what they must hold.

    Returns:
        Whether anything was missing.

    Raises:
        UserError: the archive cannot be had or unpacked, or a file, there before or unpacked, holds
            something else than CLUENER2020; such an archive is deleted if it was fetched.
    """
    there = [name for name in splits if (folder / name).exists()]
    for name in there:
        if fault := _fault(folder / name, splits[name]):
            raise UserError(
                f"{folder / name}: is there, and is not CLUENER2020's: {fault}. Move it away, or "
                "choose another folder."
            )
    if len(there) == len(splits):
        return False
    with disk_told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    archive = folder / ARCHIVE
    fetched = not archive.exists()
    if fetched:
        try:
            fetch(url, archive, LIMIT, progress)
        except UserError as error:
            raise UserError(
                f"{error} An archive from elsewhere will do: put it at {archive}."
            ) from None
    try:
        _install(archive, folder, url if fetched else str(archive), splits)
    finally:
        if fetched:
            with suppress(OSError):
                archive.unlink()
    return True


def _fault(path: Path, expected: Counts) -> str:
    """What is wrong with a file, or nothing."""
    try:
        found = statistics(path.name, read_cluener(path))
    except UserError as error:
        return str(error).removeprefix(f"{path}:").strip()
    except OSError as error:
        return error.strerror or type(error).__name__
    counts = Counts(found.texts, found.distinct, found.mentions)
    return "" if counts == expected else f"{counts}, where {expected} belong"


def _install(archive: Path, folder: Path, origin: str, splits: Mapping[str, Counts]) -> None:
    """Unpack beside the folder's files, and move over what is missing once all is right."""
    members = _members(archive, origin, splits)
    with disk_told(folder), TemporaryDirectory(prefix=".unpacking-", dir=folder) as unpacked:
        for name, content in members.items():
            (Path(unpacked) / name).write_bytes(content)
        for name, expected in splits.items():
            if fault := _fault(Path(unpacked) / name, expected):
                raise UserError(f"{origin}: its {name} is not CLUENER2020's: {fault}.")
        for name in members:
            if not (folder / name).exists():
                os.replace(Path(unpacked) / name, folder / name)


def _members(archive: Path, origin: str, required: Iterable[str]) -> dict[str, bytes]:
    """The members that are wanted. Others are not looked at, but for names that no honest one has."""
    try:
        with ZipFile(archive) as zipped:
            names = zipped.namelist()
            for name in names:
                if ".." in PurePosixPath(name).parts or name.startswith("/") or "\\" in name:
                    raise UserError(f"{origin}: has a member {name!r}, which leads out of it.")
            missing = [name for name in required if name not in names]
            if missing:
                raise UserError(
                    f"{origin}: lacks {', '.join(missing)}: another archive than CLUENER2020's."
                )
            wanted = [name for name in names if name in required or name in BESIDE]
            return {name: _content(zipped, name, origin) for name in wanted}
    except UserError:
        raise
    except (
        BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        RuntimeError,
        OSError,
        ValueError,
    ) as error:
        # A RuntimeError: it is encrypted, or packed in a way that zipfile does not know.
        raise UserError(
            f"{origin}: is no zip archive, or a damaged one ({error}). Delete it if it is still there, and "
            "fetch it again."
        ) from error


def _content(zipped: ZipFile, name: str, origin: str) -> bytes:
    """A member as far as the limit; what the archive says of its size may be wrong."""
    with zipped.open(name) as file:
        content = file.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise UserError(f"{origin}: its {name} has more than {LIMIT:,} bytes.")
    return content
