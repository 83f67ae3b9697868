"""Report an audit as rich tables and text, and as JSON. `audit_html.py` makes the HTML page."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flax_ner.data_quality.audit import Audit, LengthSummary, Statistics
from flax_ner.data_quality.findings import Case, Finding, Location

CONTEXT_CHARACTERS = 12  # shown on each side of an entity
TEXT_CHARACTERS = 40  # shown of a whole text, and of each end of a long entity

# Rows of the statistics table: heading and how to format the value.
STATISTICS_ROWS: dict[str, Callable[[Statistics], str]] = {
    "texts": lambda s: f"{s.texts:,}",
    "labelled": lambda s: f"{s.labelled:,}",
    "labelled, without entities": lambda s: f"{s.without_entities:,}",
    "characters": lambda s: f"{s.characters:,}",
    "entities, distinct per text": lambda s: f"{s.distinct:,}",
    "entities, mentions": lambda s: f"{s.mentions:,}",
    "entities, one character": lambda s: f"{s.one_character:,}",
    "entities, overlapping": lambda s: f"{s.overlapping:,}",
    "characters per text": lambda s: _format_lengths(s.text_lengths),
    "characters per entity": lambda s: _format_lengths(s.entity_lengths),
}


class Excerpt(NamedTuple):
    """An entity with its context, or a text in `before` alone. Safe to print on a terminal."""

    before: str
    entity: str
    after: str


def statistics_rows(files: Sequence[Statistics]) -> Iterator[list[str]]:
    """Yield the rows of the statistics table, the heading first; one column per file."""
    yield ["", *(escape_invisible(file.name) for file in files)]
    for name, format_value in STATISTICS_ROWS.items():
        yield [name, *(format_value(file) for file in files)]


def category_rows(files: Sequence[Statistics]) -> Iterator[list[str]]:
    """Yield the rows of the category table, the heading first; cells are "distinct / mentions"."""
    yield ["category", *(escape_invisible(file.name) for file in files)]
    for category in sorted({category for file in files for category in file.by_type}):
        counts = [file.by_type.get(category) for file in files]
        cells = (f"{c.distinct:,} / {c.mentions:,}" if c else "0" for c in counts)
        yield [escape_invisible(category), *cells]


def make_excerpt(location: Location) -> Excerpt:
    """Return an entity with the text around it, or the beginning of a whole text."""
    text, start, end = location.text, location.start, location.end
    if not end:
        more = "…" if len(text) > TEXT_CHARACTERS else ""
        return Excerpt(escape_invisible(text[:TEXT_CHARACTERS]) + more, "", "")
    surface = text[start:end]
    if len(surface) > 2 * TEXT_CHARACTERS:
        surface = f"{surface[:TEXT_CHARACTERS]}…{surface[-TEXT_CHARACTERS:]}"
    first, last = max(start - CONTEXT_CHARACTERS, 0), end + CONTEXT_CHARACTERS
    before = ("…" if first else "") + escape_invisible(text[first:start])
    after = escape_invisible(text[end:last]) + ("…" if last < len(text) else "")
    return Excerpt(before, escape_invisible(surface), after)


def escape_invisible(text: str) -> str:
    """Escape control and format characters, lone surrogates and spaces other than " "."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def statistics_tables(files: Sequence[Statistics]) -> list[RenderableType]:
    """Return the statistics of files as rich tables."""
    return [_table(list(rows)) for rows in (statistics_rows(files), category_rows(files)) if files]


def audit_renderables(audit: Audit, show: int) -> Iterator[RenderableType]:
    """Yield an audit as rich tables and lines.

    Args:
        audit: the audit.
        show: maximum number of errors, and of cases per finding.
    """
    yield from statistics_tables(audit.files)
    if audit.errors:
        yield Text(f"\nerrors ({len(audit.errors):,}): lines that cannot be read", style="bold red")
        for error in audit.errors[:show]:
            yield Text(f"  {escape_invisible(error)}")
        yield from _more_line(len(audit.errors) - show)
    for finding in audit.findings:
        yield Text(
            f"\n{finding.kind} ({len(finding.cases):,}): {finding.title}", style="bold yellow"
        )
        for case in finding.cases[:show]:
            yield from _case_lines(case)
        yield from _more_line(len(finding.cases) - show)
    yield Text(f"\n{summary(audit)}", style="bold")


def summary(audit: Audit) -> str:
    """Return the numbers of errors and warnings on one line."""
    warnings = sum(len(finding.cases) for finding in audit.findings)
    return f"errors: {len(audit.errors):,}, warnings: {warnings:,}"


def audit_json(audit: Audit) -> dict[str, Any]:
    """Return an audit as a JSON object with every case; a case has its first locations."""
    return {
        "files": statistics_json(audit.files),
        "errors": audit.errors,
        "findings": [_finding_json(finding) for finding in audit.findings],
    }


def statistics_json(files: Sequence[Statistics]) -> list[dict[str, Any]]:
    return [asdict(file) for file in files]


def _format_lengths(lengths: LengthSummary) -> str:
    return (
        f"{lengths.shortest:,} to {lengths.longest:,}, mean {lengths.mean:.1f}, "
        f"median {lengths.median:g}, 95% up to {lengths.percentile_95:g}"
    )


def _table(rows: list[list[str]]) -> Table:
    table = Table()
    for i, heading in enumerate(rows[0]):
        table.add_column(Text(heading), justify="right" if i else "left")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


def _case_lines(case: Case) -> Iterator[Text]:
    probability = "" if case.probability is None else f"{case.probability:.4f}  "
    yield Text(f"  {probability}{escape_invisible(case.description)}")
    for location in case.locations:
        line = Text(f"    {escape_invisible(location.source)}: ", style="dim")
        excerpt = make_excerpt(location)
        line.append(excerpt.before, style="not dim")
        if excerpt.entity:
            label = f" {escape_invisible(location.type)}" if location.type else ""
            line.append(f"[{excerpt.entity}{label}]", style="not dim cyan")
        line.append(excerpt.after, style="not dim")
        yield line
    for line in _more_line(case.count - len(case.locations)):
        yield Text(f"  {line.plain}", style="dim")


def _more_line(count: int) -> Iterator[Text]:
    if count > 0:
        yield Text(f"  and {count:,} more", style="dim")


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "title": finding.title,
        "cases": [*map(_case_json, finding.cases)],
    }


def _case_json(case: Case) -> dict[str, Any]:
    # `asdict` copies every value, which takes ten times as long.
    return {
        "what": case.description,
        "places": [location._asdict() for location in case.locations],
        "count": case.count,
        "probability": case.probability,
    }
