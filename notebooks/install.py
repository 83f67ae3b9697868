"""Install flax_ner where a notebook runs, without taking its GPU or TPU away from jax.

To pip a jax for CPUs is as good as one for a GPU, and a newer jax for CPUs is better than the older
one for a GPU that a service like Colab comes with. So what is asked of pip is decided here: a jax that
is new enough stays exactly as it is; an older one is replaced by one for the same device.

The notebooks load this file before the package is there: it needs the standard library alone.
"""

import importlib
import importlib.metadata
import re
import subprocess
import sys
from glob import glob
from pathlib import Path

# What makes jax see a device: the package, and the extra of jax that asks for it.
PLUGINS = {"libtpu": "tpu", "jax-cuda12-plugin": "cuda12", "jax-cuda13-plugin": "cuda13"}
# Files of the devices. Newer TPUs are VFIO's; a folder /dev/accel, if there is one, is of other makers.
NVIDIA = ("/dev/nvidia0", "/dev/nvidiactl")
TPU = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
CUDA13_DRIVER = 580  # NVIDIA's oldest driver that runs CUDA 13
# Modules that cannot be exchanged once a kernel has loaded them.
LOADED = ("jax", "jaxlib", "ml_dtypes", "numpy", "flax")


def install(checkout: Path) -> None:
    """Install flax_ner from a checkout, unless it is installed already, and say what jax runs on.

    Raises:
        RuntimeError: pip failed, jax does not see the GPU or TPU that is there, or the kernel has
            loaded packages that were replaced, and must be restarted.
    """
    if present := version("flax_ner"):
        check_loaded()
        print(f"flax_ner {present} is installed already, with jax {version('jax')}.")
        return
    extra, minimum = device_extra(), minimum_jax((checkout / "requirements.txt").read_text("utf-8"))
    installed = {name: version(name) for name in ("jax", *PLUGINS)}
    wanted = requirements(checkout, installed, extra, minimum)
    print("pip install", *wanted)
    if subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *wanted], check=False
    ).returncode:
        raise RuntimeError("pip could not install flax_ner; what it says stands above.")
    importlib.invalidate_caches()
    check_device(extra)
    check_loaded()


def requirements(
    checkout: Path, installed: dict[str, str | None], extra: str, minimum: str
) -> list[str]:
    """What pip is asked for.

    Args:
        checkout: of flax_ner.
        installed: versions of jax and of `PLUGINS`; None where there is none.
        extra: of jax, for the device that is there; "" for a CPU alone.
        minimum: the oldest jax that will do.
    """
    jax = installed["jax"]
    if jax is None or numbers(jax) < numbers(minimum):
        extra_and_version = f"[{extra}]>={minimum}" if extra else f">={minimum}"
    elif extra and not any(installed[name] for name, of in PLUGINS.items() if of == extra):
        extra_and_version = f"[{extra}]=={jax}"
    else:
        # Named, or a newer flax could ask for a newer jax, which pip would take for CPUs.
        extra_and_version = f"=={jax}"
    return [f"{checkout}[tensorboard]", f"jax{extra_and_version}"]


def device_extra() -> str:
    """The extra of jax for the device that is there, "" for none: by jax's plugins, else by the hardware."""
    for name, extra in PLUGINS.items():
        if version(name):
            return extra
    if any(map(glob, NVIDIA)):
        return "cuda13" if nvidia_driver() >= CUDA13_DRIVER else "cuda12"
    return "tpu" if any(map(glob, TPU)) else ""


def nvidia_driver() -> int:
    """The major version of the NVIDIA driver; 0 where it cannot be told."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return numbers(told.strip() or "0")[0]


def check_loaded() -> None:
    """Ask for a restart where this session has loaded another version than the one installed."""
    old = [n for n in LOADED if n in sys.modules and sys.modules[n].__version__ != version(n)]
    if old:
        raise RuntimeError(
            f"Installed, but this session had loaded an older {', '.join(old)}. Restart it (Runtime > Restart "
            "session; nothing on disk is lost), then run the notebook from the top again."
        )


def check_device(extra: str) -> None:
    """Say what jax runs on, as a process of its own sees it: a device that was there must be seen."""
    code = "import jax; print(jax.default_backend(), jax.device_count(), jax.__version__)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise RuntimeError(f"jax does not start:\n{result.stderr.strip()[-1000:]}")
    backend, count, jax = result.stdout.split()[-3:]
    if extra and backend == "cpu":
        raise RuntimeError(
            f"jax {jax} sees the CPU alone, not the device that jax[{extra}] is for. Start a new machine "
            "(Runtime > Disconnect and delete runtime) and run the notebook again, or choose a runtime "
            f"without that device. What jax says:\n{result.stderr.strip()[-1000:]}"
        )
    print(f"flax_ner {version('flax_ner')}, jax {jax} on {count} x {backend}.")


def minimum_jax(requirements: str) -> str:
    """The lower bound of jax in the text of a requirements.txt."""
    found = re.search(r"^jax>=([\d.]+)$", requirements, re.MULTILINE)
    if found is None:
        raise RuntimeError("requirements.txt has no line jax>=VERSION.")
    return found[1]


def numbers(version: str) -> tuple[int, ...]:
    """A version to compare: "0.10.2.dev3" as (0, 10, 2)."""
    return tuple(map(int, re.findall(r"\d+", re.match(r"[\d.]*", version)[0]))) or (0,)


def version(name: str) -> str | None:
    """The installed version of a package, if it is installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
