"""Imports point one way."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "flax_ner"
# In order of imports: a subpackage imports itself and those before it.
SUBPACKAGES = (
    "text", "data", "evaluation", "data_quality", "model", "weights", "inference",
    "training", "distillation", "finetuning", "pretraining", "serving", "cli",
)  # fmt: skip
WITHOUT_JAX = SUBPACKAGES[: SUBPACKAGES.index("model")]
# The modules beside the subpackages, and what each of them may import.
IMPORTS_OF_MODULES = {
    "errors": (),
    "durable": ("errors",),
    "compilation": (),
    "garbage": (),
    "huge_pages": (),
    "next_steps": (),
    "arguments": ("errors",),
    "memory": ("errors",),
    "config": ("model",),
    "config_checks": ("errors", "config", "text", "data", "model"),
    "settings": ("config",),
    "notebook": ("errors", "weights"),
    "fit": ("evaluation", "training", "finetuning", "pretraining"),
}
# The modules that every subpackage may import.
SHARED_BY_ALL = {"errors", "durable", "arguments", "garbage"}
SHARED_FROM_INFERENCE = SHARED_BY_ALL | {"compilation", "memory", "next_steps"}
IMPORT_CONFIG = ("training", "distillation", "finetuning", "pretraining", "cli")


def imports(path: Path) -> set[str]:
    """Every module a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: use an absolute import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def allowed(part: str) -> set[str]:
    if part in IMPORTS_OF_MODULES:
        return set(IMPORTS_OF_MODULES[part])
    others = set(SUBPACKAGES[: SUBPACKAGES.index(part)]) | SHARED_BY_ALL
    if part in SUBPACKAGES[SUBPACKAGES.index("inference") :]:
        others |= SHARED_FROM_INFERENCE
    if part == "cli":
        others |= {"settings", "fit", "huge_pages"}
    return others | {"config", "config_checks"} if part in IMPORT_CONFIG else others


def test_imports_point_one_way() -> None:
    checked = 0
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part in ("__init__", "__main__"):  # they may import anything
            continue
        for name in imports(path):
            if name.startswith("flax_ner."):
                other = name.split(".")[1]
                assert other == part or other in allowed(part) | {"__version__"}, (
                    f"{path} imports {name}"
                )
                checked += 1
    assert checked > 30


def test_no_two_modules_have_the_same_name() -> None:
    names = [path.stem for path in PACKAGE.rglob("*.py") if path.stem != "__init__"]
    assert sorted(names) == sorted(set(names))


def test_subpackages_without_jax_never_import_it() -> None:
    heavy = ("jax", "flax", "optax", "orbax", "torch")
    modules = []
    for subpackage in WITHOUT_JAX:
        for path in (PACKAGE / subpackage).glob("*.py"):
            assert not [name for name in imports(path) if name.split(".")[0] in heavy], path
            modules.append(f"flax_ner.{subpackage}.{path.stem}".removesuffix(".__init__"))
    code = (
        f"import sys, {', '.join(modules)}; from flax_ner import CharTokenizer, Entity, LabelSet, score; "
        f"sys.exit(any(name in sys.modules for name in {heavy!r}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_unpickles_or_needs_pytorch() -> None:
    for path in PACKAGE.rglob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "torch"}, path
        assert "allow_pickle" not in path.read_text("utf-8"), path
