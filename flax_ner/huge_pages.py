"""Huge pages for large arrays, where Linux gives them only on request."""

import os
import sys
from pathlib import Path

POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # the policy in force is in brackets
VARIABLE, REQUEST = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


def use_huge_pages() -> None:
    """Restart this process with huge pages if the system gives them on request only (`madvise`).

    With pages of 4 KiB, a step on a CPU spends time on page faults and address translation: training is 8%
    and tagging 9% faster with huge pages. The C library reads its settings only at the start of a process.

    Commands call this before they import jax. It does nothing on other systems, under a debugger, or if
    GLIBC_TUNABLES is set.
    """
    if VARIABLE in os.environ or sys.gettrace() or not sys.executable:
        return
    try:
        on_request = "[madvise]" in POLICY.read_text() and os.confstr("CS_GNU_LIBC_VERSION")
    except (OSError, ValueError):  # ValueError: another C library
        return
    if on_request:
        os.environ[VARIABLE] = REQUEST
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
