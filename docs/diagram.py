"""Draw which subpackage of flax_ner imports which, as the Mermaid diagram in CONTRIBUTING.md.

python docs/diagram.py            # write it
python docs/diagram.py --check    # exit with status 1 if it is not current

The subpackages and their order are those of tests/test_architecture.py. An import that is implied by a path
through others has no arrow, so that the diagram stays readable.
"""

import re
import sys
from pathlib import Path

# Python puts this folder on the path, not the repository.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.test_architecture import PACKAGE, SUBPACKAGES, WITHOUT_JAX, imports

PAGE = PACKAGE.parent / "CONTRIBUTING.md"
DIAGRAM = re.compile(r"(?<=```mermaid\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)


def imported_subpackages() -> dict[str, set[str]]:
    """Return the other subpackages that each subpackage imports."""
    imported: dict[str, set[str]] = {subpackage: set() for subpackage in SUBPACKAGES}
    for subpackage in SUBPACKAGES:
        for path in (PACKAGE / subpackage).glob("*.py"):
            for name in imports(path):
                package, _, rest = name.partition(".")
                other = rest.split(".")[0]
                if package == "flax_ner" and other in imported and other != subpackage:
                    imported[subpackage].add(other)
    return imported


def direct(imported: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the subpackages without imports that follow from others."""

    def below(subpackage: str) -> set[str]:
        return imported[subpackage].union(*map(below, imported[subpackage]))

    return {
        subpackage: {to for to in others if not any(to in below(other) for other in others - {to})}
        for subpackage, others in imported.items()
    }


def draw() -> str:
    """Return the text of the diagram."""
    imported = direct(imported_subpackages())
    lines = ["flowchart BT"]
    lines += [
        f"    {subpackage} --> {other}"
        for subpackage in SUBPACKAGES
        for other in SUBPACKAGES
        if other in imported[subpackage]
    ]
    lines += [
        "    classDef numpy fill:#eef,stroke:#88a",
        f"    class {','.join(WITHOUT_JAX)} numpy",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    page, diagram = PAGE.read_text("utf-8"), draw()
    drawn = DIAGRAM.sub(lambda _: diagram, page)
    if sys.argv[1:] == ["--check"]:
        if drawn != page:
            sys.exit("The diagram in CONTRIBUTING.md is not current. Run: python docs/diagram.py")
    else:
        PAGE.write_text(drawn, "utf-8")


if __name__ == "__main__":
    main()
