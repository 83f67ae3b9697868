"""Render templates and tables for HTML reports."""

from collections.abc import Collection, Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template


def render_page(package: str, template: str, **parts: str) -> str:
    """Fill in a template and return the HTML page.

    Args:
        package: package that contains the template, such as `flax_ner.evaluation`.
        template: file name of the template.
        parts: HTML to substitute for each `$name`.
    """
    return Template(files(package).joinpath(template).read_text("utf-8")).substitute(parts)


def render_table(rows: Iterable[Sequence[str]], text_columns: Collection[str] = ()) -> str:
    """Return an HTML table.

    Args:
        rows: cells as plain text, which is escaped here. The first row is the heading.
        text_columns: headings of columns with prose, which are left-aligned and may wrap.
    """
    lines, classes = list[str](), list[str]()
    for i, row in enumerate(rows):
        if i == 0:
            classes = [' class="prose"' if name in text_columns else "" for name in row]
            cells = (f"<th{c}>{escape(name)}</th>" for c, name in zip(classes, row, strict=True))
        else:
            cells = (f"<td{c}>{escape(cell)}</td>" for c, cell in zip(classes, row, strict=True))
        lines.append(f"<tr>{''.join(cells)}</tr>\n")
    return f'<div class="scroll"><table>\n{"".join(lines)}</table></div>'
