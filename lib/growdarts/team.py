"""Kernels of numba on the threads that torch computes with.

Between torch's operations its other threads wait so eagerly that threads of anybody else would not get their processors.
So a kernel is handed to these very threads, by the function that compilers call for `#pragma omp parallel`: GNU's and
LLVM's OpenMP both have it. Where torch has another OpenMP or none, a kernel stays on the thread that called it.

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

_NAMES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
_INT, _NOTHING = ir.IntType(32), ir.VoidType()


def _found() -> bool:
    """Whether torch's OpenMP has them; kernels know them by their names from now on."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        addresses = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in _NAMES}
    except (OSError, AttributeError):  # not Linux; another OpenMP
        return False
    for name, address in addresses.items():
        binding.add_symbol(name, address)
    return True


SHARED = _found()


@numba.njit
def part(n: int, lane: int, of: int) -> tuple[int, int]:
    """Which of n rows are a lane's: from the first number to before the second.

    Rows, not columns: the processor fetches ahead along a row, and would take what another core is writing.
    """
    return n * lane // of, n * (lane + 1) // of


def lanes() -> int:
    """How many threads a kernel is given."""
    return torch.get_num_threads() if SHARED else 1


@intrinsic
def in_team(typing_context: Any, kernel: Any, arguments: Any, n: Any) -> Any:
    """kernel(lane, of, *arguments) on `of` threads at once, n or fewer, for each `lane` from 0 to `of` - 1.

    To be called by compiled functions. `kernel` is a compiled function that returns nothing and raises nothing; `arguments`
    is a tuple.
    """
    called = kernel.get_call_type(typing_context, (types.intp, types.intp, *arguments.types), {})

    def build(context: Any, builder: Any, _: Any, values: Any) -> Any:
        _, packed, n = values
        compiled = kernel.dispatcher.get_compile_result(called)
        context.active_code_library.add_linking_library(compiled.library)

        def call(inside: Any, room: Any, lane: Any, of: Any) -> None:
            unpacked = cgutils.unpack_tuple(inside, inside.load(room), len(arguments.types))
            for i, kind in enumerate(arguments.types):
                if isinstance(kind, types.Array):
                    # without an owner, whose references every slice would count, all threads in one place
                    array = context.make_array(kind)(context, inside, unpacked[i])
                    array.meminfo = ir.Constant(array.meminfo.type, None)
                    unpacked[i] = array._getvalue()
            context.call_internal_no_propagate(inside, compiled.fndesc, called,
                                               [inside.sext(i, cgutils.intp_t) for i in (lane, of)] + unpacked)

        room = cgutils.alloca_once_value(builder, packed)
        if not SHARED:
            call(builder, room, _INT(0), _INT(1))
            return context.get_dummy_value()
        # what every thread runs: a function of the address of the arguments
        module = builder.module
        run, thread, threads = (cgutils.get_or_insert_function(module, kind, name) for name, kind in zip(_NAMES, (
            ir.FunctionType(_NOTHING, [cgutils.voidptr_t, cgutils.voidptr_t, _INT, _INT]),
            ir.FunctionType(_INT, []), ir.FunctionType(_INT, [])), strict=True))
        body = ir.Function(module, ir.FunctionType(_NOTHING, [cgutils.voidptr_t]), module.get_unique_name("in_team"))
        body.linkage = "internal"
        inside = ir.IRBuilder(body.append_basic_block())
        call(inside, inside.bitcast(body.args[0], room.type), inside.call(thread, []), inside.call(threads, []))
        inside.ret_void()
        builder.call(run, [builder.bitcast(body, cgutils.voidptr_t), builder.bitcast(room, cgutils.voidptr_t),
                           builder.trunc(n, _INT), _INT(0)])
        return context.get_dummy_value()

    return types.void(kernel, arguments, n), build
