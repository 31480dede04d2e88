"""Faster forms, for CPUs, of the functions that decide the time of a search; importing the package registers them.

`growdarts.forms` says how a form is chosen. Nothing here has to be imported by name: where numba is installed,
`growdarts` finds the package by itself.
"""

from numba import config

if not config.DISABLE_JIT:  # the kernels are too slow as plain Python
    from growdarts_fast import loss, products, recurrent, two_input  # noqa: F401
    from growdarts_fast.conv import cell  # noqa: F401
