r"""The elementwise part of a mixed recurrent node, compiled by numba: its states, and their gradients; and all steps of a small cell.

With $g = \sigma(c)$ and $q_e = \sum_k w_{ek}$ a node computes, before its batch norm,

$$ z = \sum_e q_e s_j + g_e\, (m_e - q_e s_j), \qquad m_e = \sum_k w_{ek} f_k(u_e) . $$

No function allocates its results; each docstring says what is filled, overwritten or added to. With $\mu = e^{-u} - 1$
the activations are $\sigma(u) = 1 / (2 + \mu)$ and $\tanh u = -\mu (2 + \mu) / (2 + 2 \mu + \mu^2)$.

Shapes: B batch, H hidden, N nodes, L edges of a node. `products` (L, B, 2 H) are the c and u of every edge side by side;
`sources` (L,) the states that they come from; `w` (L, 4) the weights of tanh, relu, sigmoid, identity; `states`
(N + 1, B, H).
"""

import numba
import numpy as np

from growdarts_fast.exponentials import expm1
from growdarts_fast.products import add_small_product, inlined

COLUMNS = ("tanh", "relu", "sigmoid", "identity")  # of w

compiled = numba.njit(cache=True, error_model="numpy")  # sums are added up as they stand here


@compiled
def mix(states, sources, products, w, z):
    """z (B, H) of a node."""
    B, H = z.shape
    one, two, zero = z.dtype.type(1), z.dtype.type(2), z.dtype.type(0)
    for e in range(len(sources)):
        w_tanh, w_relu, w_sigmoid, w_identity = w[e]
        q = w_tanh + w_relu + w_sigmoid + w_identity
        for b in range(B):
            s_row, z_row, c_row, u_row = states[sources[e], b], z[b], products[e, b, :H], products[e, b, H:]
            if e == 0:
                z_row[:] = zero
            for h in range(H):
                u, g = u_row[h], one / (two + expm1(-c_row[h]))
                mu = expm1(-u)
                tanh = -mu * (two + mu) / (two + two * mu + mu * mu)
                m = w_tanh * tanh + w_relu * max(u, zero) + w_sigmoid / (two + mu) + w_identity * u
                kept = q * s_row[h]
                z_row[h] += kept + g * (m - kept)


@compiled
def mix_backward(states, sources, products, w, dz, d_states, dw, wants_w):
    """From the gradient dz (B, H) of a node: those by `products`, in their place; by w, added to `dw` (L, 4) if wanted; by
    the states, except through the products, added to `d_states`."""
    B, H = dz.shape
    one, two, zero = dz.dtype.type(1), dz.dtype.type(2), dz.dtype.type(0)
    by_tanh, by_relu, by_sigmoid, by_identity = np.zeros((4, H), dz.dtype)
    g, mu, sigma, tanh = np.empty((4, H), dz.dtype)
    for e in range(len(sources)):
        w_tanh, w_relu, w_sigmoid, w_identity = w[e]
        q = w_tanh + w_relu + w_sigmoid + w_identity
        for b in range(B):
            s_row, d_row, dz_row = states[sources[e], b], d_states[sources[e], b], dz[b]
            c_row, u_row = products[e, b, :H], products[e, b, H:]
            # one result a loop: with more of them the compiler gives up on vector instructions
            for h in range(H):
                g[h] = one / (two + expm1(-c_row[h]))
            for h in range(H):
                mu[h] = expm1(-u_row[h])
            for h in range(H):
                tanh[h] = -mu[h] * (two + mu[h]) / (two + two * mu[h] + mu[h] * mu[h])
            for h in range(H):
                sigma[h] = one / (two + mu[h])
            if wants_w:
                for h in range(H):
                    d_mixed = g[h] * dz_row[h]
                    d_kept = (dz_row[h] - d_mixed) * s_row[h]
                    by_tanh[h] += d_mixed * tanh[h] + d_kept
                    by_relu[h] += d_mixed * max(u_row[h], zero) + d_kept
                    by_sigmoid[h] += d_mixed * sigma[h] + d_kept
                    by_identity[h] += d_mixed * u_row[h] + d_kept
            for h in range(H):
                m = w_tanh * tanh[h] + w_relu * max(u_row[h], zero) + w_sigmoid * sigma[h] + w_identity * u_row[h]
                c_row[h] = dz_row[h] * (m - q * s_row[h]) * g[h] * (one - g[h])
            for h in range(H):
                d_row[h] += q * dz_row[h] * (one - g[h])
            for h in range(H):
                slope = (w_tanh * (one - tanh[h] * tanh[h]) + (w_relu if u_row[h] > zero else zero)
                         + w_sigmoid * sigma[h] * (one - sigma[h]) + w_identity)
                u_row[h] = dz_row[h] * g[h] * slope
        if wants_w:
            for k, by in enumerate((by_tanh, by_relu, by_sigmoid, by_identity)):
                dw[e, k] += by.sum()
                by[:] = zero


@compiled
def normalise(z, mean, variance, eps, train, state):
    """Batch norm of z (B, H) into `state`, by its own `mean` and `variance` (H,), which it fills, in train mode.

    In float64: what float32 would lose of them is lost for all samples of a unit alike, and in every later time step.
    """
    B, H = z.shape
    centre, spread = mean.astype(np.float64), variance.astype(np.float64)
    if train:
        centre[:], spread[:] = 0, 0
        for b in range(B):
            for h in range(H):
                centre[h] += z[b, h]
        centre /= B
        for b in range(B):
            for h in range(H):
                spread[h] += (z[b, h] - centre[h]) ** 2
        spread /= B
        mean[:], variance[:] = centre, spread
    scale = 1 / np.sqrt(spread + eps)
    for b in range(B):
        for h in range(H):
            state[b, h] = (z[b, h] - centre[h]) * scale[h]


