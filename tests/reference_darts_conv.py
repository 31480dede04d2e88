"""The convolutional networks of DARTS, searched and derived, in torch, edge after edge and operation after operation.

Reads a state dict of the network and the mixtures' alphas or the genotype, nothing else of the library. Images are
(B, C, H, W), contiguous; everything is left to autograd. In train mode the running statistics in the state dict are
updated in place, as torch's batch norms do it.
"""

import torch
from torch.nn import functional


def batch_norm(x, state, name, train):
    if train:
        state[name + ".num_batches_tracked"] += 1
    return functional.batch_norm(x, state[name + ".running_mean"], state[name + ".running_var"],
                                 state.get(name + ".weight"), state.get(name + ".bias"), train)


def factorized_reduce(x, state, name, train):
    x = torch.relu(x)
    halves = [functional.conv2d(x, state[name + ".conv_1.weight"], stride=2),
              functional.conv2d(x[:, :, 1:, 1:], state[name + ".conv_2.weight"], stride=2)]
    return batch_norm(torch.cat(halves, dim=1), state, name + ".bn", train)


def fit(x, state, name, train):
    """The preprocessing of an input."""
    if name + ".conv_1.weight" in state:
        return factorized_reduce(x, state, name, train)
    x = functional.conv2d(torch.relu(x), state[name + ".op.1.weight"])
    return batch_norm(x, state, name + ".op.2", train)


def operate(key, x, stride, state, name, train):
    operation = key.split("#")[0]
    if operation == "none":
        return 0 * x[:, :, ::stride, ::stride]
    if operation == "skip_connect":
        return x if stride == 1 else factorized_reduce(x, state, name, train)
    if operation.endswith("pool_3x3"):
        x = (functional.max_pool2d(x, 3, stride, 1) if operation == "max_pool_3x3" else
             functional.avg_pool2d(x, 3, stride, 1, count_include_pad=False))
        # the derived network has none behind its pools
        return batch_norm(x, state, name + ".1", train) if name + ".1.running_mean" in state else x
    k, dilation = int(operation[-1]), 2 if operation.startswith("dil") else 1
    for at in (0,) if dilation == 2 else (0, 4):
        x = functional.conv2d(torch.relu(x), state[f"{name}.op.{at + 1}.weight"], stride=1 if at else stride,
                              padding=dilation * (k - 1) // 2, dilation=dilation, groups=x.shape[1])
        x = functional.conv2d(x, state[f"{name}.op.{at + 2}.weight"])
        x = batch_norm(x, state, f"{name}.op.{at + 3}", train)
    return x


def mixed(mixture, x, stride, state, name, train):
    """sum_o softmax(alpha)_o o(x), `none` included."""
    keys, alpha = mixture
    weights = torch.softmax(alpha, dim=0)
    return sum(w * operate(key, x, stride, state, f"{name}.operations.{key}", train) for w, key in zip(weights, keys))


def search_cell(s0, s1, edges, reduction, state, name, train):
    states, e = [fit(s0, state, name + ".preprocess0", train), fit(s1, state, name + ".preprocess1", train)], 0
    while e < len(edges):
        total = 0
        for j, x in enumerate(states):
            stride = 2 if reduction and j < 2 else 1
            total = total + mixed(edges[e], x, stride, state, f"{name}.edges.{e}", train)
            e += 1
        states.append(total)
    return torch.cat(states[2:], dim=1)


def fixed_cell(s0, s1, edges, concat, reduction, state, name, train):
    """`edges`: operation and predecessor, two a node; no edge is dropped."""
    states = [fit(s0, state, name + ".preprocess0", train), fit(s1, state, name + ".preprocess1", train)]
    for e in range(0, len(edges), 2):
        states.append(sum(operate(key, states[j], 2 if reduction and j < 2 else 1, state, f"{name}.operations.{e + side}",
                                  train) for side, (key, j) in enumerate(edges[e:e + 2])))
    return torch.cat([states[i] for i in concat], dim=1)


def search_network(state, normal, reduce, x, train=True):
    """Logits (B, classes); `normal` and `reduce`: keys and alpha of every edge of the cells of either kind."""
    return network(state, lambda s0, s1, reduction, name: search_cell(
        s0, s1, reduce if reduction else normal, reduction, state, name, train), x, train)


def fixed_network(state, normal, reduce, x, train=True):
    """Logits (B, classes); `normal` and `reduce`: edges and concat of the cells of either kind."""
    return network(state, lambda s0, s1, reduction, name: fixed_cell(
        s0, s1, *(reduce if reduction else normal), reduction, state, name, train), x, train)


def network(state, cell, x, train):
    """Stem, cells, head."""
    n_cells = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("cells."))
    s0 = s1 = batch_norm(functional.conv2d(x, state["stem.0.weight"], padding=1), state, "stem.1", train)
    for i in range(n_cells):
        reduction = i in (n_cells // 3, 2 * n_cells // 3)
        s0, s1 = s1, cell(s0, s1, reduction, f"cells.{i}")
    return functional.linear(s1.mean(dim=(2, 3)), state["classifier.weight"], state["classifier.bias"])


def leaves(network):
    """State dict, mixtures and parameters of a network for `search_network`, all of them copies: the parameters by
    name, as leaves of autograd's graph."""
    state, parameters = copied(network)
    normal, reduce = ([(list(mixture.keys), state[f"{kind}.{i}.alpha"]) for i, mixture in
                       enumerate(getattr(network, kind))] for kind in ("normal", "reduce"))
    return state, normal, reduce, parameters


def copied(network):
    """State dict of a network and, of that, its parameters, copies and leaves."""
    names = {name for name, _ in network.named_parameters()}
    state = {name: value.detach().clone().requires_grad_(name in names) for name, value in network.state_dict().items()}
    return state, {name: state[name] for name in names}
