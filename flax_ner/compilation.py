"""Compiled programs kept on disk: what was compiled once starts at once the next time."""

import os
from pathlib import Path

import jax

LIMIT = 2 << 30  # bytes, least recently used go first


def keep_compiled_programs() -> None:
    """Let jax keep compiled programs in the user's cache folder, `~/.cache/flax_ner/compiled`.

    For the commands; a program that imports flax_ner decides for itself. XDG_CACHE_HOME moves the
    folder, JAX_COMPILATION_CACHE_DIR names another and leaves everything to jax, and
    JAX_ENABLE_COMPILATION_CACHE=false turns it off. A folder that cannot be written is done without.
    """
    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] or not settings["jax_enable_compilation_cache"]:
        return
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "flax_ner" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in {
        "jax_compilation_cache_max_size": LIMIT,
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
