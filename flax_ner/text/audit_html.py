"""An audit as one HTML page that needs nothing else: no scripts, readable on a phone."""

from collections.abc import Sequence
from html import escape

from flax_ner.text.audit import Audit, Statistics
from flax_ner.text.audit_report import categories, excerpt, figures, summary, visible
from flax_ner.text.findings import Case, Finding, Place
from flax_ner.text.pages import page, table


def audit_html(audit: Audit, show: int) -> str:
    """The whole page, with at most `show` cases of each finding and as many errors."""
    parts = []
    if audit.errors:
        title = f'<b class="error">errors ({len(audit.errors):,})</b>: lines that cannot be read'
        lines = [escape(visible(error)) for error in audit.errors[:show]]
        parts.append(_details(title, lines, len(audit.errors) - show))
    parts += (_finding(finding, show) for finding in audit.findings)
    return _page(audit.files, summary(audit), "".join(parts))


def statistics_html(files: Sequence[Statistics]) -> str:
    """The page with the tables alone."""
    return _page(files, "", "")


def _page(files: Sequence[Statistics], told: str, parts: str) -> str:
    return page(
        "audit.html",
        title=escape(visible(", ".join(file.name for file in files))),
        summary=escape(told),
        tables="\n".join(table(rows) for rows in (figures(files), categories(files))),
        findings=parts,
    )


def _finding(finding: Finding, show: int) -> str:
    title = f"<b>{finding.kind} ({len(finding.cases):,})</b>: {escape(finding.title)}"
    cases = [_case(case) for case in finding.cases[:show]]
    return _details(title, cases, len(finding.cases) - show)


def _details(title: str, items: Sequence[str], more: int) -> str:
    """A part that opens at a tap; title and items are HTML."""
    rest = f"<p><small>and {more:,} more</small></p>\n" if more > 0 else ""
    lines = "".join(f"<li>{item}</li>\n" for item in items)
    return f"<details>\n<summary>{title}</summary>\n<ul>\n{lines}</ul>\n{rest}</details>\n"


def _case(case: Case) -> str:
    probability = "" if case.probability is None else f"<b>{case.probability:.4f}</b> "
    places = "".join(map(_place, case.places))
    more = case.count - len(case.places)
    rest = f"<div><small>and {more:,} more</small></div>" if more > 0 else ""
    return f"{probability}{escape(visible(case.what))}{places}{rest}"


def _place(place: Place) -> str:
    before, entity, after = map(escape, excerpt(place))
    if entity:
        kind = f"<sub>{escape(visible(place.type))}</sub>" if place.type else ""
        entity = f"<mark>{entity}{kind}</mark>"
    return f"<div><small>{escape(visible(place.source))}</small> {before}{entity}{after}</div>"
