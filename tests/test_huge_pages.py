"""Restarting with huge pages, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flax_ner.huge_pages import REQUEST, VARIABLE

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import os, sys
from pathlib import Path
from flax_ner import huge_pages
huge_pages.POLICY = Path(sys.argv[1])
print("run")
sys.stdout.flush()
huge_pages.use_huge_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[2:])
"""
glibc = pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="needs the GNU C library"
)


def run(policy: Path, before: str = "", **variables: str) -> list[str]:
    environment = {name: x for name, x in os.environ.items() if name != VARIABLE} | variables
    command = [sys.executable, "-c", f"{before}\n{PROGRAM}", str(policy), "彭 小军", "--x=1"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()


@glibc
def test_the_process_restarts_once_with_the_same_arguments(tmp_path: Path) -> None:
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    assert run(policy) == ["run", "run", f"{REQUEST} ['彭 小军', '--x=1']"]


@pytest.mark.parametrize("policy", ["[always] madvise never\n", "always madvise [never]\n", None])
def test_it_does_not_restart_where_nothing_would_change(tmp_path: Path, policy: str | None) -> None:
    path = tmp_path / "enabled"
    if policy:
        path.write_text(policy)
    assert run(path) == ["run", "None ['彭 小军', '--x=1']"]


@glibc
@pytest.mark.parametrize("entry", ["train.py", "-m flax_ner"])
def test_commands_ask_for_huge_pages(tmp_path: Path, entry: str) -> None:
    """Each entry runs with a policy of `madvise` and an interpreter that only prints its request."""
    policy, interpreter = tmp_path / "enabled", tmp_path / "python"
    policy.write_text("always [madvise] never\n")
    interpreter.write_text(f'#!/bin/sh\necho "${VARIABLE} $*"\n')
    interpreter.chmod(0o755)
    code = (
        "import runpy, sys; from pathlib import Path; from flax_ner import huge_pages\n"
        f"huge_pages.POLICY = Path({str(policy)!r}); sys.executable = {str(interpreter)!r}\n"
    )
    run_entry = "runpy.run_module('flax_ner', None, '__main__')"
    if entry == "train.py":
        run_entry = f"runpy.run_path({str(ROOT / entry)!r}, None, '__main__')"
    environment = {name: x for name, x in os.environ.items() if name != VARIABLE}
    result = subprocess.run(
        [sys.executable, "-c", code + run_entry, "--version"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.startswith(f"{REQUEST} -c") and result.stdout.endswith("--version\n")


@pytest.mark.parametrize(
    "before", ["import sys; sys.ps1 = '>'", "import sys; sys.modules['IPython'] = sys"]
)
def test_it_does_not_restart_an_interactive_session(tmp_path: Path, before: str) -> None:
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    assert run(policy, before=before) == ["run", "None ['彭 小军', '--x=1']"]


@glibc
def test_it_goes_on_if_it_cannot_restart(tmp_path: Path) -> None:
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    before = "import sys; sys.executable = '/nowhere/python'"
    assert run(policy, before=before) == ["run", "None ['彭 小军', '--x=1']"]


def test_a_program_from_standard_input_is_not_restarted(tmp_path: Path) -> None:
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    environment = {name: x for name, x in os.environ.items() if name != VARIABLE}
    result = subprocess.run(
        [sys.executable, "-", str(policy)], input=PROGRAM, env=environment, cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.splitlines() == ["run", "None []"]


def test_settings_of_the_user_stay(tmp_path: Path) -> None:
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    own = "glibc.malloc.hugetlb=0"
    assert run(policy, GLIBC_TUNABLES=own) == ["run", f"{own} ['彭 小军', '--x=1']"]
