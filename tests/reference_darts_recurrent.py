"""The recurrent search cell and language model of DARTS written out: one time step, node and operation after another.

Everything is left to autograd. It reads an `original_tensors` dictionary and alpha as a matrix, and nothing else of
the library; what an edge computes is evaluated for all edges of a node at once, as in the original.
"""

import torch
import torch.nn.functional as F

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda u: u}


def batch_norm(z, eps=1e-5):
    return F.batch_norm(z, None, None, training=True, eps=eps)


def search_cell(tensors, alpha, operations, x, h, x_mask=None, h_mask=None):
    """States (T, B, H) in train mode; `tensors` `_W0`, `_Ws.0`, ..., `alpha` (E, K), a column an operation."""
    weights = torch.softmax(alpha, dim=-1)
    n_nodes = sum(name.startswith("_Ws.") for name in tensors)
    outputs = []
    for x_t in x:
        dropped_x = x_t if x_mask is None else x_t * x_mask
        dropped_h = h if h_mask is None else h * h_mask
        c, u = (torch.cat([dropped_x, dropped_h], dim=-1) @ tensors["_W0"]).chunk(2, dim=-1)
        s0 = h + torch.sigmoid(c) * (torch.tanh(u) - h)
        states, edge = batch_norm(s0)[None], 0
        for i in range(n_nodes):
            dropped = states if h_mask is None else states * h_mask
            product = (dropped.reshape(-1, dropped.shape[-1]) @ tensors[f"_Ws.{i}"]).view(i + 1, *h.shape[:-1], -1)
            c, u = product.chunk(2, dim=-1)
            c = torch.sigmoid(c)
            z = torch.zeros_like(s0)
            for k, name in enumerate(operations):
                if name != "none":
                    outcome = states + c * (ACTIVATIONS[name](u) - states)
                    z = z + (weights[edge:edge + i + 1, k, None, None] * outcome).sum(dim=0)
            states = torch.cat([states, batch_norm(z)[None]])
            edge += i + 1
        h = states[1:].mean(dim=0)
        outputs.append(h)
    return torch.stack(outputs)


def fixed_cell(tensors, edges, concat, x, h):
    """States (T, B, H) of the derived cell; `edges`: activation and predecessor of every node."""
    outputs = []
    for x_t in x:
        c, u = (torch.cat([x_t, h], dim=-1) @ tensors["_W0"]).chunk(2, dim=-1)
        states = [h + torch.sigmoid(c) * (torch.tanh(u) - h)]
        for i, (name, j) in enumerate(edges):
            c, u = (states[j] @ tensors[f"_Ws.{i}"]).chunk(2, dim=-1)
            states.append(states[j] + torch.sigmoid(c) * (ACTIVATIONS[name](u) - states[j]))
        h = torch.stack([states[i] for i in concat]).mean(dim=0)
        outputs.append(h)
    return torch.stack(outputs)


def language_loss(tensors, embedding, bias, alpha, operations, x, y, h, masks=(None, None)):
    """Mean negative log likelihood of the words y (T, B) that follow x (T, B)."""
    return decoder_loss(search_cell(tensors, alpha, operations, F.embedding(x, embedding), h, *masks), embedding, bias, y)


def fixed_language_loss(tensors, embedding, bias, edges, concat, x, y, h):
    """Of the derived cell."""
    return decoder_loss(fixed_cell(tensors, edges, concat, F.embedding(x, embedding), h), embedding, bias, y)


def decoder_loss(states, embedding, bias, y):
    """Of the words y (T, B) after states (T, B, H)."""
    return F.cross_entropy(F.linear(states, embedding, bias).flatten(0, 1), y.flatten())
