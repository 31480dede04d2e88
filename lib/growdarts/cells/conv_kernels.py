r"""The pixels of a mixed convolutional edge, compiled by numba: depthwise convolutions and pools.

Arrays are (C, H, W, B), the batch last: a tap of a kernel then multiplies rows of W * B numbers that lie side by side,
whatever the width of an image. All functions fill arrays that are given or add to them.

A channel is read into rows that are `reach` pixels wider on both sides, column u of them as row [u // stride] of part
[u % stride]: so whatever a tap meets lies side by side at every stride.

Shapes: B batch, C channels, H and W pixels, k the size of a kernel, which is odd.
"""

import numba
import numpy as np

# Sums may be reordered, so that they become vector instructions; infinities and NaN stay what they are.
compiled = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})


@compiled
def _add_product(out, w, x):
    for i in range(len(out)):
        out[i] += w * x[i]


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
            _add_product(out, w[j], x[j * step:j * step + n])


@compiled
def _dot(x, y):
    total = x.dtype.type(0)
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@compiled
def _wide(x, stride, reach):
    """Room for one channel of x; zero, as its borders stay."""
    _, H, W, B = x.shape
    return np.zeros((stride, H, (W + 2 * reach + stride - 1) // stride * B), x.dtype)


@compiled
def _read(x, shift, relu, reach, wide):
    """One channel x + shift, or relu of it, into `wide`."""
    stride, (H, W, B), zero = len(wide), x.shape, x.dtype.type(0)
    for y in range(H):
        for u in range(1 if stride == 1 else W):  # without a stride a row stays together
            row = x[y].reshape(-1) if stride == 1 else x[y, u]
            at = (u + reach) // stride * B
            to = wide[(u + reach) % stride, y, at:at + len(row)]
            for i in range(len(row)):
                value = row[i] + shift
                to[i] = zero if relu and value < zero else value


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
def _row_of_gradient(g, shift, to):
    for i in range(len(g)):
        to[i] = g[i] + shift


@compiled
def convolve(x, shift, w, out, stride, dilation, relu):
    """`out`, the convolution of x + shift, or of relu of it, by w (C, k, k), channel by channel."""
    (C, H, W, B), k, (_, rows, width, _) = x.shape, w.shape[1], out.shape
    reach = dilation * (k // 2)
    wide, n = _wide(x, stride, reach), width * B
    for c in range(C):
        _read(x[c], shift[c], relu, reach, wide)
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
                            _add_product(result, w[c, i, j], wide[part, row, at:at + n])


@compiled
def convolve_backward(x, shift, w, g, g_shift, dx, dw, stride, dilation, relu, wants_x, wants_w):
    """From the gradient g + g_shift by the result of `convolve`: that by x, added to `dx`, and `dw`, if wanted."""
    (C, H, W, B), k, (_, rows, width, _) = x.shape, w.shape[1], g.shape
    reach, n = dilation * (k // 2), width * B
    wide = _wide(x, stride, reach)
    back, padded = np.empty_like(wide), np.zeros(n + 4 * reach * B, x.dtype)
    result = padded[2 * reach * B:2 * reach * B + n]
    for c in range(C):
        flipped = w[c, ::-1, ::-1].copy()
        _read(x[c], shift[c], relu, reach, wide)
        back[:], dw[c] = 0, 0
        for y in range(rows):
            _row_of_gradient(g[c, y].reshape(-1), g_shift[c], result)
            for i in range(k):
                row = y * stride + i * dilation - reach
                if 0 <= row < H:
                    if wants_x and stride == 1:
                        _add_products(back[0, row], flipped[k - 1 - i], padded, dilation * B)
                    for j in range(k):
                        part, at = j * dilation % stride, j * dilation // stride * B
                        if wants_x and stride > 1:
                            _add_product(back[part, row, at:at + n], w[c, i, j], result)
                        if wants_w:
                            dw[c, i, j] += _dot(result, wide[part, row, at:at + n])
        if wants_x:
            _add_back(wide, back, relu, reach, dx[c])


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
    wide, place = _wide(x, stride, k // 2), np.empty(width * B, x.dtype)  # numbers of one type make vectors of a length
    wide[:] = -np.inf
    for c in range(C):
        _read(x[c], x.dtype.type(0), False, k // 2, wide)
        for y in range(rows):
            _largest(wide, y, k, B, out[c, y].reshape(-1), place)


@compiled
def max_pool_backward(x, g, dx, k, stride):
    """Add g to `dx` where the pixels were largest."""
    (C, H, _, B), (_, rows, width, _) = x.shape, g.shape
    wide, n = _wide(x, stride, k // 2), width * B
    wide[:] = -np.inf
    back, best, place = np.empty_like(wide), np.empty(n, x.dtype), np.empty(n, x.dtype)
    for c in range(C):
        _read(x[c], x.dtype.type(0), False, k // 2, wide)
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
