"""Install flax_ner in the runtime of a notebook and keep jax's support for its GPU or TPU.

pip does not distinguish a jax for CPUs from one for a GPU, and would replace the GPU version that Colab
comes with by a newer one for CPUs. So this file chooses the requirements: a jax that is new enough stays as it
is, and an older one is replaced by a newer one for the same device.

The notebooks load this file before the package is installed, so it uses only the standard library.
"""

import importlib
import importlib.metadata
import re
import subprocess
import sys
from glob import glob
from pathlib import Path

# The packages with which jax supports a device, and the extras of jax that install them.
PLUGINS = {"libtpu": "tpu", "jax-cuda12-plugin": "cuda12", "jax-cuda13-plugin": "cuda13"}
# Device files. Newer TPUs use VFIO. A folder /dev/accel belongs to devices of other vendors.
NVIDIA = ("/dev/nvidia0", "/dev/nvidiactl")
TPU = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
CUDA13_DRIVER = 580  # the oldest NVIDIA driver that supports CUDA 13
# Modules that cannot be replaced once a kernel has loaded them.
LOADED = ("jax", "jaxlib", "ml_dtypes", "numpy", "flax")


def install(checkout: Path) -> None:
    """Install flax_ner from a checkout, unless it is already installed, and print the device of jax.

    Raises:
        RuntimeError: if pip fails, if jax does not find the GPU or TPU, or if the kernel must be restarted
            because it has loaded packages that were replaced.
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
        raise RuntimeError("pip could not install flax_ner. See its output above.")
    importlib.invalidate_caches()
    check_device(extra)
    check_loaded()


def requirements(
    checkout: Path, installed: dict[str, str | None], extra: str, minimum: str
) -> list[str]:
    """Return the requirements to pass to pip.

    Args:
        checkout: the checkout of flax_ner.
        installed: versions of jax and of `PLUGINS`, None for packages that are not installed.
        extra: the extra of jax for the device, or "" for CPUs.
        minimum: the oldest jax version that flax_ner supports.
    """
    jax = installed["jax"]
    if jax is None or numbers(jax) < numbers(minimum):
        extra_and_version = f"[{extra}]>={minimum}" if extra else f">={minimum}"
    elif extra and not any(installed[name] for name, value in PLUGINS.items() if value == extra):
        extra_and_version = f"[{extra}]=={jax}"
    else:
        # Pin the version. Otherwise a newer flax could require a newer jax, which pip installs for CPUs.
        extra_and_version = f"=={jax}"
    return [f"{checkout}[tensorboard]", f"jax{extra_and_version}"]


def device_extra() -> str:
    """Return the extra of jax for the device, by installed plugins or by the hardware; "" for CPUs."""
    for name, extra in PLUGINS.items():
        if version(name):
            return extra
    if any(map(glob, NVIDIA)):
        return "cuda13" if nvidia_driver() >= CUDA13_DRIVER else "cuda12"
    return "tpu" if any(map(glob, TPU)) else ""


def nvidia_driver() -> int:
    """Return the major version of the NVIDIA driver, or 0 if it is unknown."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return numbers(output.strip() or "0")[0]


def check_loaded() -> None:
    """Raise `RuntimeError` if this session has loaded another version than the installed one."""
    old = [n for n in LOADED if n in sys.modules and sys.modules[n].__version__ != version(n)]
    if old:
        raise RuntimeError(
            f"Installed, but this session had loaded an older {', '.join(old)}. Restart the session (Runtime > "
            "Restart session; files are kept), then run the notebook from the top again."
        )


def check_device(extra: str) -> None:
    """Print the device of jax, as seen by a new process. Raise `RuntimeError` if it is not the GPU or TPU."""
    code = "import jax; print(jax.default_backend(), jax.device_count(), jax.__version__)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise RuntimeError(f"jax does not start:\n{result.stderr.strip()[-1000:]}")
    backend, count, jax = result.stdout.split()[-3:]
    if extra and backend == "cpu":
        raise RuntimeError(
            f"jax {jax} finds only the CPU, not the device for jax[{extra}]. Start a new machine "
            "(Runtime > Disconnect and delete runtime) and run the notebook again, or choose a runtime "
            f"without that device. The output of jax:\n{result.stderr.strip()[-1000:]}"
        )
    print(f"flax_ner {version('flax_ner')}, jax {jax} on {count} x {backend}.")


def minimum_jax(requirements: str) -> str:
    """Return the lower bound of jax in the text of a requirements.txt."""
    match = re.search(r"^jax>=([\d.]+)$", requirements, re.MULTILINE)
    if match is None:
        raise RuntimeError("requirements.txt has no line jax>=VERSION.")
    return match[1]


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version for comparison, (0, 10, 2) for "0.10.2.dev3"."""
    return tuple(map(int, re.findall(r"\d+", re.match(r"[\d.]*", version)[0]))) or (0,)


def version(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
