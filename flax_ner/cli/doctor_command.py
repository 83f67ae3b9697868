"""Command line: flax-ner doctor."""

import argparse
import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax

from flax_ner import __version__
from flax_ner.errors import error_summary
from flax_ner.huge_pages import POLICY, VARIABLE

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")
OPTIONAL = ("gradio", "onnxruntime", "pyarrow", "ray", "torch", "transformers")
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # of a processor; the last is that of ARM
GIB = 1 << 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `doctor`."""
    parser.description = (
        "Print what a bug report needs: versions, devices, bfloat16 support, memory, free disk "
        "space and the cache of compiled programs. No file names but that of the cache, and no texts."
    )
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> None:
    rows = {
        "flax_ner": __version__,
        "Python": f"{platform.python_version()}, {platform.platform()}",
        "packages": ", ".join(_versions(PACKAGES)),
        "optional packages": ", ".join(_versions(OPTIONAL)) or "none",
        "devices": _devices(),
        "bfloat16": _bfloat16(),
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        "huge pages": _huge_pages(),
        "free disk space": f"{shutil.disk_usage('.').free / GIB:.1f} GiB in the current directory",
        "compiled programs": _cache(),
    }
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        print(f"{name + ':':{width}}{value}")


def _versions(packages: tuple[str, ...]) -> list[str]:
    found = []
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def _devices() -> str:
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: a platform without devices
        return f"none that jax can use ({error_summary(error)})"
    kinds = {device.device_kind: 0 for device in devices}
    for device in devices:
        kinds[device.device_kind] += 1
    return f"{jax.default_backend()}: " + ", ".join(f"{n} x {kind}" for kind, n in kinds.items())


def _bfloat16() -> str:
    try:
        backend = jax.default_backend()
    except (RuntimeError, AssertionError):
        return "unknown"
    if backend == "tpu":
        return "yes"
    if backend == "gpu":
        capability = str(getattr(jax.devices()[0], "compute_capability", "0"))
        if not re.fullmatch(r"\d+(\.\d+)?", capability):
            return f"unknown (compute capability {capability})"
        return "yes" if float(capability) >= 8 else f"no (compute capability {capability})"
    flags = set(_read("/proc/cpuinfo").split())
    if not flags:
        return "unknown"
    return ", ".join(flag for flag in BFLOAT16_FLAGS if flag in flags) or "no"


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.1f} GiB"


def _huge_pages() -> str:
    policy = _read(POLICY).strip() or "unknown"
    return f"{policy}; {VARIABLE}={os.environ.get(VARIABLE, '')}"


def _read(path: str | Path) -> str:
    """Return the text of a file of the system, or "" if it cannot be read."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _cache() -> str:
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder:
        return "not kept"
    size = sum(path.stat().st_size for path in Path(folder).glob("*") if path.is_file())
    return f"{folder}, {size / GIB:.2f} GiB"
