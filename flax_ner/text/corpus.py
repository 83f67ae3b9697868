"""Plain text, a document a line, to token ids in files: text may be larger than memory.

A folder holds a tokenised text:

ids.bin        the ids of all documents end to end, without [CLS] and [SEP]; uint16, or uint32 where the
               vocabulary has more than 65,536 tokens
lengths.bin    int32, tokens of each document
made_of.json   of what they were made, and what was found; written last
"""

import codecs
import gzip
import hashlib
import json
import lzma
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from flax_ner import durable
from flax_ner.errors import UserError
from flax_ner.text.files import Losses
from flax_ner.text.tokenizer import Tokenizer
from flax_ner.text.utf8 import check_plain, encoding_remedy, not_utf8

CHUNK = 2**22  # bytes of text that are in memory at a time, or one line
PACKED: dict[bytes, tuple[Any, str]] = {  # how to open a file, and the command that unpacks it
    b"\xfd7zXZ\x00": (lzma.open, "xz -dc"),
    b"\x1f\x8b": (gzip.open, "gzip -dc"),
}
BLANK = "blank lines, left out"
NO_TOKEN = "lines without any token, left out"


class Corpus(NamedTuple):
    """A tokenised text; `ids` lie on disk."""

    ids: np.ndarray  # uint16 or uint32 [tokens]
    lengths: np.ndarray  # int32 [documents], none is 0


def read_documents(
    path: str | Path, skipped: list[str] | None = None, losses: Losses | None = None
) -> Iterator[list[str]]:
    """The lines of a text without white space around them, some megabytes at a time.

    Args:
        path: UTF-8, also compressed by xz or gzip, which its first bytes tell.
        skipped: takes the fault of each line that cannot be read. Without it the first one raises.
        losses: takes the blank lines, which are left out.

    Raises:
        UserError: with file and line, for a line that is not UTF-8; or the file is damaged.
    """
    path, losses = Path(path), losses or Losses()
    number, unpack = 0, _packing(path)[1]
    for lines in _chunks(path):
        texts = []
        remedy = ""
        for line in lines:
            number += 1
            source = f"{path}:{number}"
            if number == 1:
                check_plain(line, path, unpack)
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                text = line.decode().strip()
            except UnicodeDecodeError as error:
                remedy = remedy or encoding_remedy(b"".join(lines), path, unpack)
                fault = not_utf8(error, source, remedy)
                if skipped is None:
                    raise fault from None
                skipped.append(str(fault))
                continue
            if text:
                texts.append(text)
            else:
                losses.add(BLANK, source)
        yield texts


def _chunks(path: Path) -> Iterator[list[bytes]]:
    try:
        with _open(path) as file:
            while lines := file.readlines(CHUNK):
                yield lines
    except (lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}: is damaged or cut off ({error}). Copy or fetch the file again."
        ) from None


def _open(path: Path) -> BinaryIO:
    file: BinaryIO = _packing(path)[0](path, "rb")
    return file


def _packing(path: Path) -> tuple[Any, str]:
    """How to open a file, and the command that unpacks it; the latter is empty for plain text."""
    with path.open("rb") as plain:
        start = plain.read(6)
    return next((how for mark, how in PACKED.items() if start.startswith(mark)), (open, ""))


def check_text(path: str, field: str) -> None:
    """Raise `UserError` where there is no text; all else is found once it is read.

    Args:
        path: of the file.
        field: what the user calls it.
    """
    if not path or not Path(path).is_file():
        raise UserError(
            f"{field}: no file {path!r}. Give plain text in UTF-8, a document or sentence a line; .xz and .gz "
            "will do."
        )
    try:
        first = next(_chunks(Path(path)), [])
    except OSError as error:
        raise UserError(f"{field}: {path} cannot be read ({error.strerror}).") from None
    if not first:
        raise UserError(f"{field}: {path} is empty. Give text, a document or sentence a line.")


def count_characters(path: str | Path, skipped: list[str] | None = None) -> Counter[str]:
    """How often each character occurs in a text, lower-cased one by one."""
    counts = np.zeros(sys.maxunicode + 1, np.int64)
    for texts in read_documents(path, skipped):
        codes = np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")
        counts += np.bincount(codes, minlength=len(counts))
    found = Counter[str]()
    for code in np.flatnonzero(counts).tolist():
        found[chr(code).lower()] += int(counts[code])
    return found


