"""One file of texts, a shard of many: its rows in, the same rows with their entities out."""

from collections.abc import Iterator
from itertools import islice, tee
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from flax_ner import durable
from flax_ner.errors import UserError, need, reason
from flax_ner.inference.inputs import check_no_entities, row_text
from flax_ner.inference.outputs import ENTITIES, tagged_row
from flax_ner.inference.tagger import Tagger
from flax_ner.text.files import read_rows

RAY = "ray[data]>=2.50"  # as pip takes it
SUFFIXES = ".jsonl", ".parquet"
PART = ".part"  # how the names of unfinished files end
ROWS = 4096  # of a Parquet file that are read, and written, together


class Counts(NamedTuple):
    """What is in a shard."""

    texts: int
    entities: int


def tag_shard(tagger: Tagger, source: Path, target: Path, text_field: str = "text") -> Counts:
    """Tag the rows of a file, and write them with one more field, `entities`, to another file.

    It is a list of {type, start, end, text, score}, offsets as in `Entity`. Nothing else of a row
    changes: of JSON not even how a number is written. Both files are read and written in pieces.

    Args:
        tagger: the model.
        source: Parquet if its name ends in `.parquet`, otherwise JSON lines, of which blank ones are left out.
        target: appears when it is whole; until then, and after an error, there is what was there before.
        text_field: the field to tag.

    Raises:
        UserError: with file and line or row, for a row without that field, with another value than
            a string there, or with a field `entities`.
    """
    part = target.with_name(f".{target.name}.{uuid4().hex}{PART}")  # no two writers share it
    tag = _tag_parquet if source.suffix == ".parquet" else _tag_json_lines
    try:
        counts = tag(tagger, source, part, text_field)
        durable.replace_file(part, target)
    finally:
        part.unlink(missing_ok=True)
    return counts


def _tag_json_lines(tagger: Tagger, source: Path, part: Path, text_field: str) -> Counts:
    lines, again = tee(
        (line, _text(row, text_field, place)) for place, line, row in read_rows(source)
    )
    texts = entities = 0
    # A lone surrogate, which UTF-8 lacks, is written as JSON's escape.
    with open(part, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        found = tagger.stream(text for _, text in lines)
        for (line, _), row in zip(again, found, strict=True):
            file.write(tagged_row(line, row) + "\n")
            texts += 1
            entities += len(row)
    return Counts(texts, entities)


def _tag_parquet(tagger: Tagger, source: Path, part: Path, text_field: str) -> Counts:
    pa, pq = (need(name, "bulk", RAY) for name in ("pyarrow", "pyarrow.parquet"))
    texts = entities = 0
    try:
        with pq.ParquetFile(source) as file:
            _text(dict.fromkeys(file.schema_arrow.names, ""), text_field, str(source))
            number, text = pa.int64(), pa.string()
            entity = {
                "type": text,
                "start": number,
                "end": number,
                "text": text,
                "score": pa.float64(),
            }
            added = pa.field(ENTITIES, pa.list_(pa.struct(entity)))
            batches, again = tee(file.iter_batches(ROWS))
            found = tagger.stream(_texts(batches, text_field, source))
            with pq.ParquetWriter(part, file.schema_arrow.append(added)) as writer:
                for batch in again:
                    rows = [[e._asdict() for e in row] for row in islice(found, batch.num_rows)]
                    writer.write_batch(batch.append_column(added, pa.array(rows, added.type)))
                    texts += len(rows)
                    entities += sum(map(len, rows))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read as Parquet ({reason(error)}).") from None
    return Counts(texts, entities)


def _texts(batches: Iterator[Any], text_field: str, source: Path) -> Iterator[str]:
    texts = (text for batch in batches for text in batch.column(text_field).to_pylist())
    for number, text in enumerate(texts, 1):
        yield _text({text_field: text}, text_field, f"{source}: row {number}")


def _text(row: dict[str, Any], text_field: str, place: str) -> str:
    """The text of a row, which is of the right form."""
    text = row_text(row, text_field, place)
    check_no_entities(row, place)
    return text
