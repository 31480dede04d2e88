"""Kernels of numba on the threads that torch computes with.

Between torch's operations its other threads wait so eagerly that threads of anybody else would not get their processors.
So a kernel is handed to these very threads, by the function that compilers call for `#pragma omp parallel`: GNU's and
LLVM's OpenMP both have it. Where torch has another OpenMP or none, a kernel stays on the thread that called it. As with
torch's own operations, a process that is forked later cannot use these threads: let it set one thread.

numba's cache (`__pycache__/*.nbi`) does not notice changes to functions of other modules: after one here, empty it.
"""

import ctypes
from pathlib import Path
from typing import Any

import numba
import torch
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# what compiled code calls: our names, bound at every start, since it may come from a cache that another torch has filled
_PARALLEL, _THREAD, _THREADS = "growdarts_parallel", "growdarts_thread", "growdarts_threads"
_OPENMP = {_PARALLEL: "GOMP_parallel", _THREAD: "omp_get_thread_num", _THREADS: "omp_get_num_threads"}

_INT, _NOTHING = ir.IntType(32), ir.VoidType()

_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_ALONE = {_PARALLEL: ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(
              lambda body, arguments, n, flags: _BODY(body)(arguments)),
          _THREAD: ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0), _THREADS: ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)}


def _openmp() -> dict[str, Any]:
    """The functions of torch's OpenMP by our names; empty without them."""
    # first those that are known everywhere, as torch found them
    for path in (None, str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")):
        try:
            library = ctypes.CDLL(path)
            return {name: getattr(library, known) for name, known in _OPENMP.items()}
        except (OSError, TypeError, AttributeError):  # not Linux; another OpenMP or none
            continue
    return {}


_functions = _openmp()
SHARED = bool(_functions)
for _name, _function in (_functions or _ALONE).items():
    binding.add_symbol(_name, ctypes.cast(_function, ctypes.c_void_p).value)


def lanes(rows: int) -> int:
    """How many threads a kernel is given that deals out so many rows."""
    return max(1, min(torch.get_num_threads(), rows)) if SHARED else 1


@numba.njit
def part(n: int, lane: int, of: int) -> tuple[int, int]:
    """Which of n rows are a lane's: from the first number to before the second.

    Rows, not columns: the processor fetches ahead along a row, and would take what another core is writing.
    """
    return n * lane // of, n * (lane + 1) // of


@intrinsic
def in_team(typing_context: Any, kernel: Any, arguments: Any, n: Any) -> Any:
    """kernel(lane, of, *arguments) on `of` threads at once, n or fewer, for each `lane` from 0 to `of` - 1.

    To be called by compiled functions. `kernel` is a compiled function that returns nothing; `arguments` is a tuple. A lane
    that fails, whatever for, ends in a RuntimeError when all are done.
    """
    called = kernel.get_call_type(typing_context, (types.intp, types.intp, *arguments.types), {})

    def build(context: Any, builder: Any, _: Any, values: Any) -> Any:
        _, packed, n = values
        compiled = kernel.dispatcher.get_compile_result(called)
        context.active_code_library.add_linking_library(compiled.library)
        room = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [packed, _INT(0)]))  # arguments, failures

        # what every thread runs: a function of the address of that room
        module = builder.module
        body = ir.Function(module, ir.FunctionType(_NOTHING, [cgutils.voidptr_t]), module.get_unique_name("in_team"))
        body.linkage = "internal"
        inside = ir.IRBuilder(body.append_basic_block())
        its_room = inside.bitcast(body.args[0], room.type)
        unpacked = cgutils.unpack_tuple(inside, inside.load(cgutils.gep_inbounds(inside, its_room, 0, 0)), len(arguments.types))
        for i, kind in enumerate(arguments.types):
            if isinstance(kind, types.Array):
                # without an owner, whose references every slice would count, all threads in one place
                array = context.make_array(kind)(context, inside, unpacked[i])
                array.meminfo = ir.Constant(array.meminfo.type, None)
                unpacked[i] = array._getvalue()
        numbers = [inside.call(cgutils.get_or_insert_function(module, ir.FunctionType(_INT, []), name), [])
                   for name in (_THREAD, _THREADS)]
        thread, threads = (inside.sext(number, cgutils.intp_t) for number in numbers)
        status, _ = context.call_internal_no_propagate(inside, compiled.fndesc, called, [thread, threads, *unpacked])
        with inside.if_then(status.is_error):
            inside.store(_INT(1), cgutils.gep_inbounds(inside, its_room, 0, 1))
        inside.ret_void()

        parallel = ir.FunctionType(_NOTHING, [cgutils.voidptr_t, cgutils.voidptr_t, _INT, _INT])
        builder.call(cgutils.get_or_insert_function(module, parallel, _PARALLEL),
                     [builder.bitcast(body, cgutils.voidptr_t), builder.bitcast(room, cgutils.voidptr_t),
                      builder.trunc(n, _INT), _INT(0)])
        failed = builder.load(cgutils.gep_inbounds(builder, room, 0, 1))
        with builder.if_then(cgutils.is_not_null(builder, failed), likely=False):
            context.call_conv.return_user_exc(builder, RuntimeError, (f"{kernel.dispatcher.py_func.__name__} failed",))
        return context.get_dummy_value()

    return types.void(kernel, arguments, types.intp), build
