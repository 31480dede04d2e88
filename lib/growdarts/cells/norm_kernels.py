r"""The batch norms of a mixed convolutional edge, compiled by numba: of small matrices, and of pools row by row.

All functions fill arrays that are given. Shapes: C channels, d (R, n) with R rows, W (C, R).
"""

import numpy as np

from growdarts.cells.conv_kernels import compiled


@compiled
def moments(gram, total, W, n, inner, WS, mean, variance):
    r"""Mean and biased variance (C,) of W d from $d d^\top$ and the sums of d's rows, and `inner` mean and W cov(d)."""
    W = W.astype(np.float64)
    inner[:] = total / n
    WS[:] = np.dot(W, gram / n - np.outer(inner, inner))
    mean[:] = np.dot(W, inner)
    variance[:] = np.maximum((W * WS).sum(axis=1), 0.0)


@compiled
def normalise_backward(P, g_sum, mean, scale, W, WS, inner, weight, n, train, A, B, k, dW):
    r"""Coefficients of the gradient by d and the gradient by W of `weight` * BN(W d); returns that by `weight`.

    With $P = G d^\top$, G the gradient by the result and s its product with the normalised values, per channel,

    $$ \partial d = A^\top G + B d + k, \qquad A = \mathrm{diag}(v) W, \qquad
       B = -\tfrac1n W^\top \mathrm{diag}(v\, scale\, s) W, \qquad v = weight \cdot scale . $$
    """
    W = W.astype(np.float64)
    s, v = scale * ((P * W).sum(axis=1) - mean * g_sum), weight * scale
    A[:], dW[:] = v.reshape(-1, 1) * W, v.reshape(-1, 1) * P
    B[:], k[:] = 0, 0
    if train:
        h = v * scale * s
        dW -= np.outer(v * g_sum, inner) + h.reshape(-1, 1) * WS
        k[:] = np.dot((h * mean - v * g_sum) / n, W)
        B[:] = -np.dot(np.ascontiguousarray(W.T), (h / n).reshape(-1, 1) * W)
    return s.sum()


@compiled
def add_normalised(d, weight, eps, train, mean, variance, out):
    """out += weight * batch norm of d, (C, n) each; fills mean and variance (C,) in train mode."""
    C, n = d.shape
    for c in range(C):
        x, result = d[c], out[c]
        if train:
            total = d.dtype.type(0)
            for i in range(n):
                total += x[i]
            mean[c], total, centre = total / n, d.dtype.type(0), d.dtype.type(total / n)
            for i in range(n):
                total += (x[i] - centre) * (x[i] - centre)
            variance[c] = total / n
        factor = weight / np.sqrt(variance[c] + eps)
        scale, constant = d.dtype.type(factor), d.dtype.type(-factor * mean[c])
        for i in range(n):
            result[i] += scale * x[i] + constant


@compiled
def add_normalised_backward(d, G, g_sum, mean, scale, weight, train, g, by_weight):
    """From the gradient G by the sum that `add_normalised` added to: g by d, and for each channel that by the weight."""
    C, n = d.shape
    for c in range(C):
        x, top, result, s = d[c], G[c], g[c], d.dtype.type(0)
        for i in range(n):
            s += top[i] * x[i]
        by_weight[c] = scale[c] * (s - mean[c] * g_sum[c])
        v = weight * scale[c]
        along = v * scale[c] * by_weight[c] / n if train else 0.0
        constant = d.dtype.type(along * mean[c] - v * g_sum[c] / n if train else 0.0)
        by_top, by_x = d.dtype.type(v), d.dtype.type(-along)
        for i in range(n):
            result[i] = by_top * top[i] + by_x * x[i] + constant
