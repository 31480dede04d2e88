"""The recurrent cells of DARTS against the original's arrays, loops written by hand, and their own past."""

import contextlib
import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from growdarts_study import published
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.darts_recurrent.highway import INIT_RANGE, RecurrentCell
from growdarts.spaces.darts.genotypes import RecurrentGenotype
from growdarts.spaces.genotype import GenotypeError
from original_states import export_alphas, load_alphas, load_original, original_tensors
from growdarts.growth import grow_node
from growdarts.mixture import operation_name
from growdarts.forms import plain_forms
from stepping import step

GOLDEN = Path(__file__).parent / "golden"
T, B, I, H = 3, 4, 5, 2
FUNCTIONS = {"tanh": math.tanh, "relu": lambda u: max(u, 0.0), "identity": lambda u: u,
             "sigmoid": lambda u: 1 / (1 + math.exp(-u))}


def tensors(path):
    return {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / path).items() if value.dtype.kind in "fi"}


def close(actual, expected, atol=1e-9):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def golden_search_cell():
    golden = tensors("darts_rnn_search.npz")
    cell = RecurrentSearchCell(6, 6, 8).double()
    load_original(cell, {"_W0": golden["W0"], **{f"_Ws.{i}": W for i, W in enumerate(golden["Ws"])},
         "bn.running_mean": torch.zeros(6), "bn.running_var": torch.ones(6)})
    load_alphas(cell, golden["alpha"])
    return cell, golden


# The original -------------------------------------------------------------------------------------------------

def test_search_cell_is_the_original():
    cell, golden = golden_search_cell()
    x, h = golden["x"].requires_grad_(), golden["h0"].requires_grad_()
    out = cell(x, h)
    close(out, golden["out_train"])
    (out * golden["cotangent"]).sum().backward()
    close(x.grad, golden["grad_x"])
    close(h.grad, golden["grad_h0"])
    close(cell.W0.grad, golden["grad_W0"])
    close(torch.stack([node.W.grad for node in cell.nodes]), golden["grad_Ws"])
    close(torch.stack([alpha.grad for alpha in cell.alpha_parameters()]), golden["grad_alpha"])
    close(cell.bn.running_mean, golden["bn_running_mean_after"])
    close(cell.bn.running_var, golden["bn_running_var_after"])


def test_derived_genotype_is_the_original():
    derived, golden = golden_search_cell()[0].genotype(), np.load(GOLDEN / "darts_rnn_search.npz")
    assert [f"{name}:{j}" for name, j in derived.recurrent] == golden["genotype"].tolist()
    assert derived.concat == tuple(golden["concat"])


@pytest.mark.parametrize("name", ["DARTS_V1", "DARTS_V2", "ENAS"])
def test_fixed_cell_is_the_original(name):
    golden = tensors("darts_rnn_eval.npz")
    edges = [edge.split(":") for edge in np.load(GOLDEN / "darts_rnn_eval.npz")[f"{name}/genotype"]]
    genotype = RecurrentGenotype([(operation, int(j)) for operation, j in edges], golden[f"{name}/concat"].tolist())
    cell = RecurrentCell(6, 6, genotype).double().eval()
    load_original(cell, {"_W0": golden[f"{name}/W0"], **{f"_Ws.{i}": W for i, W in enumerate(golden[f"{name}/Ws"])}})
    close(cell(golden[f"{name}/x"], golden[f"{name}/h0"]), golden[f"{name}/out"])


# A loop by hand -----------------------------------------------------------------------------------------------

def highway(state, mask, W, activation):
    """s + sigmoid(c) (f(u) - s) of one sample, unit by unit; `state` may be longer than s: x_t comes before h."""
    width = len(W[0]) // 2
    dropped, s = [v * m for v, m in zip(state, mask, strict=True)], state[-width:]
    out = []
    for unit in range(width):
        c = sum(v * W[k][unit] for k, v in enumerate(dropped))
        u = sum(v * W[k][width + unit] for k, v in enumerate(dropped))
        out.append(s[unit] + FUNCTIONS["sigmoid"](c) * (FUNCTIONS[activation](u) - s[unit]))
    return out


def softmax(alpha):
    exponentials = [math.exp(a) for a in alpha]
    return [e / sum(exponentials) for e in exponentials]


