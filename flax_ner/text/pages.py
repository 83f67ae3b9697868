"""What HTML reports share."""

from collections.abc import Collection, Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template


def page(template: str, **parts: str) -> str:
    """A file of this package with `$name` replaced; parts are HTML."""
    return Template(files("flax_ner.text").joinpath(template).read_text("utf-8")).substitute(parts)


def table(rows: Iterable[Sequence[str]], words: Collection[str] = ()) -> str:
    """A table of texts, the first row its heading; columns whose heading is in `words` hold prose."""
    lines, classes = list[str](), list[str]()
    for i, row in enumerate(rows):
        if i == 0:
            classes = [' class="words"' if name in words else "" for name in row]
            cells = (f"<th{c}>{escape(name)}</th>" for c, name in zip(classes, row, strict=True))
        else:
            cells = (f"<td{c}>{escape(cell)}</td>" for c, cell in zip(classes, row, strict=True))
        lines.append(f"<tr>{''.join(cells)}</tr>\n")
    return f'<div class="scroll"><table>\n{"".join(lines)}</table></div>'
