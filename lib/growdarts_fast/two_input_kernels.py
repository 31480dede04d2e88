r"""The elementwise part of a two-input node, compiled by numba: its mixture and the gradients by it.

For the operations of `CODES`; what they compute is said in `growdarts.spaces.two_input.operations`. What a node keeps of a
time step is a row of blocks of n numbers, `kept`, and an operation's blocks in it are, with a = W x + b + U s,

* add_tanh, ...: tanh(a), sigmoid(a), relu(a) or a;
* mul_tanh, ..., hadamard: U s and W x + b;
* gate: sigmoid(a); gated_update: sigmoid(a) and tanh(a) of its two;
* carry: none.

`s` is the state that the node reads, `w` (K,) are the mixture weights, `codes` (K,) says which operation, `firsts` (K,) where
its blocks begin. Loops run over no more numbers than stay in the cache.

All functions fill arrays that are given or add to them. Shapes: n numbers of a state, H times the samples, K operations.
"""

import numba
import numpy as np

from growdarts_fast.conv import norm_kernels
from growdarts_fast.conv.norm_kernels import compiled
from growdarts_fast.exponentials import expm1

CODES = {name: code for code, name in enumerate(
    ("add_tanh", "add_sigmoid", "add_relu", "add_identity", "mul_tanh", "mul_sigmoid", "mul_relu", "mul_identity", "hadamard",
     "gate", "gated_update", "carry"))}
TANH, SIGMOID, RELU, IDENTITY, PRODUCT, _, _, _, HADAMARD, GATE, UPDATE, CARRY = CODES.values()
MULTIPLIED = [name for name, code in CODES.items() if PRODUCT <= code <= HADAMARD]  # they multiply W x + b by U s

BLOCK = 1024  # numbers at once

# A function that is called has code of its own and code within its caller, rounded differently: which of the two runs would depend
# on whether this process has compiled them, or found them in numba's cache.
inlined = numba.njit(inline="always", nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})
dot = inlined(norm_kernels.dot.py_func)


@inlined
def _activate(code, a):
    """tanh, sigmoid or relu in place."""
    one, two, zero = a.dtype.type(1), a.dtype.type(2), a.dtype.type(0)
    if code == TANH:
        for i in range(len(a)):
            e = expm1(two * a[i])
            a[i] = e / (two + e)
    elif code == SIGMOID:
        for i in range(len(a)):
            a[i] = one / (two + expm1(-a[i]))
    elif code == RELU:
        for i in range(len(a)):
            a[i] = zero if a[i] < zero else a[i]


@inlined
def _activation(code):
    """What is applied to the product (W x + b) (bias + U s), and the bias."""
    return (IDENTITY, 0) if code == HADAMARD else (code - PRODUCT, 1)


@inlined
def _output(code, a, b, s, out):
    """o from its blocks `a` and `b`: one of the arguments, possibly `out`, which it may fill."""
    if code < PRODUCT:
        return a
    if code == CARRY:
        return s
    if code == GATE:
        for i in range(len(s)):
            out[i] = a[i] * s[i]
    elif code == UPDATE:
        for i in range(len(s)):
            out[i] = s[i] + a[i] * (b[i] - s[i])
    else:
        activation, bias = _activation(code)
        start = s.dtype.type(bias)
        for i in range(len(s)):
            out[i] = b[i] * (start + a[i])
        _activate(activation, out)
    return out


@inlined
def _through_activation(code, a, share, ds):
    """From tanh, sigmoid or relu to the gradient through it, in place."""
    one, zero = a.dtype.type(1), a.dtype.type(0)
    if code == TANH:
        for i in range(len(a)):
            a[i] = share * (one - a[i] * a[i]) * ds[i]
    elif code == SIGMOID:
        for i in range(len(a)):
            a[i] = share * a[i] * (one - a[i]) * ds[i]
    elif code == RELU:
        for i in range(len(a)):
            a[i] = share * ds[i] if a[i] > zero else zero
    else:
        for i in range(len(a)):
            a[i] = share * ds[i]


@inlined
def _add_gradients(code, a, b, s, out, share, ds, back):
    """Gradients through `share` o: they replace `a` and `b`; that by s is added to `back`. `out` is o, which is lost."""
    one = s.dtype.type(1)
    if code < PRODUCT:
        _through_activation(code, a, share, ds)
    elif code == CARRY:
        for i in range(len(s)):
            back[i] += share * ds[i]
    elif code == GATE:
        for i in range(len(s)):
            through = share * a[i] * ds[i]
            back[i] += through
            a[i] = (one - a[i]) * s[i] * through
    elif code == UPDATE:
        for i in range(len(s)):
            back[i] += share * (one - a[i]) * ds[i]
        for i in range(len(s)):
            through = share * a[i] * ds[i]
            a[i] = (one - a[i]) * (b[i] - s[i]) * through
            b[i] = (one - b[i] * b[i]) * through
    else:
        activation, bias = _activation(code)
        start = s.dtype.type(bias)
        _through_activation(activation, out, share, ds)
        for i in range(len(s)):
            by_us = b[i] * out[i]
            b[i] = (start + a[i]) * out[i]
            a[i] = by_us


@compiled
def mix(codes, firsts, kept, s, w, z):
    """z (n,) = sum_o w_o o, the node's next state; added up in float64, as later time steps make more of what is lost.

    `kept` has a in place of what is kept of it.
    """
    n, out, total = len(s), np.empty(BLOCK, s.dtype), np.empty(BLOCK)
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        state, sums, next_state = s[start:start + m], total[:m], z[start:start + m]
        sums[:] = 0
        for o in range(len(codes)):
            code, first, share = codes[o], firsts[o] * n + start, np.float64(w[o])
            a, b = kept[first:first + m], kept[first + n:first + n + m]
            _activate(SIGMOID if code == GATE or code == UPDATE else code, a)
            if code == UPDATE:
                _activate(TANH, b)
            output = _output(code, a, b, state, out[:m])
            for i in range(m):
                sums[i] += share * output[i]
        for i in range(m):
            next_state[i] = sums[i]


@compiled
def mix_backward(codes, firsts, kept, s, w, ds, back, dw):
    """From the loss's gradient `ds` (n,) by the node's next state: those by U s and W x + b in the place of `kept`; that
    by the state s, except through U, added to `back` (n,); those by the mixture weights, added to `dw` (K,) of float64."""
    n, scratch = len(s), np.empty(BLOCK, s.dtype)
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        state, gradient, by_state, out = s[start:start + m], ds[start:start + m], back[start:start + m], scratch[:m]
        for o in range(len(codes)):
            first = firsts[o] * n + start
            a, b = kept[first:first + m], kept[first + n:first + n + m]
            dw[o] += dot(gradient, _output(codes[o], a, b, state, out))
            _add_gradients(codes[o], a, b, state, out, w[o], gradient, by_state)
