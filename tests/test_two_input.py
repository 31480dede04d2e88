"""The two-input cell against loops written by hand and against torch.nn's cells."""

import math

import pytest
import torch
from torch import nn

from growdarts.spaces.two_input.cell import TwoInputCell, fixed_cell
from growdarts.spaces.two_input.node import TwoInputNode
from growdarts.spaces.two_input.operations import DEFAULT_TWO_INPUT, TWO_INPUT

T, B, I, H = 4, 3, 5, 2


def reference(name, W, U, b, x, s):
    """One operation for one sample, unit by unit, with Python floats."""

    def pre(row):
        return sum(W[row][i] * x[i] for i in range(I)), sum(U[row][k] * s[k] for k in range(H))

    def sigmoid(v):
        return 1 / (1 + math.exp(-v))

    if name == "carry":
        return list(s)
    functions = {"tanh": math.tanh, "sigmoid": sigmoid, "relu": lambda v: max(v, 0.0), "identity": lambda v: v}
    out = []
    for unit in range(H):
        wx, us = pre(unit)
        a = wx + us + b[unit]
        if name == "gated_update":
            wn, un = pre(H + unit)
            z = sigmoid(a)
            out.append((1 - z) * s[unit] + z * math.tanh(wn + un + b[H + unit]))
        elif name[:4] in ("add_", "mul_"):
            out.append(functions[name[4:]](a if name.startswith("add_") else (wx + b[unit]) * (1 + us)))
        else:
            out.append({"hadamard": (wx + b[unit]) * us, "gate": sigmoid(a) * s[unit]}[name])
    return out


def hand_loop(cell, x):
    """Eq. (3) of the paper sample by sample, node by node, operation by operation."""
    states = []
    for sample in range(x.shape[1]):
        s, path = [0.0] * H, []
        for t in range(x.shape[0]):
            for node in cell.nodes:
                exponentials = [math.exp(a) for a in node.mixture.alpha.tolist()]
                mixed = [0.0] * H
                for key, e in zip(node.mixture.keys, exponentials, strict=True):
                    parts = [part[key].tolist() if key in part else None for part in (node.W, node.U, node.b)]
                    out = reference(key.split("#")[0], *parts, x[t, sample].tolist(), s)
                    mixed = [m + e / sum(exponentials) * o for m, o in zip(mixed, out, strict=True)]
                s = mixed
            path.append(s)
        states.append(path)
    return torch.tensor(states, dtype=torch.float64).transpose(0, 1)


