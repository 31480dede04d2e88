r"""Batch norms of pixels that are never stored, and the products of small matrices with long rows; compiled by numba.

The batch norm of W d is linear once its statistics are known, and these follow from the moments of d,

$$ \mathrm{mean} = W \bar d, \qquad \mathrm{var} = \mathrm{diag}(W \mathrm{cov}(d) W^\top), \qquad
   \mathrm{BN}(W d) = \mathrm{diag}(scale)\, (W d - \mathrm{mean}), \quad scale = (\mathrm{var} + \epsilon)^{-1/2} . $$

So neither W d nor its normalised form need exist, forward or backward: both are products of small matrices with d. What a
pass knows of such a norm is an array `known` of float64: the means, the scales, and in train mode the mean of d and
W cov(d), a row each. That of a norm of d itself ends after the scales.

All functions fill arrays that are given or add to them. Shapes: C channels, d (C, n) with n pixels, W (C, C).
"""

import numba
import numpy as np

# Sums may be reordered, so that they become vector instructions; infinities and NaN stay what they are.
compiled = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})

BLOCK = 512  # pixels at once: as many rows of them as there are channels stay in the cache


@compiled
def aligned(n, like):
    """A buffer for n numbers of the type of `like`, where vector instructions of 64 bytes meet whole lines of the cache."""
    buffer = np.empty(n + 64 // like.itemsize, like.dtype)
    start = -buffer.ctypes.data % 64 // buffer.itemsize
    return buffer[start:start + n]


@compiled
def add_product(out, w, x):
    for i in range(len(out)):
        out[i] += w * x[i]


@compiled
def add_mixtures(out, W, x):
    """out (C, n) += W x; two rows of the result and four of x at once, of so many pixels that they stay in the cache."""
    (C, R), n = W.shape, x.shape[1]
    block, pairs, fours = max(256, 6144 // max(1, R) // 64 * 64), C // 2 * 2, R // 4 * 4
    for start in range(0, n, block):
        stop = min(start + block, n)
        for c in range(0, pairs, 2):
            o0, o1 = out[c, start:stop], out[c + 1, start:stop]
            for r in range(0, fours, 4):
                a0, a1, a2, a3 = W[c, r], W[c, r + 1], W[c, r + 2], W[c, r + 3]
                b0, b1, b2, b3 = W[c + 1, r], W[c + 1, r + 1], W[c + 1, r + 2], W[c + 1, r + 3]
                x0, x1, x2, x3 = x[r, start:stop], x[r + 1, start:stop], x[r + 2, start:stop], x[r + 3, start:stop]
                for i in range(stop - start):
                    o0[i] += a0 * x0[i] + a1 * x1[i] + a2 * x2[i] + a3 * x3[i]
                    o1[i] += b0 * x0[i] + b1 * x1[i] + b2 * x2[i] + b3 * x3[i]
        for c in range(C):
            for r in range(fours if c < pairs else 0, R):
                add_product(out[c, start:stop], W[c, r], x[r, start:stop])


@compiled
def dot(x, y):
    total = x.dtype.type(0)
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@compiled
def _products(x, y):
    """x y^T (C, C) in float64; rows are multiplied two by four."""
    C, n = x.shape
    found, pairs, fours = np.zeros((C, C)), C // 2 * 2, C // 4 * 4
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        for a in range(0, pairs, 2):
            x0, x1 = x[a, start:stop], x[a + 1, start:stop]
            for b in range(0, fours, 4):
                y0, y1, y2, y3 = y[b, start:stop], y[b + 1, start:stop], y[b + 2, start:stop], y[b + 3, start:stop]
                s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = x.dtype.type(0)
                for i in range(stop - start):
                    s0 += x0[i] * y0[i]
                    s1 += x0[i] * y1[i]
                    s2 += x0[i] * y2[i]
                    s3 += x0[i] * y3[i]
                    s4 += x1[i] * y0[i]
                    s5 += x1[i] * y1[i]
                    s6 += x1[i] * y2[i]
                    s7 += x1[i] * y3[i]
                found[a, b] += s0
                found[a, b + 1] += s1
                found[a, b + 2] += s2
                found[a, b + 3] += s3
                found[a + 1, b] += s4
                found[a + 1, b + 1] += s5
                found[a + 1, b + 2] += s6
                found[a + 1, b + 3] += s7
        for a in range(C):
            for b in range(fours if a < pairs else 0, C):
                found[a, b] += dot(x[a, start:stop], y[b, start:stop])
    return found


@compiled
def row_sums(x):
    """(C, n) -> (C,) in float64."""
    found = np.zeros(len(x))
    for c in range(len(x)):
        for start in range(0, x.shape[1], BLOCK):
            part, total = x[c, start:start + BLOCK], x.dtype.type(0)
            for i in range(len(part)):
                total += part[i]
            found[c] += total
    return found


@compiled
def folded(W, known):
    """M and shift (C,) of BN(W d) = M d + shift; an empty W stands for d itself."""
    M = np.empty_like(W)
    for c in range(len(W)):
        M[c] = W.dtype.type(known[1, c]) * W[c]
    return M, (-known[1] * known[0]).astype(W.dtype)


@compiled
def _update_running(n, share, running_mean, running_var, mean, variance):
    """Let the running statistics follow those of n values by `share`, as torch's batch norm does."""
    for c in range(len(mean)):
        running_mean[c] += share * (mean[c] - running_mean[c])
        running_var[c] += share * (variance[c] * n / (n - 1) - running_var[c])


@compiled
def normalise(d, W, train, eps, share, running_mean, running_var, known, buffer):
    """Fill `known` of BN(W d), by the batch's statistics in train mode, which the running ones follow; `buffer` is as
    large as d."""
    n = d.shape[1]
    if not train:
        known[0], known[1] = running_mean, 1 / np.sqrt(running_var.astype(np.float64) + eps)
        return
    W = W.astype(np.float64)
    inner = row_sums(d) / n
    for c in range(len(d)):  # centred, because products of numbers far from zero would lose the digits that differ
        middle = d.dtype.type(inner[c])
        for i in range(n):
            buffer[c, i] = d[c, i] - middle
    rest = row_sums(buffer) / n
    WS = np.dot(W, _products(buffer, buffer) / n - np.outer(rest, rest))
    mean, variance = np.dot(W, inner), np.maximum((W * WS).sum(axis=1), 0.0)
    _update_running(n, share, running_mean, running_var, mean, variance)
    known[0], known[1], known[2], known[3:] = mean, 1 / np.sqrt(variance + eps), inner, WS


@compiled
def linear(d, W, known, out):
    """`out`, BN(W d)."""
    M, shift = folded(W, known)
    for c in range(len(out)):
        out[c] = shift[c]
    add_mixtures(out, M, d)


@compiled
def add_linear(d, W, known, weight, out):
    """out += weight BN(W d)."""
    M, shift = folded(W, known)
    weight = W.dtype.type(weight)
    for c in range(len(out)):
        constant = weight * shift[c]
        for i in range(out.shape[1]):
            out[c, i] += constant
    add_mixtures(out, weight * M, d)


@compiled
def linear_backward(G, g_sum, d, W, known, weight, train, g, dW, wants_g, wants_W):
    r"""From the gradient G by `weight` BN(W d): g by d and `dW`, if wanted; returns that by `weight`.

    With $P = G d^\top$ and s the product of G with the normalised values, per channel,

    $$ g = A^\top G + B d + k, \qquad A = \mathrm{diag}(v) W, \qquad
       B = -\tfrac1n W^\top \mathrm{diag}(v\, scale\, s) W, \qquad v = weight \cdot scale . $$
    """
    P, n, dtype = _products(G, d), d.shape[1], W.dtype
    W, mean, scale = W.astype(np.float64), known[0], known[1]
    s, v = scale * ((P * W).sum(axis=1) - mean * g_sum), weight * scale
    h = v * scale * s
    if wants_W:
        gradient = v.reshape(-1, 1) * P
        dW[:] = gradient - np.outer(v * g_sum, known[2]) - h.reshape(-1, 1) * known[3:] if train else gradient
    if wants_g:
        k = np.dot((h * mean - v * g_sum) / n, W)
        for c in range(len(g)):
            g[c] = k[c] if train else 0.0
        add_mixtures(g, np.ascontiguousarray(W.T * v).astype(dtype), G)
        if train:
            add_mixtures(g, -np.dot(np.ascontiguousarray(W.T), (h / n).reshape(-1, 1) * W).astype(dtype), d)
    return s.sum()


@compiled
def add_normalised(d, weight, train, eps, share, running_mean, running_var, known, out):
    """out += weight BN(d), (C, n) each; fills `known`."""
    C, n = d.shape
    mean, variance = running_mean.astype(np.float64), running_var.astype(np.float64)
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
        known[0, c], known[1, c] = mean[c], 1 / np.sqrt(variance[c] + eps)
        scale = d.dtype.type(weight * known[1, c])
        constant = d.dtype.type(-weight * known[1, c] * mean[c])
        for i in range(n):
            result[i] += scale * x[i] + constant
    if train:
        _update_running(n, share, running_mean, running_var, mean, variance)


@compiled
def normalised_backward(G, g_sum, d, known, weight, train, g):
    """From the gradient G by the sum that `add_normalised` added to: g by d; returns that by the weight."""
    n, by_weight = d.shape[1], 0.0
    for c in range(len(d)):
        x, top, result, mean, scale = d[c], G[c], g[c], known[0, c], known[1, c]
        s, v = scale * (dot(top, x) - mean * g_sum[c]), weight * scale
        by_weight += s
        along = v * scale * s / n if train else 0.0
        constant = d.dtype.type(along * mean - v * g_sum[c] / n if train else 0.0)
        by_top, by_x = d.dtype.type(v), d.dtype.type(-along)
        for i in range(n):
            result[i] = by_top * top[i] + by_x * x[i] + constant
    return by_weight
