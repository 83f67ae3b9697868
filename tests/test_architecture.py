"""Imports point one way."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "flax_ner"
# What each part may import besides itself; arguments, config, settings and errors are leaves above text.
ALLOWED = {
    "arguments": {"errors"},
    "text": {"arguments", "durable", "errors"},
    "config": {"errors", "text", "model"},
    "settings": {"config"},
    "model": {"errors"},
    "weights": {"errors", "durable", "text", "model"},
    "memory": {"errors"},
    "notebook": {"errors", "weights"},
    "inference": {
        "arguments",
        "errors",
        "durable",
        "compilation",
        "memory",
        "text",
        "model",
        "weights",
    },
    "training": {
        "errors",
        "durable",
        "config",
        "memory",
        "next_steps",
        "text",
        "model",
        "weights",
        "inference",
    },
    "compilation": set(),
    "durable": set(),
    "next_steps": set(),
    "errors": set(),
}


def imports(path: Path) -> set[str]:
    """Every module a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import hides where it leads"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
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
        "import sys; from flax_ner import CharTokenizer, Entity, LabelSet, score; "
        "import flax_ner.text.tokenizer, flax_ner.text.labels, flax_ner.text.metrics, "
        "flax_ner.text.batches, flax_ner.text.formats, flax_ner.text.report, "
        "flax_ner.text.audit_html, flax_ner.text.cluener_archive; "
        f"sys.exit(any(name in sys.modules for name in {heavy!r}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_unpickles_or_needs_pytorch() -> None:
    for path in PACKAGE.rglob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "torch"}, path
        assert "allow_pickle" not in path.read_text("utf-8"), path
