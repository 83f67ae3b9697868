"""Imports point one way."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "flax_ner"
# What each part may import besides itself; `config` and `errors` are leaves above `text`.
ALLOWED = {
    "text": {"errors"},
    "config": {"errors", "text"},
    "model": {"errors"},
    "weights": {"errors", "text", "model"},
    "inference": {"errors", "text", "model", "weights"},
    "training": {"errors", "config", "text", "model", "weights", "inference"},
    "errors": set(),
}


def imports(path: Path) -> set[str]:
    """Every module a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_imports_point_one_way() -> None:
    checked = 0
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part in ("__init__", "__main__"):  # the doors to the house
            continue
        for name in imports(path):
            if name.startswith("flax_ner."):
                other = name.split(".")[1]
                assert other == part or other in ALLOWED[part], f"{path} imports {name}"
                checked += 1
    assert checked > 30


def test_text_never_imports_jax() -> None:
    heavy = ("jax", "flax", "optax", "orbax", "torch")
    for path in (PACKAGE / "text").glob("*.py"):
        assert not [name for name in imports(path) if name.split(".")[0] in heavy], path
    code = (
        "import sys, flax_ner.text.tokenizer, flax_ner.text.labels, flax_ner.text.metrics, "
        "flax_ner.text.batches, flax_ner.text.formats, flax_ner.text.report; "
        f"sys.exit(any(name in sys.modules for name in {heavy!r}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_pickle_is_loaded_unrestricted() -> None:
    for path in PACKAGE.parent.rglob("flax_ner/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert not (
                    node.func.attr in ("load", "loads") and ast.unparse(node.func.value) == "pickle"
                ), path
                assert not any(
                    k.arg == "allow_pickle" and ast.unparse(k.value) == "True"
                    for k in node.keywords
                ), path
