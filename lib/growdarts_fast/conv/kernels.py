r"""The pixels of the convolutional search cell, compiled by numba: depthwise convolutions and pools.

Arrays are (C, H, W, B), the batch last: a tap of a kernel then multiplies rows of W * B numbers that lie side by side,
whatever the width of an image. All functions fill arrays that are given or add to them.

A channel is read into rows that are `reach` pixels wider on both sides, column u of them as row [u // stride] of part
[u % stride]: so whatever a tap meets lies side by side at every stride.

Shapes: B batch, C channels, H and W pixels, k the size of a kernel, which is odd.
"""

import numpy as np

from growdarts_fast.conv.norm_kernels import add_product, aligned, compiled, dot, linear, linear_backward, normalise


@compiled
def _add_products(out, w, x, step):
    """out += sum_j w_j x[j step :]; of three or five terms at once."""
    n, k = len(out), len(w)
    if k == 3:
        w0, w1, w2 = w[0], w[1], w[2]
        x0, x1, x2 = x[:n], x[step:step + n], x[2 * step:2 * step + n]
        for i in range(n):
            out[i] += w0 * x0[i] + w1 * x1[i] + w2 * x2[i]
    elif k == 5:
        w0, w1, w2, w3, w4 = w[0], w[1], w[2], w[3], w[4]
        x0, x1, x2 = x[:n], x[step:step + n], x[2 * step:2 * step + n]
        x3, x4 = x[3 * step:3 * step + n], x[4 * step:4 * step + n]
        for i in range(n):
            out[i] += w0 * x0[i] + w1 * x1[i] + w2 * x2[i] + w3 * x3[i] + w4 * x4[i]
    else:
        for j in range(k):
            add_product(out, w[j], x[j * step:j * step + n])


@compiled
def _wide(x, stride, reach):
    """A buffer for one channel of x; zero, as its borders stay."""
    _, H, W, B = x.shape
    width = (W + 2 * reach + stride - 1) // stride * B
    wide = aligned(stride * H * width, x)
    wide[:] = 0
    return wide.reshape(stride, H, width)


@compiled
def _read(x, relu, reach, wide):
    """One channel x, or relu of it, into `wide`."""
    stride, (H, W, B), zero = len(wide), x.shape, x.dtype.type(0)
    for y in range(H):
        for u in range(1 if stride == 1 else W):  # without a stride a row stays together
            row = x[y].reshape(-1) if stride == 1 else x[y, u]
            at = (u + reach) // stride * B
            to = wide[(u + reach) % stride, y, at:at + len(row)]
            for i in range(len(row)):
                to[i] = zero if relu and row[i] < zero else row[i]


@compiled
def _add_back(wide, back, relu, reach, dx):
    """Add `back`, the gradient by what `_read` made of a channel, to `dx`."""
    stride, (H, W, B), zero = len(wide), dx.shape, dx.dtype.type(0)
    for y in range(H):
        for u in range(1 if stride == 1 else W):
            row = dx[y].reshape(-1) if stride == 1 else dx[y, u]
            at, part = (u + reach) // stride * B, (u + reach) % stride
            value, by = wide[part, y, at:at + len(row)], back[part, y, at:at + len(row)]
            for i in range(len(row)):
                row[i] += zero if relu and value[i] <= zero else by[i]


