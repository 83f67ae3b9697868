"""Huge pages for large arrays, where Linux gives them only on request."""

import os
import sys
from contextlib import suppress
from pathlib import Path

POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # the policy in force is in brackets
VARIABLE, REQUEST = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


def use_huge_pages() -> None:
    """Restart this process with huge pages if the system gives them on request only (`madvise`).

    With pages of 4 KiB, a training step on a CPU takes 9% longer, for page faults and address translation. The
    C library reads its settings only at the start of a process.

    Commands call this before they import jax. It does nothing on other systems, in an interactive session,
    under a debugger, or if GLIBC_TUNABLES is set.
    """
    interactive = hasattr(sys, "ps1") or "IPython" in sys.modules or sys.gettrace()
    if VARIABLE in os.environ or interactive or not sys.executable:
        return
    if sys.argv[0] in ("", "-"):  # the program came from standard input, which cannot be read again
        return
    try:
        on_request = "[madvise]" in POLICY.read_text() and os.confstr("CS_GNU_LIBC_VERSION")
    except (OSError, ValueError):  # ValueError: another C library
        return
    if on_request:
        os.environ[VARIABLE] = REQUEST
        with suppress(OSError):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        del os.environ[VARIABLE]
