"""Tokenize plain text, one document per line, into files of token ids. The text may be larger than memory.

A corpus folder contains:

ids.bin        token ids of all documents, concatenated, without [CLS] and [SEP]; uint16, or uint32 if the
               vocabulary has more than 65,536 tokens
lengths.bin    int32, number of tokens of each document
made_of.json   fingerprint of the text and the tokenizer, and statistics; written last
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
from flax_ner.data.files import ConversionWarnings
from flax_ner.errors import UserError
from flax_ner.text.tokenizer import Tokenizer
from flax_ner.text.utf8 import check_plain_text, encoding_remedy, not_utf8_error

# Bytes of text, or token ids, that are held in memory at a time. A longer line is held whole.
BLOCK_SIZE = 2**22
# First bytes of a compressed file -> (function that opens it, command that decompresses it).
COMPRESSIONS: dict[bytes, tuple[Any, str]] = {
    b"\xfd7zXZ\x00": (lzma.open, "xz -dc"),
    b"\x1f\x8b": (gzip.open, "gzip -dc"),
}
BLANK_LINES = "blank lines, left out"
LINES_WITHOUT_TOKENS = "lines without tokens, left out"


class Corpus(NamedTuple):
    """A tokenized text."""

    ids: np.ndarray  # uint16 or uint32 [tokens], mapped from disk
    lengths: np.ndarray  # int32 [documents], all positive


def read_documents(
    path: str | Path,
    skipped: list[str] | None = None,
    warnings: ConversionWarnings | None = None,
) -> Iterator[list[str]]:
    """Read the lines of a text, some megabytes at a time.

    Args:
        path: path of a UTF-8 file, which may be compressed by xz or gzip (detected from its content).
        skipped: list to which the error of each unreadable line is appended. If None, the first error
            is raised.
        warnings: receives the number of blank lines, which are left out.

    Yields:
        Lines without leading and trailing white space.

    Raises:
        UserError: a line is not UTF-8 (the message names file and line), or the compressed file is damaged.
    """
    path, warnings = Path(path), warnings or ConversionWarnings()
    number, unpack_command = 0, _compression(path)[1]
    for lines in _line_blocks(path):
        texts = []
        remedy = ""
        for line in lines:
            number += 1
            source = f"{path}:{number}"
            if number == 1:
                check_plain_text(line, path, unpack_command)
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                text = line.decode().strip()
            except UnicodeDecodeError as decode_error:
                remedy = remedy or encoding_remedy(b"".join(lines), path, unpack_command)
                error = not_utf8_error(decode_error, source, remedy)
                if skipped is None:
                    raise error from None
                skipped.append(str(error))
                continue
            if text:
                texts.append(text)
            else:
                warnings.add(BLANK_LINES, source)
        yield texts


def _line_blocks(path: Path) -> Iterator[list[bytes]]:
    try:
        with _open(path) as file:
            while lines := file.readlines(BLOCK_SIZE):
                yield lines
    except (lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}: is damaged or truncated ({error}). Copy or download the file again."
        ) from None


def _open(path: Path) -> BinaryIO:
    file: BinaryIO = _compression(path)[0](path, "rb")
    return file


def _compression(path: Path) -> tuple[Any, str]:
    """Return the function that opens a file and the command that decompresses it ("" for plain text)."""
    with path.open("rb") as plain:
        start = plain.read(6)
    return next(
        (value for magic, value in COMPRESSIONS.items() if start.startswith(magic)), (open, "")
    )


def check_text_file(path: str, field: str) -> None:
    """Raise `UserError` if there is no text file, or it is empty. Its content is checked when it is read.

    Args:
        path: path of the file.
        field: config field that the path came from, for messages.
    """
    if not path or not Path(path).is_file():
        raise UserError(
            f"{field}: no file {path!r}. Give plain text in UTF-8, one document or sentence per line; .xz and "
            ".gz are supported."
        )
    try:
        first = next(_line_blocks(Path(path)), [])
    except OSError as error:
        raise UserError(f"{field}: {path} cannot be read ({error.strerror}).") from None
    if not first:
        raise UserError(f"{field}: {path} is empty. Give text, one document or sentence per line.")


def count_characters(path: str | Path, skipped: list[str] | None = None) -> Counter[str]:
    """Count the characters of a text, each lower-cased on its own."""
    counts = np.zeros(sys.maxunicode + 1, np.int64)
    for texts in read_documents(path, skipped):
        codes = np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")
        counts += np.bincount(codes, minlength=len(counts))
    characters = Counter[str]()
    for code in np.flatnonzero(counts).tolist():
        characters[chr(code).lower()] += int(counts[code])
    return characters


def make_corpus(
    folder: Path,
    path: str | Path,
    field: str,
    tokenizer: Tokenizer,
    skip: bool,
    resumed: bool = False,
) -> dict[str, Any]:
    """Tokenize a text into a folder, unless the folder already has the result.

    An existing result is reused if the text, the tokenizer and the vocabulary are unchanged. An
    incomplete one is made again.

    Args:
        folder: created if it does not exist.
        path: see `read_documents`.
        field: config field that the path came from, for messages.
        tokenizer: converts text to ids.
        skip: whether to leave out unreadable lines.
        resumed: whether a model has already been trained on the corpus in the folder, so that the
            text must not have changed.

    Returns:
        The content of `made_of.json`, including the lists of lines `notes` and `skipped`.

    Raises:
        UserError: as for `read_documents`; or the text is blank; or `resumed` and the text or the
            vocabulary has changed.
    """
    made_of = folder / "made_of.json"
    fingerprint = _fingerprint(Path(path), tokenizer, skip)
    try:
        row: dict[str, Any] = json.loads(made_of.read_text("utf-8"))
        sizes = [(folder / name).stat().st_size for name in ("ids.bin", "lengths.bin")]
        # "text" is the path: a moved file is still the same text.
        same = all(row.get(name) == fingerprint[name] for name in fingerprint if name != "text")
        if same and sizes == row["bytes"]:
            return row
        changed = any(row[name] != fingerprint[name] for name in ("sha256", "vocabulary"))
    except (OSError, ValueError, KeyError, AttributeError):
        changed = False
    if resumed and changed:
        raise UserError(
            f"{field}: {path} or its vocabulary has changed since this run started. Restore it, or use another "
            "work directory."
        )
    durable.makedirs_synced(folder)
    made_of.unlink(missing_ok=True)
    # After a crash, an old made_of.json must not reappear beside new ids.
    durable.fsync_path(folder)
    warnings = ConversionWarnings()
    skipped: list[str] | None = [] if skip else None
    row = fingerprint | _write_ids(folder, Path(path), tokenizer, warnings, skipped)
    if not row["documents"]:
        raise UserError(
            f"{field}: {path} has no text. Give text, one document or sentence per line."
        )
    row["notes"] = [
        f"{field}: {row['documents']:,} documents, {row['tokens']:,} tokens, "
        f"{row['unknown'] / row['tokens']:.2%} of them [UNK].",
        *(f"{field}: {line}" for line in warnings.lines()),
    ]
    row["skipped"] = skipped or []
    # Sync the ids first, because made_of.json marks them as complete.
    durable.fsync_tree(folder)
    durable.write_text(made_of, json.dumps(row, ensure_ascii=False, indent=1) + "\n")
    return row


def open_corpus(folder: Path) -> Corpus:
    """Open the corpus that `make_corpus` wrote to a folder."""
    row = json.loads((folder / "made_of.json").read_text("utf-8"))
    ids = np.memmap(folder / "ids.bin", row["dtype"], "r")
    return Corpus(ids, np.fromfile(folder / "lengths.bin", np.int32))


def token_counts(corpus: Corpus, vocab_size: int) -> np.ndarray:
    """Return how often each token of the vocabulary occurs, int64 [V]."""
    counts = np.zeros(vocab_size, np.int64)
    for first in range(0, len(corpus.ids), BLOCK_SIZE):
        counts += np.bincount(corpus.ids[first : first + BLOCK_SIZE], minlength=vocab_size)
    return counts


def _fingerprint(path: Path, tokenizer: Tokenizer, skip: bool) -> dict[str, Any]:
    """Return everything that determines the ids."""
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


def _write_ids(
    folder: Path,
    path: Path,
    tokenizer: Tokenizer,
    warnings: ConversionWarnings,
    skipped: list[str] | None,
) -> dict[str, Any]:
    """Write `ids.bin` and `lengths.bin`, and return the statistics for `made_of.json`."""
    dtype = np.uint16 if len(tokenizer.tokens) <= 2**16 else np.uint32
    documents = tokens = unknown = 0
    with (folder / "ids.bin").open("wb") as ids, (folder / "lengths.bin").open("wb") as lengths:
        for texts in read_documents(path, skipped, warnings):
            if not texts:
                continue
            batch = tokenizer.tokenize(texts)
            kept = batch.lengths[batch.lengths > 0]
            warnings.add(LINES_WITHOUT_TOKENS, str(path), len(texts) - len(kept))
            ids.write(batch.ids.astype(dtype).tobytes())
            lengths.write(kept.astype(np.int32).tobytes())
            documents, tokens = documents + len(kept), tokens + len(batch.ids)
            unknown += int((batch.ids == tokenizer.unknown_id).sum())
        sizes = [ids.tell(), lengths.tell()]
    return {"documents": documents, "tokens": tokens, "unknown": unknown, "bytes": sizes}