@compiled
def convolve(x, w, out, stride, dilation, relu):
    """`out`, the convolution of x, or of relu(x), by w (C, k, k), channel by channel."""
    (C, H, W, B), k, (_, rows, width, _) = x.shape, w.shape[1], out.shape
    reach = dilation * (k // 2)
    wide, n = _wide(x, stride, reach), width * B
    for c in range(C):
        _read(x[c], relu, reach, wide)
        for y in range(rows):
            result = out[c, y].reshape(-1)
            result[:] = 0
            for i in range(k):
                row = y * stride + i * dilation - reach
                if 0 <= row < H:
                    if stride == 1:
                        _add_products(result, w[c, i], wide[0, row], dilation * B)
                    else:
                        for j in range(k):
                            part, at = j * dilation % stride, j * dilation // stride * B
                            add_product(result, w[c, i, j], wide[part, row, at:at + n])


@compiled
def convolve_backward(x, w, g, dx, dw, stride, dilation, relu, wants_x, wants_w):
    """From the gradient g by the result of `convolve`: that by x, added to `dx`, and `dw`, if wanted."""
    (C, H, W, B), k, (_, rows, width, _) = x.shape, w.shape[1], g.shape
    reach, n = dilation * (k // 2), width * B
    wide = _wide(x, stride, reach)
    back, padded = aligned(wide.size, x).reshape(wide.shape), aligned(n + 4 * reach * B, x)
    padded[:] = 0
    result = padded[2 * reach * B:2 * reach * B + n]
    for c in range(C):
        flipped = w[c, ::-1, ::-1].copy()
        _read(x[c], relu, reach, wide)
        back[:] = 0
        if wants_w:
            dw[c] = 0
        for y in range(rows):
            result[:] = g[c, y].reshape(-1)
            for i in range(k):
                row = y * stride + i * dilation - reach
                if 0 <= row < H:
                    if wants_x and stride == 1:
                        _add_products(back[0, row], flipped[k - 1 - i], padded, dilation * B)
                    for j in range(k):
                        part, at = j * dilation % stride, j * dilation // stride * B
                        if wants_x and stride > 1:
                            add_product(back[part, row, at:at + n], w[c, i, j], result)
                        if wants_w:
                            dw[c, i, j] += dot(result, wide[part, row, at:at + n])
        if wants_x:
            _add_back(wide, back, relu, reach, dx[c])


@compiled
def repeat(x, before, known_before, w, stride, dilation, W, train, eps, share, running_mean, running_var, d, known, y):
    """d, the depthwise convolution by w of relu of BN(`before` x), or of relu(x) if `before` is empty; `known` of
    BN(W d). y is a buffer for BN(`before` x), and then for d."""
    C = len(d)
    if len(before):
        linear(x.reshape(C, -1), before, known_before, y.reshape(C, -1))
    convolve(y if len(before) else x, w, d, stride, dilation, True)
    normalise(d.reshape(C, -1), W, train, eps, share, running_mean, running_var, known, y.reshape(C, -1))


@compiled
def repeat_backward(G, g_sum, d, W, known, weight, train, x, before, known_before, w, stride, dilation, dx, dw, dW,
                    wants_x, wants_w, wants_W, y, g):
    """From the gradient G by `weight` BN(W d): dw, dW, that by BN(`before` x), added to `dx`; returns that by `weight`.

    y is a buffer for BN(`before` x), g one for the gradient by d.
    """
    C, onward = len(d), wants_x or wants_w
    by_weight = linear_backward(G.reshape(C, -1), g_sum, d.reshape(C, -1), W, known, weight, train, g.reshape(C, -1), dW,
                                onward, wants_W)
    if onward:
        if len(before):
            linear(x.reshape(C, -1), before, known_before, y.reshape(C, -1))
        convolve_backward(y if len(before) else x, w, g, dx, dw, stride, dilation, True, wants_x, wants_w)
    return by_weight


@compiled
def _keep_larger(best, place, x, t):
    for i in range(len(best)):
        better = not x[i] <= best[i]  # also where it is NaN, as torch has it
        best[i] = x[i] if better else best[i]
        place[i] = t if better else place[i]


@compiled
def _add_where(out, g, place, t):
    """out += g where `place` is t."""
    zero = g.dtype.type(0)
    for i in range(len(out)):
        out[i] += g[i] if place[i] == t else zero


@compiled
def _largest(wide, y, k, B, best, place):
    """Row y of the largest of k x k pixels of one channel, and which of them it is, the first of equal ones."""
    stride, H, _ = wide.shape
    best[:], place[:] = -np.inf, 0
    for i in range(k):
        row = y * stride + i - k // 2
        if 0 <= row < H:
            for j in range(k):
                at = j // stride * B
                _keep_larger(best, place, wide[j % stride, row, at:at + len(best)], best.dtype.type(i * k + j))


@compiled
def max_pool(x, out, k, stride):
    """Largest of k x k pixels, the border not counted."""
    (C, _, _, B), (_, rows, width, _) = x.shape, out.shape
    wide, place = _wide(x, stride, k // 2), aligned(width * B, x)  # numbers of one type make vectors of a length
    wide[:] = -np.inf
    for c in range(C):
        _read(x[c], False, k // 2, wide)
        for y in range(rows):
            _largest(wide, y, k, B, out[c, y].reshape(-1), place)


@compiled
def max_pool_backward(x, g, dx, k, stride):
    """Add g to `dx` where the pixels were largest."""
    (C, H, _, B), (_, rows, width, _) = x.shape, g.shape
    wide, n = _wide(x, stride, k // 2), width * B
    wide[:] = -np.inf
    back, best, place = aligned(wide.size, x).reshape(wide.shape), aligned(n, x), aligned(n, x)
    for c in range(C):
        _read(x[c], False, k // 2, wide)
        back[:] = 0
        for y in range(rows):
            _largest(wide, y, k, B, best, place)
            for i in range(k):
                row = y * stride + i - k // 2
                if 0 <= row < H:
                    for j in range(k):
                        at = j // stride * B
                        _add_where(back[j % stride, row, at:at + n], g[c, y].reshape(-1), place,
                                   best.dtype.type(i * k + j))
        _add_back(wide, back, False, k // 2, dx[c])
