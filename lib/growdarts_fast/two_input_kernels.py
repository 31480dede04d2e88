r"""The elementwise part of a two-input node, compiled by numba: its mixture and the gradients by it.

For the operations of `CODES`; what they compute is said in `growdarts.spaces.two_input.operations`. With a = W x + b + U s, or
a = (W x + b) (1 + U s) for those that begin with `mul_`, what a node keeps of a sample is a row of `kept` (n, R), with H
columns for every weight its operations own:

* tanh, sigmoid, gate, update: tanh(a) or sigmoid(a);
* relu, identity: a;
* hadamard: U s, with its W x + b in `inputs`, where the `mul_` operations have W x + b and then U s.

`s` (n, H) is the state that the node reads, `w` (K,) are the mixture weights, `codes` (K,) says which
operation, `starts` and `places` (K,) where its columns in `kept` and in `inputs` begin.

All functions fill arrays that are given or add to them. Shapes: n samples (or time steps times samples), H hidden, K
operations, R columns.
"""

import numpy as np

from growdarts_fast.conv.norm_kernels import compiled, dot
from growdarts_fast.exponentials import expm1

CODES = {name: code for code, name in enumerate(
    ("add_tanh", "add_sigmoid", "add_relu", "add_identity", "hadamard", "gate", "gated_update", "carry"))}
TANH, SIGMOID, RELU, IDENTITY, HADAMARD, GATE, UPDATE, CARRY = CODES.values()
MULTIPLIED = len(CODES)  # what a code has more if a is a product
CODES |= {name.replace("add", "mul"): code + MULTIPLIED for name, code in CODES.items() if name.startswith("add_")}


# Operation by operation and only then row by row: the other way round takes three times as long.

@compiled
def _multiply(first, place, kept, inputs, H):
    """a = (W x + b) (1 + U s) takes the place of U s, of which `inputs` gets a copy."""
    one = kept.dtype.type(1)
    for i in range(len(kept)):
        a, x, u = kept[i, first:first + H], inputs[i, place:place + H], inputs[i, place + H:place + 2 * H]
        for h in range(H):
            u[h] = a[h]
            a[h] = x[h] * (one + u[h])


@compiled
def _multiply_backward(first, place, kept, inputs, H):
    """The gradient by a becomes those by U s and, in `inputs`, by W x + b."""
    one = kept.dtype.type(1)
    for i in range(len(kept)):
        a, x, u = kept[i, first:first + H], inputs[i, place:place + H], inputs[i, place + H:place + 2 * H]
        for h in range(H):
            x[h], a[h] = a[h] * (one + u[h]), a[h] * x[h]


@compiled
def _activate(code, first, kept, H):
    """sigmoid and tanh of what an operation looks at through nothing else, in place."""
    one, two, last = kept.dtype.type(1), kept.dtype.type(2), first + H
    for i in range(len(kept)):
        if code == SIGMOID or code == GATE or code == UPDATE:
            a = kept[i, first:last]
            for h in range(H):
                a[h] = one / (two + expm1(-a[h]))
        if code == TANH or code == UPDATE:
            a = kept[i, last:last + H] if code == UPDATE else kept[i, first:last]
            for h in range(H):
                a[h] = expm1(two * a[h])
            for h in range(H):
                a[h] = a[h] / (two + a[h])


@compiled
def _add_output(code, first, place, kept, inputs, s, share, out):
    """`out` (n, H) += `share` o."""
    n, H = s.shape
    zero, last = out.dtype.type(0), first + H
    for i in range(n):
        row, state = out[i], s[i]
        if code == CARRY:
            for h in range(H):
                row[h] += share * state[h]
            continue
        a = kept[i, first:last]
        if code == RELU:
            for h in range(H):
                row[h] += share * (zero if a[h] < zero else a[h])
        elif code == HADAMARD:
            x = inputs[i, place:place + H]
            for h in range(H):
                row[h] += share * x[h] * a[h]
        elif code == GATE:
            for h in range(H):
                row[h] += share * a[h] * state[h]
        elif code == UPDATE:
            candidate = kept[i, last:last + H]
            for h in range(H):
                row[h] += share * (state[h] + a[h] * (candidate[h] - state[h]))
        else:  # tanh, sigmoid, identity
            for h in range(H):
                row[h] += share * a[h]


