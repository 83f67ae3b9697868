"""Links, settings and commands in the documentation are valid. The Chinese pages match the English ones."""

import ast
import keyword
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from flax_ner.cli.main import make_parser
from flax_ner.cli.train_command import expand
from flax_ner.config import default_config
from flax_ner.config_checks import check_config
from tests.commands import get_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
TRANSLATED = ("README.md", "docs/your_data.md", "docs/faq.md")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

FENCED = re.compile(r"^```[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#+) +(.+?) *$", re.MULTILINE)
CODE = ("flax_ner", "tests", "configs", "convert", "benchmarks", "docs")
NAME_EXAMPLES = {"mlp"}  # an example of a new head's name
NUMBER = re.compile(r"\d[\d,.]*\d")  # at least two digits, to exclude names such as F1
SETTING = re.compile(r"(?:--config\.)?([a-z_0-9.]+)=(\S+)")
COMMAND = "python -m flax_ner "


def local_links(page: Path) -> list[str]:
    text = INLINE.sub("", FENCED.sub("", page.read_text("utf-8")))
    return [link for link in LINK.findall(text) if not re.match(r"\w+:", link)]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = FENCED.sub("", page.read_text("utf-8"))
    headings = [heading for _, heading in HEADING.findall(text)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shown_commands(page: Path, program: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of a program in fenced code, up to a pipe, redirection or comment."""
    for block in FENCED.findall(page.read_text("utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            before, *rest = re.split(program, line, maxsplit=1)
            if rest and not before.lstrip().startswith("#"):
                words = shlex.shlex(rest[0], posix=True, punctuation_chars="|>&;")
                words.whitespace_split = True
                yield list(takewhile(lambda word: word[:1] not in ("|", ">", "&", ";"), words))


def inline_code(page: Path) -> list[str]:
    """Return the pieces of inline code, each joined to one line."""
    text = FENCED.sub("", page.read_text("utf-8"))
    return [" ".join(piece.split()) for piece in INLINE.findall(text)]


@each_page
def test_links_have_existing_targets(page: Path) -> None:
    for link in local_links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_shown_commands_parse(page: Path) -> None:
    for words in shown_commands(page, COMMAND):
        make_parser().parse_args(words)


@each_page
def test_mentioned_options_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = re.search(r"\{(.+?)\}", make_parser().format_help())
    assert names
    command = re.compile(f"(?:{COMMAND})?((?:data )?[a-z]+)(?: |$)")
    for piece in inline_code(page):
        match = command.match(piece)
        if piece.startswith(COMMAND) or (match and match[1].split()[0] in names[1].split(",")):
            assert match, piece
            with pytest.raises(SystemExit, match=r"^0$"):
                make_parser().parse_args([*match[1].split(), "--help"])
            options = capsys.readouterr().out.split()
            assert set(re.findall(r"--[\w-]+", piece)) <= {o.strip("[],") for o in options}, piece


def check_settings(arguments: list[str], config: ConfigDict) -> None:
    """Apply command-line settings as train.py does, and check the configuration."""
    command, values = ["train.py", *arguments], flags.FlagValues()
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=command)
    assert values(command) == ["train.py"]
    check_config(config)


@each_page
def test_shown_training_commands_parse(page: Path) -> None:
    for option, file, *others in shown_commands(page, r"\btrain\.py +(?=-)"):
        assert option == "--config"
        check_settings(others, get_config(str(ROOT / file)))


@each_page
def test_shown_short_training_commands_parse(page: Path) -> None:
    for arguments in shown_commands(page, r"\bflax-ner train +(?=-)"):
        config, *others = expand(arguments)
        check_settings(others, get_config(config.removeprefix("--config=")))


@each_page
def test_mentioned_settings_are_valid(page: Path) -> None:
    config = default_config()
    sections = [name for name, value in config.items() if isinstance(value, ConfigDict)]
    for piece in inline_code(page):
        for name, value in SETTING.findall(piece):
            if name.split(".")[0] in config and name not in sections:
                config = default_config()
                if name == "model.attention":  # cudnn does not work with the defaults of these
                    config.model.compute_dtype = "bfloat16"
                    config.model.attention_probs_dropout_prob = 0.0
                check_settings([f"--config.{name}={value}"], config)


@pytest.mark.parametrize("name", TRANSLATED)
def test_chinese_page_has_the_sections_commands_and_numbers_of_the_english_one(name: str) -> None:
    english, chinese = ((ROOT / path).read_text("utf-8") for path in (name, _chinese(name)))
    assert FENCED.findall(chinese) == FENCED.findall(english)
    english, chinese = FENCED.sub("", english), FENCED.sub("", chinese)
    levels = [[marks for marks, _ in HEADING.findall(text)] for text in (english, chinese)]
    assert levels[1] == levels[0]
    assert IMAGE.findall(chinese) == IMAGE.findall(english)
    assert sorted(_numbers(chinese)) == sorted(_numbers(english))


@pytest.mark.parametrize("name", TRANSLATED)
def test_translations_link_to_each_other_in_the_first_lines(name: str) -> None:
    for path, other in ((name, _chinese(name)), (_chinese(name), name)):
        first = (ROOT / path).read_text("utf-8").split("\n", 5)[:5]
        assert f"({Path(other).name})" in "".join(first), path


def test_package_diagram_is_current() -> None:
    command = [sys.executable, ROOT / "docs" / "diagram.py", "--check"]
    subprocess.run(command, check=True, timeout=60)


def test_names_in_contributing_occur_in_the_code() -> None:
    names = set(keyword.kwlist) | NAME_EXAMPLES
    files = [ROOT / "train.py", *(p for folder in CODE for p in (ROOT / folder).rglob("*.py"))]
    for path in files:
        names |= {*path.relative_to(ROOT).with_suffix("").parts, *_names(path)}
    for piece in inline_code(ROOT / "CONTRIBUTING.md"):
        paths = re.findall(r"[\w/]+\.py\b", piece)
        assert all(any(file.match(path) for file in files) for path in paths), piece
        is_name = not paths and not (ROOT / piece).exists()
        if is_name and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", piece):
            assert set(piece.split(".")) <= names, piece
        assert {*re.findall(r"::(\w+)", piece)} <= names, piece


def _names(path: Path) -> set[str]:
    """Names that a module defines or uses, and its strings, but not the words of its docstrings."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(name=name):
                names.add(name)
            case ast.Constant(value=str(name)):
                names.add(name)
    return names


def _chinese(name: str) -> str:
    return f"{name.removesuffix('.md')}.zh.md"


def _numbers(text: str) -> list[str]:
    """Return the numbers outside of code and link targets."""
    return NUMBER.findall(re.sub(r"\]\([^)]*\)", "]", INLINE.sub("", text)))
