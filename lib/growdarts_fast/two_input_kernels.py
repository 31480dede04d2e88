r"""The steps of two-input nodes, compiled by numba: mixtures and the gradients by them, with the products where these are small.

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

import numpy as np

from growdarts_fast.conv import norm_kernels
from growdarts_fast.conv.norm_kernels import compiled
from growdarts_fast.exponentials import expm1
from growdarts_fast.products import add_small_product, inlined

CODES = {name: code for code, name in enumerate(
    ("add_tanh", "add_sigmoid", "add_relu", "add_identity", "mul_tanh", "mul_sigmoid", "mul_relu", "mul_identity", "hadamard",
     "gate", "gated_update", "carry"))}
TANH, SIGMOID, RELU, IDENTITY, PRODUCT, _, _, _, HADAMARD, GATE, UPDATE, CARRY = CODES.values()
MULTIPLIED = [name for name, code in CODES.items() if PRODUCT <= code <= HADAMARD]  # they multiply W x + b by U s

BLOCK = 1024  # numbers at once

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


@inlined
def _mix(codes, firsts, kept, s, w, z):
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


@inlined
def _mix_backward(codes, firsts, kept, s, w, ds, back, dw):
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


@inlined
def _add_outer(out, x, y):
    """out (R, C) += x y^T of (R, n) and (C, n), four columns at once."""
    (R, n), C = x.shape, len(y)
    fours = C // 4 * 4
    for r in range(R):
        row = x[r]
        for c in range(0, fours, 4):
            y0, y1, y2, y3 = y[c], y[c + 1], y[c + 2], y[c + 3]
            s0 = s1 = s2 = s3 = x.dtype.type(0)
            for i in range(n):
                s0 += row[i] * y0[i]
                s1 += row[i] * y1[i]
                s2 += row[i] * y2[i]
                s3 += row[i] * y3[i]
            out[r, c] += s0
            out[r, c + 1] += s1
            out[r, c + 2] += s2
            out[r, c + 3] += s3
        for c in range(fours, C):
            out[r, c] += dot(row, y[c])


@compiled
def scan(codes, firsts, ends, rows, weights, w, kept, chain, H, steps, products):
    """The nodes' steps `steps` (first, last), of T N in the order of `chain` (T N + 1, C, B), which has what they read one after another.

    ends, rows (N + 1,): where a node's operations and its rows of `weights` (R, C) begin and end. kept (T, R, B): the products, made
    first if `products` is true.
    """
    N = len(ends) - 1
    for k in range(steps[0], steps[1]):
        j, t = k % N, k // N
        sums, of_node = kept[t, rows[j]:rows[j + 1]], slice(ends[j], ends[j + 1])
        if products:
            sums[:] = 0
            add_small_product(sums, weights[rows[j]:rows[j + 1]], chain[k])
        _mix(codes[of_node], firsts[of_node], sums.reshape(-1), chain[k, :H].reshape(-1), w[of_node], chain[k + 1, :H].reshape(-1))


@compiled
def scan_backward(codes, firsts, ends, rows, weights, w, kept, chain, H, steps, products, by_chain, by_weights, dw):
    """Back through `scan`: from the loss's gradient by the last node's states, in `by_chain` (T N + 1, H or more, B) in their place and
    zero elsewhere, to that by as many rows of all of `chain`, if `products` is true also through these; then that by `weights`
    is added to `by_weights`, unless it has no rows. That by `w` is added to `dw` of float64, `kept` has the one by the products."""
    N, used = len(ends) - 1, by_chain.shape[1]
    for k in range(steps[1] - 1, steps[0] - 1, -1):
        j, t = k % N, k // N
        gradient, of_node = kept[t, rows[j]:rows[j + 1]], slice(ends[j], ends[j + 1])
        _mix_backward(codes[of_node], firsts[of_node], gradient.reshape(-1), chain[k, :H].reshape(-1), w[of_node],
                      by_chain[k + 1, :H].reshape(-1), by_chain[k, :H].reshape(-1), dw[of_node])
        if products:
            add_small_product(by_chain[k], weights[rows[j]:rows[j + 1], :used].T, gradient)
            if len(by_weights):
                _add_outer(by_weights[rows[j]:rows[j + 1]], gradient, chain[k])