class HandNorm:
    """Batch norm of a list of samples, with running statistics."""

    def __init__(self, bn):
        self.mean, self.var, self.training = bn.running_mean.tolist(), bn.running_var.tolist(), bn.training

    def __call__(self, batch):
        n = len(batch)
        mean, var = list(self.mean), list(self.var)
        if self.training:
            columns = list(zip(*batch, strict=True))
            mean = [sum(column) / n for column in columns]
            var = [sum((v - m) ** 2 for v in column) / n for column, m in zip(columns, mean, strict=True)]
            self.mean = [0.9 * old + 0.1 * new for old, new in zip(self.mean, mean, strict=True)]
            self.var = [0.9 * old + 0.1 * new * n / (n - 1) for old, new in zip(self.var, var, strict=True)]
        return [[(v - m) / math.sqrt(w + 1e-5) for v, m, w in zip(sample, mean, var, strict=True)] for sample in batch]


def hand_loop(cell, x, x_mask, h_mask):
    """The search cell as it is, time step by time step, node by node, edge by edge, operation by operation."""
    B, H = len(h_mask), cell.hidden
    W0, norm, h, outputs = cell.W0.tolist(), HandNorm(cell.bn), [[0.0] * H] * B, []
    masks, both = h_mask.tolist(), torch.cat([x_mask, h_mask], dim=1).tolist()
    norms = [norm if node.output_weight is None else HandNorm(node.bn) for node in cell.nodes]
    for x_t in x.tolist():
        states = [norm([highway(x_t[b] + h[b], both[b], W0, "tanh") for b in range(B)])]
        for node, its_norm in zip(cell.nodes, norms, strict=True):
            batch = [[0.0] * H for _ in range(B)]
            for j, edge in enumerate(node.edges):
                for name, weight in zip(edge.keys, softmax(edge.alpha.tolist()), strict=True):
                    W = (node.private[j][name] if name in node.private[j] else node.W).tolist()
                    for b in range(B if name != "none" else 0):
                        out = highway(states[j][b], masks[b], W, operation_name(name))
                        batch[b] = [total + weight * o for total, o in zip(batch[b], out, strict=True)]
            states.append(its_norm(batch))
        share = [1 / sum(node.output_weight is None for node in cell.nodes) if node.output_weight is None
                 else node.output_weight.item() for node in cell.nodes]
        h = [[sum(w * s[b][unit] for w, s in zip(share, states[1:], strict=True)) for unit in range(H)]
             for b in range(B)]
        outputs.append(h)
    return torch.tensor(outputs, dtype=torch.float64), [norm, *norms]


def example(n_nodes=3):
    cell = RecurrentSearchCell(I, H, n_nodes).double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter)
    x, x_mask, h_mask = (torch.randn(shape, dtype=torch.float64) for shape in ((T, B, I), (B, I), (B, H)))
    return cell, x, (x_mask > 0) * 2.0, (h_mask > -1) * 1.5


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("change", ["none", "pruned", "grown"])
def test_search_cell_matches_hand_loop(training, change):
    cell, x, x_mask, h_mask = example()
    cell.train(training)
    if change == "pruned":
        for k, edge in enumerate(list(cell.mixtures())):
            cell.keep_operations(edge, [[0], [1, 3], [4, 2], [0, 4], [0], [2]][k])
    if change == "grown":
        cell.grow_node(morphism=True, epsilon=1.0, noise=1.0)
        cell.grow_node(morphism=False, epsilon=1.0, noise=1.0)
    expected, norms = hand_loop(cell, x, x_mask, h_mask)
    out = cell(x, None, x_mask, h_mask)
    close(out, expected, 1e-12)
    for bn, norm in zip([cell.bn, *(node.bn or cell.bn for node in cell.nodes)], norms, strict=True):
        close(bn.running_mean, torch.tensor(norm.mean, dtype=torch.float64), 1e-12)
        close(bn.running_var, torch.tensor(norm.var, dtype=torch.float64), 1e-12)


def test_fixed_cell_with_masks_matches_hand_loop():
    genotype = RecurrentGenotype([("relu", 0), ("sigmoid", 0), ("identity", 1)], [2, 3])
    cell = RecurrentCell(I, H, genotype).double()
    _, x, x_mask, h_mask = example()
    h, outputs = [[0.0] * H] * B, []
    for x_t in x.tolist():
        new = []
        for b in range(B):
            mask = h_mask[b].tolist()
            states = [highway(x_t[b] + h[b], x_mask[b].tolist() + mask, cell.W0.tolist(), "tanh")]
            for (name, j), W in zip(genotype.recurrent, cell.Ws, strict=True):
                states.append(highway(states[j], mask, W.tolist(), name))
            new.append([sum(states[i][unit] for i in genotype.concat) / 2 for unit in range(H)])
        h = new
        outputs.append(h)
    close(cell(x, None, x_mask, h_mask), torch.tensor(outputs, dtype=torch.float64), 1e-12)


