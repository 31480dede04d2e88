r"""The batch norms of a mixed convolutional edge, compiled by numba: of small matrices, and of pools row by row.

All functions fill arrays that are given. Shapes: C channels, d (R, n) with R rows, W (C, R).
"""

import numpy as np

from growdarts.cells.conv_kernels import compiled


@compiled
def moments(gram, total, W, n, inner, WS, mean, variance):
    r"""Mean and biased variance (C,) of W d from $d d^\top$ and the sums of d's rows, and `inner` mean and W cov(d)."""
    C, R = W.shape
    for r in range(R):
        inner[r] = total[r] / n
    WS[:] = 0
    for c in range(C):
        for q in range(R):
            for r in range(R):
                WS[c, r] += W[c, q] * (gram[q, r] / n - inner[q] * inner[r])
        mean[c], variance[c] = 0, 0
        for r in range(R):
            mean[c] += W[c, r] * inner[r]
            variance[c] += W[c, r] * WS[c, r]
        variance[c] = max(variance[c], 0.0)


@compiled
def normalise_backward(P, g_sum, mean, scale, W, WS, inner, weight, n, train, A, B, k, dW):
    r"""Coefficients of the gradient by d and the gradient by W of `weight` * BN(W d); returns that by `weight`.

    With $P = G d^\top$, G the gradient by the result and s its product with the normalised values, per channel,

    $$ \partial d = A^\top G + B d + k, \qquad A = \mathrm{diag}(v) W, \qquad
       B = -\tfrac1n W^\top \mathrm{diag}(v\, scale\, s) W, \qquad v = weight \cdot scale . $$
    """
    C, R = W.shape
    B[:], k[:] = 0, 0
    by_weight = 0.0
    for c in range(C):
        s = 0.0
        for r in range(R):
            s += P[c, r] * W[c, r]
        s = scale[c] * (s - mean[c] * g_sum[c])
        by_weight += s
        v = weight * scale[c]
        for r in range(R):
            A[c, r] = v * W[c, r]
            dW[c, r] = v * P[c, r]
        if train:
            h = v * scale[c] * s
            constant = (h * mean[c] - v * g_sum[c]) / n
            for r in range(R):
                dW[c, r] -= v * g_sum[c] * inner[r] + h * WS[c, r]
                k[r] += W[c, r] * constant
                for q in range(R):
                    B[r, q] -= W[c, r] * (h / n) * W[c, q]
    return by_weight


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
