"""Compiled programs kept on disk: what was compiled once starts at once the next time."""

import os
from pathlib import Path

import jax

LIMIT = 2 << 30  # bytes, least recently used go first


def keep_compiled_programs() -> None:
    """Let jax keep compiled programs in the user's cache folder, `~/.cache/flax_ner/compiled`.

    For the commands; a program that imports flax_ner decides for itself. XDG_CACHE_HOME moves the
    folder, JAX_COMPILATION_CACHE_DIR names another and leaves its limits to jax, and
    JAX_ENABLE_COMPILATION_CACHE=false turns it off. A folder that cannot be written is done without.
    """
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "flax_ner" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", LIMIT)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
