"""Tag one shard, a file of texts: copy its rows and add their entities."""

from collections.abc import Iterator
from itertools import islice, tee
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from flax_ner import durable
from flax_ner.data.json_rows import read_rows
from flax_ner.errors import UserError, error_summary, import_optional
from flax_ner.inference.inputs import check_no_entities, row_text
from flax_ner.inference.outputs import ENTITIES_FIELD, tagged_row
from flax_ner.inference.tagger import Tagger

RAY_REQUIREMENT = "ray[data]>=2.50"
SHARD_SUFFIXES = ".jsonl", ".parquet"
PART_SUFFIX = ".part"  # of unfinished files
PARQUET_BATCH_ROWS = 4096  # rows of a Parquet file that are read and written together


class ShardCounts(NamedTuple):
    """The number of texts and entities in a shard."""

    texts: int
    entities: int


def tag_shard(tagger: Tagger, source: Path, target: Path, text_field: str = "text") -> ShardCounts:
    """Tag the rows of a file and write them, with the added field `entities`, to another file.

    The field is a list of {type, start, end, text, score} with offsets as in `Entity`. The rest of a row is
    unchanged; JSON rows even keep the notation of their numbers. Both files are streamed.

    Args:
        tagger: the model.
        source: a Parquet file if the name ends in `.parquet`, otherwise JSON lines. Blank lines are skipped.
        target: output file. It is replaced only when the new file is complete.
        text_field: the field to tag.

    Returns:
        The number of texts and entities written.

    Raises:
        UserError: a row lacks the field, its value is not a string, or the row already has a field `entities`.
            The message names file and line or row.
    """
    part = target.with_name(f".{target.name}.{uuid4().hex}{PART_SUFFIX}")  # unique per writer
    tag = _tag_parquet if source.suffix == ".parquet" else _tag_json_lines
    try:
        counts = tag(tagger, source, part, text_field)
        durable.replace_file(part, target)
    finally:
        part.unlink(missing_ok=True)
    return counts


def _tag_json_lines(tagger: Tagger, source: Path, part: Path, text_field: str) -> ShardCounts:
    lines, again = tee(
        (line, _check_row(row, text_field, location)) for location, line, row in read_rows(source)
    )
    texts = entities = 0
    # UTF-8 cannot encode a lone surrogate; it is written as a JSON escape.
    with open(part, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        predicted = tagger.stream(text for _, text in lines)
        for (line, _), row_entities in zip(again, predicted, strict=True):
            file.write(tagged_row(line, row_entities) + "\n")
            texts += 1
            entities += len(row_entities)
    return ShardCounts(texts, entities)


def _tag_parquet(tagger: Tagger, source: Path, part: Path, text_field: str) -> ShardCounts:
    pa, pq = (
        import_optional(name, "bulk", RAY_REQUIREMENT) for name in ("pyarrow", "pyarrow.parquet")
    )
    texts = entities = 0
    try:
        with pq.ParquetFile(source) as file:
            # The column names are those of every row, so one check covers missing and extra fields.
            _check_row(dict.fromkeys(file.schema_arrow.names, ""), text_field, str(source))
            entity = {
                "type": pa.string(),
                "start": pa.int64(),
                "end": pa.int64(),
                "text": pa.string(),
                "score": pa.float64(),
            }
            added = pa.field(ENTITIES_FIELD, pa.list_(pa.struct(entity)))
            batches, again = tee(file.iter_batches(PARQUET_BATCH_ROWS))
            predicted = tagger.stream(_parquet_texts(batches, text_field, source))
            with pq.ParquetWriter(part, file.schema_arrow.append(added)) as writer:
                for batch in again:
                    rows = [
                        [entity.as_dict() for entity in row_entities]
                        for row_entities in islice(predicted, batch.num_rows)
                    ]
                    writer.write_batch(batch.append_column(added, pa.array(rows, added.type)))
                    texts += len(rows)
                    entities += sum(map(len, rows))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read as Parquet ({error_summary(error)}).") from None
    return ShardCounts(texts, entities)


def _parquet_texts(batches: Iterator[Any], text_field: str, source: Path) -> Iterator[str]:
    texts = (text for batch in batches for text in batch.column(text_field).to_pylist())
    for number, text in enumerate(texts, 1):
        yield _check_row({text_field: text}, text_field, f"{source}: row {number}")


def _check_row(row: dict[str, Any], text_field: str, location: str) -> str:
    """Return the text of a row, or raise `UserError` if the row cannot be tagged."""
    text = row_text(row, text_field, location)
    check_no_entities(row, location)
    return text
