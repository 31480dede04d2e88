"""Faster forms, for CPUs, of the functions that decide the time of a search; importing the package registers them.

`growdarts.forms` says how a form is chosen. Nothing here has to be imported by name: where numba is installed,
`growdarts` finds the package by itself. numba's cache does not notice a change in a function of another file: after one in a
kernel that others call (`exponentials`, `conv.norm_kernels`), delete `__pycache__/*.nb?`.
"""

import atexit
import os
import shutil
import tempfile

import numba


def _find_a_cache() -> None:
    """Without a folder for its cache numba compiles nothing: where neither this package's folder nor the user's can be
    written to, a temporary one serves until Python ends. `NUMBA_CACHE_DIR` names one that is kept."""
    try:
        numba.njit(_find_a_cache, cache=True)
    except RuntimeError:
        os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="growdarts-")
        atexit.register(shutil.rmtree, numba.config.CACHE_DIR, ignore_errors=True)


if not numba.config.DISABLE_JIT:  # the kernels are too slow as plain Python
    _find_a_cache()  # before anything is compiled
    from growdarts_fast import loss, products, recurrent, two_input  # noqa: F401
    from growdarts_fast.conv import cell  # noqa: F401