def test_search_cell_matches_hand_loop():
    cell = TwoInputCell(I, H, [list(TWO_INPUT), ["gate", "carry", "gate#2"], ["mul_tanh", "mul_tanh#2"]]).double()
    for node in cell.nodes:
        nn.init.normal_(node.mixture.alpha)
    x = torch.randn(T, B, I, dtype=torch.float64)
    torch.testing.assert_close(cell(x), hand_loop(cell, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", list(TWO_INPUT))
def test_every_operation_alone_matches_hand_loop(name):
    cell = fixed_cell(I, H, [[name], ["add_tanh"]]).double()
    x = torch.randn(T, B, I, dtype=torch.float64)
    torch.testing.assert_close(cell(x), hand_loop(cell, x), rtol=0, atol=1e-12)


def test_gradients_match_finite_differences():
    cell = TwoInputCell(I, H, [DEFAULT_TWO_INPUT] * 2).double()
    x = torch.randn(2, 2, I, dtype=torch.float64)
    parameters = cell.theta_parameters() + [m.alpha for m in cell.mixtures()]
    gradients = torch.autograd.grad(cell(x).square().sum(), parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            flat = parameter.view(-1)
            place, kept = len(flat) // 2, flat[len(flat) // 2].item()
            sides = []
            for step in (1e-6, -1e-6):
                flat[place] = kept + step
                sides.append(cell(x).square().sum().item())
            flat[place] = kept
            assert gradient.view(-1)[place].item() == pytest.approx(
                (sides[0] - sides[1]) / 2e-6, rel=1e-5, abs=1e-7)


def test_one_add_tanh_node_is_torch_rnn():
    cell, rnn = fixed_cell(I, H, [["add_tanh"]]), nn.RNN(I, H)
    node = cell.nodes[0]
    with torch.no_grad():
        rnn.weight_ih_l0.copy_(node.W["add_tanh"])
        rnn.weight_hh_l0.copy_(node.U["add_tanh"])
        rnn.bias_ih_l0.copy_(node.b["add_tanh"])
        rnn.bias_hh_l0.zero_()
    x = torch.randn(T, B, I)
    torch.testing.assert_close(cell(x), rnn(x)[0])


def test_one_gated_update_node_is_torch_gru_with_open_reset_gate():
    cell, gru = fixed_cell(I, H, [["gated_update"]]).double(), nn.GRU(I, H).double()
    W, U, b = (part["gated_update"].detach() for part in (cell.nodes[0].W, cell.nodes[0].U, cell.nodes[0].b))
    with torch.no_grad():  # torch.nn's rows: reset, update, new; its update gate keeps where ours replaces
        for target, source, sign in ((gru.weight_ih_l0, W, -1), (gru.weight_hh_l0, U, -1), (gru.bias_ih_l0, b, -1)):
            target[:H] = 0
            target[H:2 * H] = sign * source[:H]
            target[2 * H:] = source[H:]
        gru.bias_hh_l0.zero_()
        gru.bias_ih_l0[:H] = 1000.0
    x = torch.randn(T, B, I, dtype=torch.float64)
    torch.testing.assert_close(cell(x), gru(x)[0], rtol=0, atol=1e-12)


def test_state_is_carried_between_calls():
    cell = TwoInputCell(I, H, [DEFAULT_TWO_INPUT])
    x = torch.randn(T, B, I)
    first = cell(x[:2])
    torch.testing.assert_close(torch.cat([first, cell(x[2:], first[-1])]), cell(x))


def test_derive_takes_the_strongest_operation_with_all_its_copies():
    cell = TwoInputCell(I, H, [["carry", "gate", "gate#2"], ["add_tanh", "add_relu"]])
    with torch.no_grad():
        cell.nodes[0].mixture.alpha.copy_(torch.tensor([1.0, 0.8, 0.7]))  # together the gates outweigh carry
        cell.nodes[1].mixture.alpha.copy_(torch.tensor([0.0, 0.1]))
    assert cell.derive() == (("gate", "gate"), ("add_relu",))
    assert fixed_cell(I, H, cell.derive()).structure() == [["gate", "gate#2"], ["add_relu"]]


def test_what_admits_input_is_what_moves_a_zero_state():
    for name, operation in TWO_INPUT.items():
        moved = bool(fixed_cell(I, H, [[name]])(torch.randn(T, B, I)).any())
        assert operation.admits_input() == moved, name


def test_a_derived_cell_is_never_dead():
    """gate and carry outweigh everything, but from the zero state they lead nowhere."""
    cell = TwoInputCell(I, H, [["carry", "add_tanh", "gate"], ["gate", "add_relu", "hadamard"]])
    with torch.no_grad():
        cell.nodes[0].mixture.alpha.copy_(torch.tensor([3.0, 1.0, 0.0]))
        cell.nodes[1].mixture.alpha.copy_(torch.tensor([3.0, 2.0, 0.0]))
    assert cell.derive() == (("carry",), ("add_relu",))  # add_relu has more weight than add_tanh
    with torch.no_grad():
        cell.nodes[0].mixture.alpha.copy_(torch.tensor([0.0, 1.0, 0.0]))
    assert cell.derive() == (("add_tanh",), ("gate",))  # alive already: the strongest stay
    assert TwoInputCell(I, H, [["carry", "gate"]]).derive() in [(("carry",),), (("gate",),)]


def test_parameter_count_is_that_of_the_blocks():
    node = TwoInputNode(I, H, DEFAULT_TWO_INPUT)
    blocks = 6 * 1 + 2  # six single operations, one of two blocks, carry has none
    assert sum(p.numel() for p in node.theta_parameters()) == blocks * (H * I + H * H + H)


def test_impossible_cells_are_refused():
    with pytest.raises(ValueError, match="unknown operation 'foo': allowed are add_tanh"):
        TwoInputCell(2, 3, [["gate", "foo"]])
    with pytest.raises(ValueError, match="at least one node"):
        TwoInputCell(2, 3, [])