@compiled
def _add_gradients(code, first, place, kept, inputs, s, share, ds, back, scratch):
    """Gradients through `share` o: they replace its columns of `kept` and `inputs`; that by s is added to `back`."""
    n, H = s.shape
    one, zero, last = s.dtype.type(1), s.dtype.type(0), first + H
    for i in range(n):
        state, gradient, by_state = s[i], ds[i], back[i]
        if code == CARRY:
            for h in range(H):
                by_state[h] += share * gradient[h]
            continue
        a = kept[i, first:last]
        if code == TANH:
            for h in range(H):
                a[h] = share * (one - a[h] * a[h]) * gradient[h]
        elif code == SIGMOID:
            for h in range(H):
                a[h] = share * a[h] * (one - a[h]) * gradient[h]
        elif code == RELU:
            for h in range(H):
                a[h] = share * gradient[h] if a[h] > zero else zero
        elif code == IDENTITY:
            for h in range(H):
                a[h] = share * gradient[h]
        elif code == HADAMARD:
            x = inputs[i, place:place + H]
            for h in range(H):
                scratch[h] = a[h]
            for h in range(H):
                a[h] = share * x[h] * gradient[h]
            for h in range(H):
                x[h] = share * scratch[h] * gradient[h]
        elif code == GATE:
            for h in range(H):
                by_state[h] += share * a[h] * gradient[h]
            for h in range(H):
                a[h] = share * a[h] * (one - a[h]) * state[h] * gradient[h]
        else:  # update
            candidate = kept[i, last:last + H]
            for h in range(H):
                by_state[h] += share * (one - a[h]) * gradient[h]
            for h in range(H):
                scratch[h] = share * a[h] * (one - candidate[h] * candidate[h]) * gradient[h]
            for h in range(H):
                a[h] = share * a[h] * (one - a[h]) * (candidate[h] - state[h]) * gradient[h]
            for h in range(H):
                candidate[h] = scratch[h]


@compiled
def mix(codes, starts, places, kept, inputs, s, w, z):
    """z (n, H) = sum_o w_o o, the node's next state; added up in float64, as later time steps make more of what is lost.

    `kept` has a in place of sigmoid(a) and tanh(a), which it gets; of the `mul_` operations it has U s.
    """
    total = np.zeros(s.shape)
    for o in range(len(codes)):
        code = codes[o] % MULTIPLIED
        if codes[o] >= MULTIPLIED:
            _multiply(starts[o], places[o], kept, inputs, s.shape[1])
        _activate(code, starts[o], kept, s.shape[1])
        _add_output(code, starts[o], places[o], kept, inputs, s, np.float64(w[o]), total)
    z[:] = total


@compiled
def mix_backward(codes, starts, places, kept, inputs, s, w, ds, back, dw, wants_w):
    """From the loss's gradient `ds` (n, H) by the node's next state: those by U s and, where they are not the same, by
    W x + b, in the place of `kept` and `inputs`; `back` (n, H) by the state s, except through U; those by the mixture weights,
    added to `dw` (K,) of float64, if wanted."""
    n, H = s.shape
    one, out, scratch = s.dtype.type(1), np.empty_like(s), np.empty(H, s.dtype)
    back[:] = back.dtype.type(0)
    for o in range(len(codes)):
        code = codes[o] % MULTIPLIED
        if wants_w:
            out[:] = out.dtype.type(0)
            _add_output(code, starts[o], places[o], kept, inputs, s, one, out)
            by_share = 0.0
            for i in range(n):
                by_share += dot(ds[i], out[i])
            dw[o] += by_share
        _add_gradients(code, starts[o], places[o], kept, inputs, s, w[o], ds, back, scratch)
        if codes[o] >= MULTIPLIED:
            _multiply_backward(starts[o], places[o], kept, inputs, H)
