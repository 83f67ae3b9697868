"""Keep compiled programs on disk, so that later commands do not compile them again."""

import os
from pathlib import Path

import jax

MAX_CACHE_BYTES = 2 << 30  # the least recently used programs are removed first


def keep_compiled_programs() -> None:
    """Enable jax's persistent compilation cache in `~/.cache/flax_ner/compiled`.

    Commands call it; a program that imports flax_ner configures jax itself. XDG_CACHE_HOME moves the
    cache. JAX_COMPILATION_CACHE_DIR chooses another folder and leaves all settings to jax, and
    JAX_ENABLE_COMPILATION_CACHE=false disables the cache. If the folder is not writable, nothing is cached.
    """
    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] or not settings["jax_enable_compilation_cache"]:
        return
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "flax_ner" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in {
        "jax_compilation_cache_max_size": MAX_CACHE_BYTES,
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