def test_state_is_carried_between_calls_and_masks_of_ones_change_nothing():
    cell, x, _, _ = example()
    for cell in (cell.eval(), RecurrentCell(I, H, published.PTB_DARTS_V2).double()):
        first = cell(x[:2])
        whole = cell(x, None, x.new_ones(B, I), x.new_ones(B, H))
        close(torch.cat([first, cell(x[2:], first[-1])]), whole, 1e-14)


def test_first_and_second_derivatives():
    """Also of a cell with pruned edges: -inf logits must not make NaN."""
    cell, x, _, _ = example(2)
    first, *_ = cell.mixtures()
    cell.keep_operations(first, [1, 4])
    names = [name for name, _ in cell.named_parameters()]

    def run(*values):
        return torch.func.functional_call(cell, dict(zip(names, values, strict=True)), (x[:2],))

    values = [p.detach().clone().requires_grad_() for p in cell.parameters()]
    with plain_forms():
        assert torch.autograd.gradcheck(run, values, fast_mode=True)
        assert torch.autograd.gradgradcheck(run, values, fast_mode=True)


def test_fresh_weights_are_in_the_originals_range():
    cell = RecurrentSearchCell(30, 40, 3)
    assert [tuple(p.shape) for p in cell.theta_parameters()] == [(70, 80)] + [(40, 80)] * 3
    assert all(0.95 * INIT_RANGE < p.abs().max() <= INIT_RANGE for p in cell.theta_parameters())
    assert export_alphas(cell)[0].shape == (6, 5) and export_alphas(cell)[0].abs().max() < 0.01


def test_flops_are_those_of_the_products():
    cell = RecurrentSearchCell(I, H, 3)
    assert cell.flops() == 2 * ((I + H) * 2 * H + (1 + 2 + 3) * H * 2 * H)
    assert RecurrentCell(I, H, published.PTB_DARTS_V2).flops() == 2 * ((I + H) * 2 * H + 8 * H * 2 * H)


@pytest.mark.parametrize("arguments", [(0,), (1, ("none",)), (1, ("none", "tan")), (1, ())])
def test_impossible_cells_are_refused(arguments):
    with pytest.raises(ValueError, match="needs a node, and a node an operation|unknown operations \\['tan'\\]"):
        RecurrentSearchCell(I, H, *arguments)
    with pytest.raises(GenotypeError, match="of space 'darts_conv': expected 'darts_recurrent'"):
        RecurrentCell(I, H, published.CIFAR10_DARTS_V2)


def test_a_single_column_is_refused_in_train_mode_only():
    cell, x = RecurrentSearchCell(I, H, 2), torch.randn(2, 1, I)
    with pytest.raises(ValueError, match="batch of size 1: allowed is at least 2 in train mode"):
        cell(x)
    assert cell.eval()(x).isfinite().all()


# Growing ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n_nodes", [1, 4])
@pytest.mark.parametrize("form", [contextlib.nullcontext, plain_forms])
def test_a_grown_state_leaves_the_statistics_of_the_others_alone(n_nodes, form):
    """In eval mode too, over ten windows of training mode; the control is the cell that did not grow."""
    epsilon, windows = 1e-3, [torch.randn(9, 6, I, dtype=torch.float64) for _ in range(20)]
    cell = RecurrentSearchCell(I, H, n_nodes).double()
    for p in cell.theta_parameters():
        nn.init.normal_(p, std=0.4)
    with form():
        for x in windows[:10]:
            cell(x)
        control = copy.deepcopy(cell)
        cell.grow_node(morphism=True, epsilon=epsilon, noise=0.1)
        for x in windows[10:]:
            grown, other = cell.eval()(x), control.eval()(x)
            assert (grown - other).norm() <= epsilon * other.norm()
            cell.train()(x), control.train()(x)
    for name in ("running_mean", "running_var"):
        close(getattr(cell.bn, name), getattr(control.bn, name), epsilon)
    assert not torch.equal(cell.nodes[-1].bn.running_var, torch.ones(H))

def trained(n_nodes=2, steps=30, hidden=8):
    """A float64 cell and its optimisers in the middle of a training."""
    network = RecurrentSearchCell(I, hidden, n_nodes).double()
    theta = torch.optim.Adam(network.theta_parameters(), lr=0.01)
    alpha = torch.optim.Adam(network.alpha_parameters(), lr=0.05)
    x, y = torch.randn(6, 32, I, dtype=torch.float64), torch.randn(6, 32, hidden, dtype=torch.float64)
    for _ in range(steps):
        step(nn.functional.mse_loss(network(x), y), theta, alpha)
    return network, theta, alpha, x, y