def make_corpus(
    folder: Path,
    path: str | Path,
    field: str,
    tokenizer: Tokenizer,
    skip: bool,
    begun: bool = False,
) -> dict[str, Any]:
    """Tokenise a text into a folder, or find there that this has been done.

    What is there is used if text, tokenizer and vocabulary are as they were; a half-written one is
    made again.

    Args:
        folder: made if it is missing.
        path: as of `read_documents`.
        field: what the user calls the path.
        tokenizer: text to ids.
        skip: whether lines that cannot be read are left out.
        begun: whether something has been learnt from what is there.

    Returns:
        What `made_of.json` holds: among it `notes` and `skipped`, lists of lines.

    Raises:
        UserError: as `read_documents`; or there is no text in it; or it has `begun` with another.
    """
    made_of = folder / "made_of.json"
    wanted = _description(Path(path), tokenizer, skip)
    try:
        row: dict[str, Any] = json.loads(made_of.read_text("utf-8"))
        sizes = [(folder / name).stat().st_size for name in ("ids.bin", "lengths.bin")]
        same = all(row.get(name) == wanted[name] for name in wanted if name != "text")  # its path
        if same and sizes == row["bytes"]:
            return row
        changed = any(row[name] != wanted[name] for name in ("sha256", "vocabulary"))
    except (OSError, ValueError, KeyError, AttributeError):
        changed = False
    if begun and changed:
        raise UserError(
            f"{field}: {path} or its vocabulary is not as it was when this run began. Put it back, or name "
            "another work directory."
        )
    durable.make_folder(folder)
    made_of.unlink(missing_ok=True)
    durable.sync(folder)  # it must not come back beside other ids
    losses = Losses()
    skipped: list[str] | None = [] if skip else None
    row = wanted | _write(folder, Path(path), tokenizer, losses, skipped)
    if not row["documents"]:
        raise UserError(f"{field}: {path} has no text. Give text, a document or sentence a line.")
    row["notes"] = [
        f"{field}: {row['documents']:,} documents, {row['tokens']:,} tokens, "
        f"{row['unknown'] / row['tokens']:.2%} of them [UNK].",
        *(f"{field}: {line}" for line in losses.lines()),
    ]
    row["skipped"] = skipped or []
    durable.sync_tree(folder)  # the ids first: made_of.json says that they are whole
    durable.write_text(made_of, json.dumps(row, ensure_ascii=False, indent=1) + "\n")
    return row


def open_corpus(folder: Path) -> Corpus:
    """What `make_corpus` left in a folder."""
    row = json.loads((folder / "made_of.json").read_text("utf-8"))
    ids = np.memmap(folder / "ids.bin", row["dtype"], "r")
    return Corpus(ids, np.fromfile(folder / "lengths.bin", np.int32))


def token_counts(corpus: Corpus, vocab_size: int) -> np.ndarray:
    """How often each token of the vocabulary occurs, int64 [V]."""
    counts = np.zeros(vocab_size, np.int64)
    for first in range(0, len(corpus.ids), CHUNK):
        counts += np.bincount(corpus.ids[first : first + CHUNK], minlength=vocab_size)
    return counts


def _description(path: Path, tokenizer: Tokenizer, skip: bool) -> dict[str, Any]:
    """All that decides what the ids are."""
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    vocab = hashlib.sha256("\n".join(tokenizer.tokens).encode("utf-8", "surrogatepass"))
    vocab.update(tokenizer.definition.encode())
    return {
        "text": str(path),
        "size": path.stat().st_size,
        "sha256": content,
        "tokenizer": tokenizer.kind,
        "lower_case": tokenizer.lower_case,
        "vocabulary": vocab.hexdigest(),
        "dtype": "uint16" if len(tokenizer.tokens) <= 2**16 else "uint32",
        "skip": skip,
    }


def _write(
    folder: Path, path: Path, tokenizer: Tokenizer, losses: Losses, skipped: list[str] | None
) -> dict[str, Any]:
    dtype = np.uint16 if len(tokenizer.tokens) <= 2**16 else np.uint32
    documents = tokens = unknown = 0
    with (folder / "ids.bin").open("wb") as ids, (folder / "lengths.bin").open("wb") as lengths:
        for texts in read_documents(path, skipped, losses):
            if not texts:
                continue
            found = tokenizer.tokenize(texts)
            kept = found.lengths[found.lengths > 0]
            losses.add(NO_TOKEN, str(path), len(texts) - len(kept))
            ids.write(found.ids.astype(dtype).tobytes())
            lengths.write(kept.astype(np.int32).tobytes())
            documents, tokens = documents + len(kept), tokens + len(found.ids)
            unknown += int((found.ids == tokenizer.unknown_id).sum())
        sizes = [ids.tell(), lengths.tell()]
    return {"documents": documents, "tokens": tokens, "unknown": unknown, "bytes": sizes}
