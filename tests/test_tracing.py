"""Traces of the recurrent cells' operations: their mixture is what the node computes, their gradient the total one."""

import pytest
import torch

from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.tracing import statistics_kept
from growdarts.spaces.two_input.cell import TwoInputCell
from growdarts.spaces.two_input.network import TwoInputLayers
from growdarts.forms import plain_forms

T, B, H = 20, 5, 6


def recurrent():
    torch.manual_seed(0)
    cell = RecurrentSearchCell(H, H, 2).double()
    cell.grow_node(morphism=True, epsilon=0.5, noise=0.5)
    cell.keep_operations(list(cell.mixtures())[1], [0])  # an edge of none only
    cell.duplicate_operation(list(cell.mixtures())[3], "tanh")
    return cell


def two_input():
    torch.manual_seed(0)
    return TwoInputLayers([TwoInputCell(H, H, [["add_tanh", "gate"], ["hadamard", "gate", "gate#2"]])]).double()


def passed(cell, *arguments):
    """States, and what the next run starts from."""
    result = cell(*arguments)
    return result if isinstance(result, tuple) else (result, result[-1])


def nodes_of(cell):
    return cell.nodes if isinstance(cell, RecurrentSearchCell) else cell.cells[0].nodes


def twice(cell, length):
    """A loss in which the cell runs on from where it was, so that early states count in both runs."""
    x, weight = torch.randn(2, length, B, H, dtype=torch.float64), torch.randn(length, B, H, dtype=torch.float64)
    masks = [(torch.rand(B, H) > 0.3).double() / 0.7 for _ in range(2)] if isinstance(cell, RecurrentSearchCell) else []

    def loss():
        first, h = passed(cell, x[0], None, *masks)
        return (first * weight).mean() + passed(cell, x[1], h, *masks)[0].square().sum()

    return loss


@pytest.mark.parametrize("make", [recurrent, two_input])
@pytest.mark.parametrize("length", [2, T])
@pytest.mark.parametrize("within_plain_forms", [False, True])
def test_traces_have_the_nodes_outputs_and_the_gradients_by_them(make, length, within_plain_forms):
    cell = make()
    loss = twice(cell, length)
    if within_plain_forms:
        with plain_forms():
            traces = cell.trace_operations(loss)
    else:
        traces = cell.trace_operations(loss)
    nodes = nodes_of(cell)
    outputs, zeros = {node: [] for node in nodes}, {node: [] for node in nodes}

    def add_zeros(node, arguments, output):
        """The loss's gradient by zeros that are added to an output is that by the output."""
        outputs[node].append(output.detach())
        zeros[node].append(torch.zeros_like(output, requires_grad=True))
        return output + zeros[node][-1]

    hooks = [node.register_forward_hook(add_zeros) for node in nodes]
    with plain_forms(), statistics_kept(cell):
        value = loss()
        expected = {node: torch.cat(torch.autograd.grad(value, zeros[node], retain_graph=True)) for node in nodes}
    for hook in hooks:
        hook.remove()
    assert len(traces) == sum(key != "none" for mixture in cell.mixtures() for key in mixture.keys)
    for node in nodes:
        own = [trace for trace in traces if trace.mixture in list(node.modules())]
        assert expected[node].any()
        for trace in own:
            torch.testing.assert_close(trace.gradient, expected[node], rtol=1e-9, atol=1e-12)
        mixed = sum(trace.weight * trace.function(trace.weights) for trace in own)
        torch.testing.assert_close(mixed, torch.cat(outputs[node]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [recurrent, two_input])
def test_a_loss_that_the_cell_has_no_say_in(make):
    cell = make()
    x = torch.randn(T, B, H, dtype=torch.float64)
    traces = cell.trace_operations(lambda: passed(cell, x)[0].sum() * 0)
    assert traces and not any(trace.gradient.any() for trace in traces)