def output(network, x):
    """All states of the cell, without moving its running statistics."""
    return copy.deepcopy(network)(x)


@pytest.mark.parametrize("n_nodes", [1, 2, 5])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-4, 1e-6])
def test_output_unchanged(n_nodes, mode, epsilon):
    network, theta, alpha, x, _ = trained(n_nodes)
    getattr(network, mode)()
    before = output(network, x)
    for _ in range(3):  # growing again and again stays within epsilon each time
        grow_node(network, theta, alpha, morphism=True, epsilon=epsilon, noise=0.5)
        after = output(network, x)
        assert 0 < (after - before).norm() <= epsilon * before.norm()
        before = after
    assert network.n_nodes() == n_nodes + 3


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_without_noise_the_new_node_is_exact_for_any_weights(mode):
    network, theta, alpha, x, _ = trained()
    getattr(network, mode)()
    before = output(network, x)
    grow_node(network, theta, alpha, morphism=True, epsilon=1e-3, noise=0.0)
    for parameter in [network.nodes[-1].W, *(edge.alpha for edge in network.nodes[-1].edges)]:
        nn.init.normal_(parameter)
    assert torch.equal(output(network, x), before)


def test_fresh_node_joins_the_mean_and_changes_the_output():
    network, theta, alpha, x, _ = trained()
    before = output(network, x)
    grow_node(network, theta, alpha, morphism=False, epsilon=1e-3, noise=0.1)
    # small fresh weights and batch norm make the node an average of the others: a change of percents, not more
    assert (output(network, x) - before).norm() > 10 * 1e-3 * before.norm()
    plain = RecurrentSearchCell(I, 8, 3).double()
    plain.load_state_dict(network.state_dict())  # the same cell as one that always had three nodes
    assert torch.equal(plain(x), output(network, x))


def test_a_grown_node_is_trained_into_use():
    network, theta, alpha, x, y = trained()
    grow_node(network, theta, alpha, morphism=True, epsilon=1e-3, noise=0.1)
    weight = network.nodes[-1].output_weight
    before = nn.functional.mse_loss(network(x), y).item()
    for _ in range(30):
        loss = nn.functional.mse_loss(network(x), y)
        theta.zero_grad()
        loss.backward()
        theta.step()
    assert loss < before and abs(weight.item()) > 0.02


# Pruning and deriving -----------------------------------------------------------------------------------------

def keep(cell, *names):
    """Leave one operation on every edge."""
    for edge, name in zip(list(cell.mixtures()), names, strict=True):
        cell.keep_operations(edge, [edge.keys.index(name)])


def test_a_search_cell_with_one_edge_a_node_is_the_fixed_cell_but_for_batch_norm():
    cell, x, _, _ = example()
    keep(cell, "relu", "none", "tanh", "identity", "none", "none")
    fixed = RecurrentCell(I, H, cell.genotype()).double()
    assert fixed.genotype().recurrent == (("relu", 0), ("tanh", 1), ("identity", 0))
    state = original_tensors(cell)
    load_original(fixed, {name: value for name, value in state.items() if not name.startswith("bn")})
    cell.bn = nn.Identity()
    with plain_forms():
        close(cell(x), fixed(x), 1e-14)
    assert cell.flops() == fixed.flops()


def test_deriving_leaves_out_none_and_takes_the_first_of_equals():
    cell = RecurrentSearchCell(I, H, 2)
    rows = torch.tensor([[9.0, 0, 1, 0, 0], [0, 0, 0, 2, 2], [0, 2, 0, 0, 2]])
    load_alphas(cell, rows)
    assert cell.genotype() == RecurrentGenotype([("relu", 0), ("sigmoid", 0)], [1, 2])


def test_nodes_without_operations_are_left_out_of_the_genotype():
    cell, x, _, _ = example(4)
    keep(cell, *["none"], *["relu", "tanh"], *["none", "tanh", "none"], *["none", "tanh", "relu", "none"])
    for gradient in torch.autograd.grad(cell(x).square().sum(), cell.theta_parameters() + cell.alpha_parameters()):
        assert gradient.isfinite().all()
    # node 1 is dead, node 3 reads node 1 only; 2 and 4 stay and are counted anew
    assert cell.genotype() == RecurrentGenotype([("relu", 0), ("relu", 1)], [1, 2])
    keep(dead := RecurrentSearchCell(I, H, 2), "none", "none", "tanh")
    with pytest.raises(GenotypeError, match="none only: no architecture"):
        dead.genotype()
