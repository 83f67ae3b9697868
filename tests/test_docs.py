"""What the documentation names is there: links, settings, commands."""

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from flax_ner.config import check_config, default_config
from flax_ner.inference.cli import make_parser
from tests.commands import get_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

FENCED = re.compile(r"^```[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SETTING = re.compile(r"(?:--config\.)?([a-z_0-9.]+)=(\S+)")
COMMAND = "python -m flax_ner "


def links(page: Path) -> list[str]:
    text = INLINE.sub("", FENCED.sub("", page.read_text("utf-8")))
    return [link for link in LINK.findall(text) if not re.match(r"\w+:", link)]


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    text = FENCED.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shown(page: Path, program: str) -> Iterator[list[str]]:
    """The arguments of each run of a program in fenced code, up to a pipe, a redirection or a comment."""
    for block in FENCED.findall(page.read_text("utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            before, *rest = re.split(program, line, maxsplit=1)
            if rest and not before.lstrip().startswith("#"):
                words = shlex.shlex(rest[0], posix=True, punctuation_chars="|>&;")
                words.whitespace_split = True
                yield list(takewhile(lambda word: word[:1] not in ("|", ">", "&", ";"), words))


def mentioned(page: Path) -> list[str]:
    """Pieces of inline code, each on one line."""
    text = FENCED.sub("", page.read_text("utf-8"))
    return [" ".join(piece.split()) for piece in INLINE.findall(text)]


@each_page
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_commands_that_are_shown_are_taken(page: Path) -> None:
    for words in shown(page, COMMAND):
        make_parser().parse_args(words)


@each_page
def test_options_of_commands_that_are_mentioned_exist(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = re.search(r"\{(.+?)\}", make_parser().format_help())
    assert names
    command = re.compile(f"(?:{COMMAND})?((?:data )?[a-z]+)(?: |$)")
    for piece in mentioned(page):
        found = command.match(piece)
        if piece.startswith(COMMAND) or (found and found[1].split()[0] in names[1].split(",")):
            assert found, piece
            with pytest.raises(SystemExit, match=r"^0$"):
                make_parser().parse_args([*found[1].split(), "--help"])
            options = capsys.readouterr().out.split()
            assert set(re.findall(r"--[\w-]+", piece)) <= {o.strip("[],") for o in options}, piece


def check(arguments: list[str], config: ConfigDict) -> None:
    """Change settings by arguments as train.py does, and check them."""
    command, values = ["train.py", *arguments], flags.FlagValues()
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=command)
    assert values(command) == ["train.py"]
    check_config(config)


@each_page
def test_training_commands_that_are_shown_are_taken(page: Path) -> None:
    for option, file, *others in shown(page, r"\btrain\.py +(?=-)"):
        assert option == "--config"
        check(others, get_config(str(ROOT / file)))


@each_page
def test_settings_that_are_mentioned_exist_and_take_the_value(page: Path) -> None:
    config = default_config()
    sections = [name for name, value in config.items() if isinstance(value, ConfigDict)]
    for piece in mentioned(page):
        for name, value in SETTING.findall(piece):
            if name.split(".")[0] in config and name not in sections:
                check([f"--config.{name}={value}"], default_config())
