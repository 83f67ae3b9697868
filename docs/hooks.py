"""What `mkdocs build` needs besides docs/: pages from elsewhere in the repository, and the list of settings.

README.md and the other pages in `OUTSIDE` become pages under repository/. Links between them and docs/ are
written for GitHub, and are rewritten here. Links to Python files become text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from flax_ner.settings import list_settings

ROOT = Path(__file__).resolve().parents[1]
# Path in the repository -> name under repository/.
OUTSIDE = {
    "README.md": "README.md",
    "README.zh.md": "README.zh.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "benchmarks/RESULTS.md": "RESULTS.md",
    "examples/browser/README.md": "browser.md",
}
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
SOURCE_LINK = re.compile(r"\[([^\]]*)\]\([^)\s#:]+\.py\)")  # works on GitHub only
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[#)])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for path in OUTSIDE:
        text = (ROOT / path).read_text("utf-8")
        files.append(File.generated(config, _in_site(path), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links across the border of docs/, and write the list of settings."""
    source = {_in_site(path): path for path in OUTSIDE}.get(
        page.file.src_uri, f"docs/{page.file.src_uri}"
    )

    def rewrite(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        if target in OUTSIDE or target.startswith("docs/"):
            return posixpath.relpath(_in_site(target), posixpath.dirname(page.file.src_uri) or ".")
        return link[1]  # mkdocs reports it

    pieces = FENCED.split(markdown)  # code is every second piece
    pieces[::2] = [LINK.sub(rewrite, SOURCE_LINK.sub(r"\1", piece)) for piece in pieces[::2]]
    return "".join(pieces).replace("<!-- settings -->", _settings())


def _in_site(path: str) -> str:
    if path in OUTSIDE:
        return f"repository/{OUTSIDE[path]}"
    return path.removeprefix("docs/")


def _settings() -> str:
    settings, sections = list_settings()
    lines, section = [], None
    for setting in settings:
        name = setting.name.partition(".")[0] if "." in setting.name else ""
        if name != section:
            section = name
            title = f"## `{name}`" if name else "## General"
            lines += ["", title, "", sections.get(name, ""), ""]
            lines += ["| setting | default | meaning |", "| --- | --- | --- |"]
        default = "not set" if setting.default in (None, "") else f"`{setting.default}`"
        meaning = " ".join(setting.meaning.split()).replace("|", r"\|")
        lines.append(f"| `{setting.name}` | {default} | {meaning} |")
    return "\n".join(lines)