@compiled
def normalise_backward(ds, state, variance, eps, train, dz):
    """Gradient dz (B, H) by what went into a batch norm, from `ds` by the `state` that came out."""
    B, H = ds.shape
    scale = (1 / np.sqrt(variance + eps)).astype(ds.dtype)
    along_one, along_state = np.zeros((2, H))
    if train:
        for b in range(B):
            for h in range(H):
                along_one[h] += ds[b, h]
                along_state[h] += ds[b, h] * state[b, h]
    one, by_state = (along_one / B).astype(ds.dtype), (along_state / B).astype(ds.dtype)
    for b in range(B):
        for h in range(H):
            dz[b, h] = (ds[b, h] - one[h] - state[b, h] * by_state[h]) * scale[h]


@compiled
def add_at(d_states, sources, values, mask):
    """d_states[sources] += values * mask, values (L, B, H), mask (B, H)."""
    for e in range(len(sources)):
        for b in range(values.shape[1]):
            row, value = d_states[sources[e], b], values[e, b]
            for h in range(len(row)):
                row[h] += value[h] * mask[b, h]


_mix, _mix_backward, _normalise, _normalise_backward, _add_at = (
    inlined(function.py_func) for function in (mix, mix_backward, normalise, normalise_backward, add_at))


@compiled
def scan(sources, weights, ends, w, r, eps, train, Ws, U, wx, mask, first, hidden, states, read, products, means, variances):
    """All time steps of a cell whose products are small: to call a library for each of them would take longer.

    sources, weights (L,) say what every edge reads and is multiplied by, ends (N + 1,) where a node's edges begin and end. Ws (n, H, 2 H).
    All others: see `growdarts_fast.recurrent`. From `first` on they are filled.
    """
    (B, H), two = mask.shape, wx.dtype.type(2)
    z, dropped = np.empty((B, H), wx.dtype), np.empty((B, H), wx.dtype)
    for t in range(len(wx)):
        dropped[:] = hidden[t] * mask
        first[t] = wx[t]
        add_small_product(first[t], dropped, U)
        for b in range(B):
            for h in range(H):
                mu, s = expm1(-first[t, b, H + h]), hidden[t, b, h]
                tanh = -mu * (two + mu) / (two + two * mu + mu * mu)
                z[b, h] = s + (tanh - s) / (two + expm1(-first[t, b, h]))
        hidden[t + 1] = 0
        for i in range(len(ends)):
            if i > 0:
                edges = slice(ends[i - 1], ends[i])
                for e in range(edges.start, edges.stop):
                    products[t, e] = 0
                    add_small_product(products[t, e], read[t, sources[e]], Ws[weights[e]])
                _mix(states[t], sources[edges], products[t, edges], w[edges], z)
            state = states[t, i]
            _normalise(z, means[t, i], variances[t, i], eps, train, state)
            for b in range(B):
                for h in range(H):
                    read[t, i, b, h] = state[b, h] * mask[b, h]
                    if i > 0:
                        hidden[t + 1, b, h] += r[i - 1] * state[b, h]


@compiled
def scan_backward(sources, weights, ends, w, r, eps, train, Ws, U, grad, mask, first, hidden, states, products, variances, dhs, dw, wants_w):
    """Back through `scan`, of transposed weights Ws (n, 2 H, H) and U (2 H, H): from `grad` (T, B, H) by h_1 .. h_T to the total gradients
    `dhs` by h_0 .. h_T, whose last is zero before. Gradients by `products` and `first` take their place; those by w are added to
    `dw` (L, 4) if wanted."""
    (B, H), one, two = mask.shape, mask.dtype.type(1), mask.dtype.type(2)
    ds, dz, back = np.empty(states.shape[1:], grad.dtype), np.empty((B, H), grad.dtype), np.empty((1, B, H), grad.dtype)
    for t in range(len(grad) - 1, -1, -1):
        dhs[t + 1] += grad[t]
        ds[0] = 0
        for i in range(len(r)):
            ds[i + 1] = r[i] * dhs[t + 1]
        for i in range(len(r), -1, -1):
            _normalise_backward(ds[i], states[t, i], variances[t, i], eps, train, dz)
            if i > 0:
                edges = slice(ends[i - 1], ends[i])
                _mix_backward(states[t], sources[edges], products[t, edges], w[edges], dz, ds, dw[edges], wants_w)
                for e in range(edges.start, edges.stop):
                    back[:] = 0
                    add_small_product(back[0], products[t, e], Ws[weights[e]])
                    _add_at(ds, sources[e:e + 1], back, mask)
        for b in range(B):
            for h in range(H):
                mu, gate = expm1(-first[t, b, H + h]), one / (two + expm1(-first[t, b, h]))
                tanh = -mu * (two + mu) / (two + two * mu + mu * mu)
                first[t, b, h] = dz[b, h] * (tanh - hidden[t, b, h]) * gate * (one - gate)
                first[t, b, H + h] = dz[b, h] * gate * (one - tanh * tanh)
                dhs[t, b, h] = dz[b, h] * (one - gate)
        back[:] = 0
        add_small_product(back[0], first[t], U)
        for b in range(B):
            for h in range(H):
                dhs[t, b, h] += back[0, b, h] * mask[b, h]
