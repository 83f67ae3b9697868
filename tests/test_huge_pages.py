"""Restarting with huge pages, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flax_ner.huge_pages import REQUEST, VARIABLE

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


def run(policy: Path, **variables: str) -> list[str]:
    environment = {name: x for name, x in os.environ.items() if name != VARIABLE} | variables
    command = [sys.executable, "-c", PROGRAM, str(policy), "彭 小军", "--x=1"]
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


def test_settings_of_the_user_stay(tmp_path: Path) -> None:
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    own = "glibc.malloc.hugetlb=0"
    assert run(policy, GLIBC_TUNABLES=own) == ["run", f"{own} ['彭 小军', '--x=1']"]
