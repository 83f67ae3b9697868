"""Report an audit as one self-contained HTML page without scripts, also readable on a phone."""

from collections.abc import Sequence
from html import escape

from flax_ner.data_quality.audit import Audit, Statistics
from flax_ner.data_quality.audit_report import (
    category_rows,
    escape_invisible,
    make_excerpt,
    statistics_rows,
    summary,
)
from flax_ner.data_quality.findings import Case, Finding, Location
from flax_ner.evaluation.html_page import render_page, render_table


def audit_html(audit: Audit, show: int) -> str:
    """Return the HTML page of an audit.

    Args:
        audit: the audit.
        show: maximum number of errors, and of cases per finding.
    """
    sections = []
    if audit.errors:
        title = f'<b class="error">errors ({len(audit.errors):,})</b>: lines that cannot be read'
        lines = [escape(escape_invisible(error)) for error in audit.errors[:show]]
        sections.append(_details(title, lines, len(audit.errors) - show))
    sections += (_finding(finding, show) for finding in audit.findings)
    return _page(audit.files, summary(audit), "".join(sections))


def statistics_html(files: Sequence[Statistics]) -> str:
    """Return an HTML page with the statistics of files."""
    return _page(files, "", "")


def _page(files: Sequence[Statistics], summary_line: str, findings: str) -> str:
    return render_page(
        "flax_ner.data_quality",
        "audit.html",
        title=escape(escape_invisible(", ".join(file.name for file in files))),
        summary=escape(summary_line),
        tables="\n".join(render_table(x) for x in (statistics_rows(files), category_rows(files))),
        findings=findings,
    )


def _finding(finding: Finding, show: int) -> str:
    title = f"<b>{finding.kind} ({len(finding.cases):,})</b>: {escape(finding.title)}"
    cases = [_case(case) for case in finding.cases[:show]]
    return _details(title, cases, len(finding.cases) - show)


def _details(title: str, items: Sequence[str], more: int) -> str:
    """Return a collapsible section; `title` and `items` are HTML."""
    rest = f"<p><small>and {more:,} more</small></p>\n" if more > 0 else ""
    lines = "".join(f"<li>{item}</li>\n" for item in items)
    return f"<details>\n<summary>{title}</summary>\n<ul>\n{lines}</ul>\n{rest}</details>\n"


def _case(case: Case) -> str:
    probability = "" if case.probability is None else f"<b>{case.probability:.4f}</b> "
    locations = "".join(map(_location, case.locations))
    more = case.count - len(case.locations)
    rest = f"<div><small>and {more:,} more</small></div>" if more > 0 else ""
    return f"{probability}{escape(escape_invisible(case.description))}{locations}{rest}"


def _location(location: Location) -> str:
    before, entity, after = map(escape, make_excerpt(location))
    if entity:
        label = f"<sub>{escape(escape_invisible(location.type))}</sub>" if location.type else ""
        entity = f"<mark>{entity}{label}</mark>"
    source = escape(escape_invisible(location.source))
    return f"<div><small>{source}</small> {before}{entity}{after}</div>"
