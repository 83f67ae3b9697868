"""The package away from its source tree."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_an_installed_wheel_works_outside_the_source_tree(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "-w", tmp_path / "wheel", ROOT], check=True, timeout=300
    )
    (wheel,) = (tmp_path / "wheel").glob("flax_ner-*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [*pip, "install", "-q", "--no-deps", "--target", site, wheel], check=True, timeout=300
    )
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {"flax_ner"}
    code = (
        "import sys, flax_ner.text.tokenizer; assert 'jax' not in sys.modules; "
        "from flax_ner import load; import flax_ner; print(flax_ner.__file__, load.__name__)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert result.stdout.split() == [str(site / "flax_ner" / "__init__.py"), "load"]
