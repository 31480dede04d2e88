"""The convolutional search cell of DARTS written out: one sample, channel, pixel and product at a time.

Reads a state dict of `SearchCell` or `FixedCell` and nothing else of the library. Images are numpy
arrays (B, C, H, W); batch norms use the statistics of the batch.
"""

import itertools
import math

import numpy as np


def pixels(*sizes):
    return itertools.product(*map(range, sizes))


def relu(x):
    return np.where(x > 0, x, 0.0)


def convolve(x, weight, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlation; `weight` (out, in / groups, k, k)."""
    B, _, H, W = x.shape
    rows, inputs, k, _ = weight.shape
    reach = dilation * (k - 1) + 1
    out = np.zeros((B, rows, (H + 2 * padding - reach) // stride + 1, (W + 2 * padding - reach) // stride + 1))
    for b, r, u, v in pixels(*out.shape):
        first = r // (rows // groups) * inputs  # first input channel of this row's group
        for c, i, j in pixels(inputs, k, k):
            y, z = u * stride + i * dilation - padding, v * stride + j * dilation - padding
            if 0 <= y < H and 0 <= z < W:
                out[b, r, u, v] += weight[r, c, i, j] * x[b, first + c, y, z]
    return out


def batch_norm(x, state, name):
    out = np.empty_like(x)
    B, C, H, W = x.shape
    for c in range(C):
        values = [x[b, c, y, z] for b, y, z in pixels(B, H, W)]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        for b, y, z in pixels(B, H, W):
            out[b, c, y, z] = (x[b, c, y, z] - mean) / math.sqrt(variance + 1e-5)
            if name + ".weight" in state:
                out[b, c, y, z] = out[b, c, y, z] * state[name + ".weight"][c] + state[name + ".bias"][c]
    return out


def pool(x, stride, summary):
    B, C, H, W = x.shape
    out = np.empty((B, C, (H - 1) // stride + 1, (W - 1) // stride + 1))
    for b, c, u, v in pixels(*out.shape):
        out[b, c, u, v] = summary([x[b, c, y, z] for y in range(u * stride - 1, u * stride + 2)
                                   for z in range(v * stride - 1, v * stride + 2) if 0 <= y < H and 0 <= z < W])
    return out


def factorized_reduce(x, state, name):
    x = relu(x)
    halves = [convolve(x, state[name + ".conv_1.weight"], stride=2),
              convolve(x[:, :, 1:, 1:], state[name + ".conv_2.weight"], stride=2)]
    return batch_norm(np.concatenate(halves, axis=1), state, name + ".bn")


def fit(x, state, name):
    """The preprocessing of an input."""
    if name + ".conv_1.weight" in state:
        return factorized_reduce(x, state, name)
    return batch_norm(convolve(relu(x), state[name + ".op.1.weight"]), state, name + ".op.2")


def operate(key, x, stride, state, name, search):
    operation = key.split("#")[0]
    if operation == "none":
        return np.zeros_like(x[:, :, ::stride, ::stride])
    if operation == "skip_connect":
        return x if stride == 1 else factorized_reduce(x, state, name)
    if operation.endswith("pool_3x3"):
        x = pool(x, stride, max if operation.startswith("max") else lambda window: sum(window) / len(window))
        return batch_norm(x, state, name + ".1") if search else x
    k, dilation = int(operation[-1]), 2 if operation.startswith("dil") else 1
    for at in (0,) if dilation == 2 else (0, 4):
        x = convolve(relu(x), state[f"{name}.op.{at + 1}.weight"], 1 if at else stride, dilation * (k - 1) // 2,
                     dilation, groups=x.shape[1])
        x = batch_norm(convolve(x, state[f"{name}.op.{at + 2}.weight"]), state, f"{name}.op.{at + 3}")
    return x


def search_cell(state, s0, s1, edges, n_nodes, reduction):
    """`edges`: for every edge a dictionary of key and alpha, the edges of node i after those of node i-1."""
    states, e = [fit(s0, state, "preprocess0"), fit(s1, state, "preprocess1")], 0
    for i in range(n_nodes):
        total = 0.0
        for j in range(2 + i):
            denominator = sum(math.exp(alpha) for alpha in edges[e].values())
            for key, alpha in edges[e].items():
                out = operate(key, states[j], 2 if reduction and j < 2 else 1, state,
                              f"edges.{e}.operations.{key}", search=True)
                total = total + math.exp(alpha) / denominator * out
            e += 1
        states.append(total)
    return np.concatenate(states[2:], axis=1)


def fixed_cell(state, s0, s1, edges, concat, reduction):
    """`edges`: two pairs (operation, predecessor) a node."""
    states = [fit(s0, state, "preprocess0"), fit(s1, state, "preprocess1")]
    for e in range(0, len(edges), 2):
        first, second = (operate(name, states[j], 2 if reduction and j < 2 else 1, state,
                                 f"operations.{e + side}", search=False)
                         for side, (name, j) in enumerate(edges[e:e + 2]))
        states.append(first + second)
    return np.concatenate([states[i] for i in concat], axis=1)
