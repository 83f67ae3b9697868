"""An audit for people (rich tables and text) and for programs (JSON); audit_html.py has the page."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flax_ner.text.audit import Audit, Lengths, Statistics
from flax_ner.text.findings import Case, Finding, Place

CONTEXT = 12  # characters shown on each side of an entity
WHOLE = 40  # and of a text that is meant as a whole

# The rows of the table of files.
FIGURES: dict[str, Callable[[Statistics], str]] = {
    "texts": lambda s: f"{s.texts:,}",
    "labelled": lambda s: f"{s.labelled:,}",
    "labelled, without entities": lambda s: f"{s.without_entities:,}",
    "characters": lambda s: f"{s.characters:,}",
    "entities, distinct a text": lambda s: f"{s.distinct:,}",
    "entities, mentions": lambda s: f"{s.mentions:,}",
    "of one character": lambda s: f"{s.one_character:,}",
    "overlapping": lambda s: f"{s.overlapping:,}",
    "characters a text": lambda s: _range(s.text_lengths),
    "characters an entity": lambda s: _range(s.entity_lengths),
}


class Excerpt(NamedTuple):
    """What is shown of a text, made safe for a terminal: nothing in it is invisible or acts."""

    before: str
    entity: str
    after: str


def figures(files: Sequence[Statistics]) -> Iterator[list[str]]:
    """The table of files, a list a row, the heading first."""
    yield ["", *(visible(file.name) for file in files)]
    for name, show in FIGURES.items():
        yield [name, *(show(file) for file in files)]


def categories(files: Sequence[Statistics]) -> Iterator[list[str]]:
    """The table of categories, a list a row, the heading first: distinct a text and mentions."""
    yield ["category", *(visible(file.name) for file in files)]
    for kind in sorted({kind for file in files for kind in file.by_type}):
        counts = [file.by_type.get(kind) for file in files]
        yield [visible(kind), *(f"{c.distinct:,} / {c.mentions:,}" if c else "0" for c in counts)]


def excerpt(place: Place) -> Excerpt:
    """An entity with what stands around it, or the beginning of a text."""
    text, start, end = place.text, place.start, place.end
    if not end:
        return Excerpt(visible(text[:WHOLE]) + ("…" if len(text) > WHOLE else ""), "", "")
    surface = text[start:end]
    if len(surface) > 2 * WHOLE:
        surface = f"{surface[:WHOLE]}…{surface[-WHOLE:]}"
    first, last = max(start - CONTEXT, 0), end + CONTEXT
    before = ("…" if first else "") + visible(text[first:start])
    after = visible(text[end:last]) + ("…" if last < len(text) else "")
    return Excerpt(before, visible(surface), after)


def visible(text: str) -> str:
    """Spaces other than " ", control and format characters and lone surrogates as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def statistics_view(files: Sequence[Statistics]) -> list[RenderableType]:
    """For a rich console."""
    return [_table(list(rows)) for rows in (figures(files), categories(files)) if files]


def audit_view(audit: Audit, show: int) -> Iterator[RenderableType]:
    """For a rich console, at most `show` cases of each finding and as many errors."""
    yield from statistics_view(audit.files)
    if audit.errors:
        yield Text(f"\nerrors ({len(audit.errors):,}): lines that cannot be read", style="bold red")
        for error in audit.errors[:show]:
            yield Text(f"  {visible(error)}")
        yield from _more(len(audit.errors) - show)
    for finding in audit.findings:
        yield Text(
            f"\n{finding.kind} ({len(finding.cases):,}): {finding.title}", style="bold yellow"
        )
        for case in finding.cases[:show]:
            yield from _case(case)
        yield from _more(len(finding.cases) - show)
    yield Text(f"\n{summary(audit)}", style="bold")


def summary(audit: Audit) -> str:
    """One line."""
    warnings = sum(len(finding.cases) for finding in audit.findings)
    return f"errors: {len(audit.errors):,}, warnings: {warnings:,}"


def audit_json(audit: Audit) -> dict[str, Any]:
    """Everything: every case, each with its first places."""
    return {
        "files": statistics_json(audit.files),
        "errors": audit.errors,
        "findings": [_finding_json(finding) for finding in audit.findings],
    }


def statistics_json(files: Sequence[Statistics]) -> list[dict[str, Any]]:
    return [asdict(file) for file in files]


def _range(lengths: Lengths) -> str:
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


def _case(case: Case) -> Iterator[Text]:
    probability = "" if case.probability is None else f"{case.probability:.4f}  "
    yield Text(f"  {probability}{visible(case.what)}")
    for place in case.places:
        line = Text(f"    {visible(place.source)}: ", style="dim")
        parts = excerpt(place)
        line.append(parts.before, style="not dim")
        if parts.entity:
            label = f" {visible(place.type)}" if place.type else ""
            line.append(f"[{parts.entity}{label}]", style="not dim cyan")
        line.append(parts.after, style="not dim")
        yield line
    yield from (
        Text(f"  {line.plain}", style="dim") for line in _more(case.count - len(case.places))
    )


def _more(count: int) -> Iterator[Text]:
    if count > 0:
        yield Text(f"  and {count:,} more", style="dim")


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "title": finding.title,
        "cases": [*map(_case_json, finding.cases)],
    }


def _case_json(case: Case) -> dict[str, Any]:
    # Not by `asdict`, which copies all it meets and takes ten times as long.
    return vars(case) | {"places": [place._asdict() for place in case.places]}
