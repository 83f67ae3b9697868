"""Download, unpack and verify the published CLUENER2020 data set."""

import lzma
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

from flax_ner.data.cluener import read_cluener
from flax_ner.data.download import Progress, fetch, report_write_errors
from flax_ner.durable import replace_file
from flax_ner.errors import UserError
from flax_ner.text.examples import Example

# Where the CLUE benchmark publishes it (github.com/CLUEbenchmark/CLUENER2020).
ARCHIVE_URL = "https://storage.googleapis.com/cluebenchmark/tasks/cluener_public.zip"
ARCHIVE_NAME = "cluener_public.zip"
# Maximum bytes of the archive and of each unpacked member. Actual sizes: 1 and 2.3 million.
MAX_BYTES = 32 << 20


class SplitCounts(NamedTuple):
    """Number of texts, of distinct (category, surface) pairs per text, and of mentions."""

    texts: int
    distinct: int
    mentions: int

    def __str__(self) -> str:
        return (
            f"{self.texts:,} texts, {self.distinct:,} distinct entities, {self.mentions:,} mentions"
        )


CLUENER_SPLITS = {
    "train.json": SplitCounts(10748, 23338, 23972),
    "dev.json": SplitCounts(1343, 2982, 3072),
    "test.json": SplitCounts(1345, 0, 0),  # published without labels
}
# Members that are unpacked if the archive has them.
OPTIONAL_MEMBERS = "README.md", "cluener_predict.json"


def download_cluener(
    folder: Path,
    url: str = ARCHIVE_URL,
    progress: Progress = lambda done, total: None,
    splits: Mapping[str, SplitCounts] = CLUENER_SPLITS,
) -> bool:
    """Download CLUENER2020 to a folder. A file appears there only after its content has been verified.

    If the folder already has an archive (`cluener_public.zip`), that one is used and kept.

    Args:
        folder: created if it does not exist.
        url: URL of the archive.
        progress: see `fetch`.
        splits: the expected files and their counts.

    Returns:
        Whether any file was missing.

    Raises:
        UserError: the archive cannot be downloaded or unpacked, or an existing or unpacked file is not
            CLUENER2020's. A downloaded archive is deleted then.
    """
    existing = [name for name in splits if (folder / name).exists()]
    for name in existing:
        if error := _verify_split(folder / name, splits[name]):
            raise UserError(
                f"{folder / name}: already exists, but is not from CLUENER2020: {error}. Move it away, or "
                "choose another folder."
            )
    if len(existing) == len(splits):
        return False
    with report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    archive = folder / ARCHIVE_NAME
    downloaded = not archive.exists()
    if downloaded:
        try:
            fetch(url, archive, MAX_BYTES, progress)
        except UserError as error:
            raise UserError(
                f"{error} You can also get the archive elsewhere and put it at {archive}."
            ) from None
    try:
        _unpack(archive, folder, url if downloaded else str(archive), splits)
    finally:
        if downloaded:
            with suppress(OSError):
                archive.unlink()
    return True


def _verify_split(path: Path, expected: SplitCounts) -> str:
    """Return what is wrong with a file; "" if nothing is."""
    try:
        counts = _count(read_cluener(path))
    except UserError as error:
        return str(error).removeprefix(f"{path}:").strip()
    except OSError as error:
        return error.strerror or type(error).__name__
    return "" if counts == expected else f"{counts}, but expected {expected}"


def _count(examples: Sequence[Example]) -> SplitCounts:
    entities = [
        (text, entity.type, example.text[entity.start : entity.end])
        for text, example in enumerate(examples)
        for entity in example.entities or ()
    ]
    return SplitCounts(len(examples), len(set(entities)), len(entities))


def _unpack(archive: Path, folder: Path, origin: str, splits: Mapping[str, SplitCounts]) -> None:
    """Unpack to a temporary folder, verify all splits, then move the missing files to `folder`."""
    members = _read_members(archive, origin, splits)
    with report_write_errors(folder), TemporaryDirectory(prefix=".unpacking-", dir=folder) as temp:
        for name, content in members.items():
            (Path(temp) / name).write_bytes(content)
        for name, expected in splits.items():
            if error := _verify_split(Path(temp) / name, expected):
                raise UserError(f"{origin}: its {name} is not from CLUENER2020: {error}.")
        for name in members:
            if not (folder / name).exists():
                replace_file(Path(temp) / name, folder / name)


def _read_members(archive: Path, origin: str, required: Iterable[str]) -> dict[str, bytes]:
    """Return the content of the required and optional members.

    Other members are ignored, unless their path is unsafe: then the archive is rejected.
    """
    try:
        with ZipFile(archive) as zipped:
            names = zipped.namelist()
            for name in names:
                if ".." in PurePosixPath(name).parts or name.startswith("/") or "\\" in name:
                    raise UserError(
                        f"{origin}: its member {name!r} has an unsafe path. Do not use this archive."
                    )
            missing = [name for name in required if name not in names]
            if missing:
                raise UserError(
                    f"{origin}: does not contain {', '.join(missing)}, so it is not CLUENER2020's archive."
                )
            wanted = [name for name in names if name in required or name in OPTIONAL_MEMBERS]
            return {name: _read_member(zipped, name, origin) for name in wanted}
    except UserError:
        raise
    except (
        BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        RuntimeError,  # encrypted, or an unknown compression method
        OSError,
        ValueError,
    ) as error:
        raise UserError(
            f"{origin}: is not a zip archive, or is damaged ({error}). Delete it if it still exists, and "
            "download it again."
        ) from error


def _read_member(zipped: ZipFile, name: str, origin: str) -> bytes:
    # The size in the archive's directory may be wrong, so limit what is decompressed.
    with zipped.open(name) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UserError(f"{origin}: its {name} has more than {MAX_BYTES:,} bytes.")
    return content
