"""Eight CPU devices, strict JAX, and the data that lies beside the repository."""

import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

# Most of the time here went into compiling programs that run once: half of that is LLVM's optimizations.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"  # the tests' processes keep all cores busy
)
# Much of what was left went into MLIR. Only jaxlib 0.10 can do without, and XLA ends a process that names
# a flag which it does not know.
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ["JAX_PLATFORMS"] = "cpu"
# What one test or a command that it runs compiled the next one need not; a folder for all processes of
# the tests, which is gone when they are.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get(
    "JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/flax_ner_compiled_{os.getpid()}"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
# Servers that tests start are reached past any proxy.
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# A deadline measures what else the machine does. Tests of speed count processor time.
hypothesis.settings.register_profile("without_deadline", deadline=None)
hypothesis.settings.load_profile("without_deadline")

SHARED = Path(os.environ.get("FLAX_NER_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def pytest_unconfigure() -> None:
    # Only of the process that named it, and not of a worker of xdist.
    if os.environ["JAX_COMPILATION_CACHE_DIR"].endswith(f"flax_ner_compiled_{os.getpid()}"):
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"no {path}; FLAX_NER_SHARED names the folder that holds {name}")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """Inputs and outputs of the reference implementation."""
    return _shared("golden")


@pytest.fixture(scope="session")
def cluener() -> Path:
    """CLUENER2020: train.json, dev.json, vocab.txt."""
    return _shared("data/cluener")


@pytest.fixture(scope="session")
def resume() -> Path:
    """Resume NER: train.char.bmes, dev.char.bmes, test.char.bmes."""
    return _shared("data/resume")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data and models; what is needed of `data/` and `models/` must be there."""
    for name in ("data/cluener", "data/resume", "data/wnut17", "models"):
        _shared(name)
    return SHARED
