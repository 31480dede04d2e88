"""The two-input search cell and its language model written out: one time step, node and operation after another.

Everything is left to autograd. A node is a list of (name, weights of the operation, its logit): weights {"W", "U",
"b"}, none for `carry`. Nothing else of the library is read. Shapes: T time, B batch, H hidden, V words.
"""

import torch
import torch.nn.functional as F


def gated_update(wx, us, s):
    z, n = (wx + us).chunk(2, dim=-1)
    z = torch.sigmoid(z)
    return (1 - z) * s + z * torch.tanh(n)


OPERATIONS = {
    "add_tanh": lambda wx, us, s: torch.tanh(wx + us),
    "add_sigmoid": lambda wx, us, s: torch.sigmoid(wx + us),
    "add_relu": lambda wx, us, s: torch.relu(wx + us),
    "add_identity": lambda wx, us, s: wx + us,
    "hadamard": lambda wx, us, s: wx * us,
    "gate": lambda wx, us, s: torch.sigmoid(wx + us) * s,
    "gated_update": gated_update,
    "carry": lambda wx, us, s: s,
}


def outcome(name, weights, x, s):
    """What one operation makes of x_t (B, I) and the state before (B, H)."""
    if not weights:
        return OPERATIONS[name](None, None, s)
    return OPERATIONS[name](x @ weights["W"].t() + weights["b"], s @ weights["U"].t(), s)


def search_cell(nodes, x, h):
    """States (T, B, H) from x (T, B, I) and the state before (B, H)."""
    mixtures = [torch.softmax(torch.stack([logit for *_, logit in node]), dim=0) for node in nodes]
    states = []
    for x_t in x:
        for node, mixture in zip(nodes, mixtures):
            total = torch.zeros_like(h)
            for (name, weights, _), w in zip(node, mixture):
                total = total + w * outcome(name, weights, x_t, h)
            h = total
        states.append(h)
    return torch.stack(states)


def language_loss(nodes, embedding, bias, x, y, h):
    """Mean negative log likelihood of the words y (T, B) that follow x (T, B)."""
    states = search_cell(nodes, F.embedding(x, embedding), h)
    logits = F.linear(states, embedding, bias)
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())
