"""Test set-up: eight CPU devices, strict JAX, and fixtures for the data beside the repository."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Tests compile programs that run once. Without LLVM's optimizations that takes half the time.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"  # test workers already use all cores
)
# MLIR takes much of the remaining compile time. Only jaxlib 0.10 can do without it, and XLA aborts on an
# unknown flag.
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests and the commands that they run share compiled programs. The folder is removed at the end.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get(
    "JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/flax_ner_compiled_{os.getpid()}"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
# Connect to servers that tests start without a proxy.
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# A deadline would depend on the load of the machine. Tests of speed measure processor time.
hypothesis.settings.register_profile("without_deadline", deadline=None)
hypothesis.settings.load_profile("without_deadline")

SHARED = Path(os.environ.get("FLAX_NER_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def pytest_unconfigure() -> None:
    # Only the process that chose the folder removes it, not a worker of xdist.
    if os.environ["JAX_COMPILATION_CACHE_DIR"].endswith(f"flax_ner_compiled_{os.getpid()}"):
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"no {path}; set FLAX_NER_SHARED to the folder that has {name}")
    return path


@pytest.fixture
def sigint() -> Iterator[None]:
    """Let started processes receive SIGINT, which they would ignore in a background job of a shell."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder of inputs and outputs of the reference implementation."""
    return _shared("golden")


@pytest.fixture(scope="session")
def cluener() -> Path:
    """Return the folder of CLUENER2020: train.json, dev.json, vocab.txt."""
    return _shared("data/cluener")


@pytest.fixture(scope="session")
def resume() -> Path:
    """Return the folder of Resume NER: train.char.bmes, dev.char.bmes, test.char.bmes."""
    return _shared("data/resume")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder that has all of `data/` and `models/`."""
    for name in ("data/cluener", "data/resume", "data/wnut17", "models"):
        _shared(name)
    return SHARED
