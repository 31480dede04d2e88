r"""The mixed recurrent cell of DARTS over all time steps as one autograd function with a backward written by hand.

Over one time step, with $g = \sigma(c)$, $[c, u]_e = (s_j \odot m)\, W_e$ for an edge e from state j, mixture weights
$w_{ek}$ of the activations $f_k$, and $q_e = \sum_k w_{ek}$:

$$ s_0 = \mathrm{BN}(h + \sigma(c_0)(\tanh u_0 - h)), \quad
   z_i = \sum_{e \to i} \Big[ q_e s_j + g_e \big( \textstyle\sum_k w_{ek} f_k(u_e) - q_e s_j \big) \Big], \quad
   s_i = \mathrm{BN}(z_i), \quad h' = \sum_i r_i s_i . $$

The plain form is `RecurrentSearchCell.states`. This one keeps the states and the products [c, u]. The backward pass
computes everything elementwise again and leaves the products' gradients in the products' place.

Shapes: T time, B batch, H hidden, N nodes, L edges of a node, K activations.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from growdarts.forms import fast_form
from growdarts.spaces.precision import product_type
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.darts_recurrent.highway import RecurrentCell, masked
from growdarts_fast.derivatives import kept_once
from growdarts_fast.memory import empty
from growdarts_fast.products import SMALL, matmul, over_time
from growdarts_fast.recurrent_kernels import COLUMNS, add_at, mix, mix_backward, normalise, normalise_backward, scan, scan_backward


# Of a node: for each of its weights the states that are multiplied by it, one edge each.
Blocks = Sequence[Sequence[int]]


@fast_form(RecurrentSearchCell.states, "cpu")
def states(cell: RecurrentSearchCell, x: Tensor, h: Tensor, x_mask: Tensor | None, h_mask: Tensor | None) -> Tensor:
    """`RecurrentSearchCell.states` in float32 or float64 [DARTS Eq. 2].

    Within `torch.autocast` the products are computed in its type, everything else in that of `x`.
    """
    if h.dtype not in (torch.float32, torch.float64):
        return NotImplemented
    wx, U = cell.transformed_inputs(x, x_mask), cell.W0[cell.inputs:]
    nodes, mixtures, weights = [], [], []
    for node, live, names, shared, own in cell.prepared():
        columns = torch.tensor([COLUMNS.index(name) for name in names]).expand(len(live), -1)
        rows = [shared.new_zeros(len(live), len(COLUMNS)).scatter(1, columns, shared)]
        rows += [private.weight * torch.eye(len(COLUMNS)).to(shared)[[COLUMNS.index(private.activation)]]
                 for private in own]
        nodes.append((live, *([live[private.source]] for private in own)))
        mixtures.append(torch.cat(rows))
        weights += [node.W, *(private.W for private in own)]
    plain = sum(node.output_weight is None for node in cell.nodes)
    output_weights = torch.stack([U.new_tensor(1 / plain) if node.output_weight is None else node.output_weight
                                  for node in cell.nodes])
    norms = [cell.bn, *(node.bn or cell.bn for node in cell.nodes)]
    running = None if cell.training else [torch.stack([getattr(bn, name) for bn in norms])
                                          for name in ("running_mean", "running_var")]
    dtype = product_type(wx)
    with torch.autocast("cpu", enabled=False):
        found, means, variances = _MixedScan.apply(nodes, cell.bn.eps, running, dtype, wx, h, h_mask, U, output_weights,
                                                   *mixtures, *weights)
    if cell.training:
        for bn in dict.fromkeys(norms):
            its = [state for state, other in enumerate(norms) if other is bn]
            _count(bn, means[:, its].flatten(0, 1), variances[:, its].flatten(0, 1) * len(h) / (len(h) - 1))
    return found


@fast_form(RecurrentCell.states, "cpu")
def derived_states(cell: RecurrentCell, x: Tensor, h: Tensor, x_mask: Tensor | None, h_mask: Tensor | None) -> Tensor:
    """`RecurrentCell.states` in float32 or float64: a searched cell with one operation a node, whose batch norms change nothing."""
    edges, concat = cell.genotype().recurrent, cell.genotype().concat
    if h.dtype not in (torch.float32, torch.float64) or 0 in concat:
        return NotImplemented
    wx, U = cell.transformed_inputs(x, x_mask), cell.W0[cell.inputs:]
    mixtures = torch.eye(len(COLUMNS)).to(U)[[COLUMNS.index(activation) for activation, _ in edges]].split(1)
    r = U.new_tensor([concat.count(i) / len(concat) for i in range(1, len(edges) + 1)])
    identity = [make(len(edges) + 1, cell.hidden) for make in (U.new_zeros, U.new_ones)]
    dtype = product_type(wx)
    with torch.autocast("cpu", enabled=False):
        return _MixedScan.apply([([j],) for _, j in edges], 0.0, identity, dtype, wx, h, h_mask, U, r, *mixtures, *cell.Ws)[0]


@torch.no_grad()
def _count(bn: nn.BatchNorm1d, means: Tensor, variances: Tensor) -> None:
    """Running statistics after batches of these means and variances (n, H), one after the other."""
    n, before = len(means), int(bn.num_batches_tracked)
    if bn.momentum is None:  # the plain mean of all batches
        keep, shares = before / (before + n), means.new_full((n,), 1.0) / (before + n)
    else:
        decay = 1 - bn.momentum
        keep, shares = decay**n, bn.momentum * decay ** torch.arange(n).flip(0).to(means)
    for running, values in ((bn.running_mean, means), (bn.running_var, variances)):
        running.mul_(keep).add_(shares @ values)
    bn.num_batches_tracked += n


class _Work:
    """Arrays of one time step that are used again at every other, and the edges as arrays."""

    def __init__(self, nodes: Sequence[Blocks], like: Tensor, dtype: torch.dtype) -> None:
        B, H = like.shape
        self.sources = [np.array([j for block in blocks for j in block]) for blocks in nodes]
        self.ends = np.cumsum([0, *map(len, self.sources)])
        blocks = [block for blocks in nodes for block in blocks]
        self.edges = np.concatenate(self.sources), np.repeat(np.arange(len(blocks)), list(map(len, blocks))), self.ends
        longest = max(map(len, self.sources))
        self.back = like.new_empty(longest, B, H, dtype=dtype)
        self.wide = like.new_empty(longest, B, 2 * H) if dtype != like.dtype else None
        self.z, self.states = like.new_empty(B, H), like.new_empty(len(nodes) + 1, B, H)

    def mask(self, h_mask: Tensor | None) -> Tensor:
        """The mask, or ones."""
        return torch.ones_like(self.z) if h_mask is None else h_mask.to(self.z).contiguous()

    def widened(self, product: Tensor) -> Tensor:
        """A node's products in the type of the states."""
        return product if self.wide is None else self.wide[:len(product)].copy_(product)


class _MixedScan(torch.autograd.Function):
    """States h_1 .. h_T (T, B, H), and mean and variance of every batch norm's input, (T, N + 1, H) each.

    eps, running : of all batch norms; mean and variance (N + 1, H) in eval mode, None in train mode.
    wx, U : transformed inputs (T, B, 2 H) and the weight (H, 2 H) of the state before, in state 0.
    h, h_mask : the state before, (B, H), and the dropout mask of all states (B, H).
    r : output weights (N,).
    tensors : w of every node, (L, 4), columns as in `growdarts_fast.recurrent_kernels.COLUMNS`; then W (H, 2 H), in the
        order of `nodes`.
    """

    @staticmethod
    def forward(ctx: Any, nodes: Sequence[Blocks], eps: float, running: Sequence[Tensor] | None, dtype: torch.dtype, wx: Tensor,
                h: Tensor, h_mask: Tensor | None, U: Tensor, r: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        T, (B, H), N = len(wx), h.shape, len(nodes)
        train, work = running is None, _Work(nodes, h, dtype)
        mixtures, Ws, U = tensors[:N], _by_node(nodes, [W.to(dtype) for W in tensors[N:]]), U.to(dtype)
        states = empty((T, N + 1, B, H), wx.dtype)
        read = states if h_mask is None and dtype == wx.dtype else empty((T, N + 1, B, H), dtype)
        first, hidden = empty((T, B, 2 * H), wx.dtype), empty((T + 1, B, H), wx.dtype)
        kept = empty((T, work.ends[-1], B, 2 * H), dtype)
        products = kept.split(list(map(len, work.sources)), dim=1)  # by node
        means, variances = wx.new_empty(T, N + 1, H), wx.new_empty(T, N + 1, H)
        if not train:
            means[:], variances[:] = running
        hidden[0] = h
        if small := dtype == wx.dtype and B * U.numel() <= SMALL:
            scan(*work.edges, *_arrays((torch.cat(mixtures), r)), eps, train, *_arrays((
                torch.stack([W for block in Ws for W in block]), U, wx, work.mask(h_mask), first, hidden, states, read, kept, means, variances)))
        else:
            w, (s, m, v, z) = _arrays(mixtures), _arrays((states, means, variances, work.z))

            def normalise_state(t: int, i: int, z: np.ndarray) -> None:
                """z becomes state i."""
                normalise(z, m[t, i], v[t, i], eps, train, s[t, i])
                if read is not states:
                    read[t, i] = masked(states[t, i], h_mask)

            for t in range(T):
                torch.add(wx[t], matmul(masked(hidden[t], h_mask).to(dtype), U, halves=True), out=first[t])
                c, u = first[t].chunk(2, dim=-1)
                normalise_state(t, 0, torch.lerp(hidden[t], torch.tanh(u), torch.sigmoid(c)).numpy())
                for i, blocks in enumerate(nodes):
                    product, row = products[i][t], 0
                    for block, W in zip(blocks, Ws[i], strict=True):
                        rows = product[row:row + len(block)].view(-1, 2 * H)
                        matmul(_pick(read[t], block).flatten(0, 1), W, out=rows, halves=True)
                        row += len(block)
                    mix(s[t], work.sources[i], work.widened(product).numpy(), w[i], z)
                    normalise_state(t, i + 1, z)
                torch.mv(states[t, 1:].view(N, -1).t(), r, out=hidden[t + 1].view(-1))
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(h_mask, U, r, *mixtures, *(W for block in Ws for W in block))
            ctx.kept = states, read, first, kept, hidden, variances, work
            ctx.nodes, ctx.eps, ctx.train, ctx.dtype, ctx.small = nodes, eps, train, dtype, small
        ctx.mark_non_differentiable(means, variances)
        return hidden[1:], means, variances

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        states, read, first, kept, hidden, variances, work = kept_once(ctx, "mixed_scan")
        products = kept.split(list(map(len, work.sources)), dim=1)
        nodes, dtype, N = ctx.nodes, ctx.dtype, len(ctx.nodes)
        h_mask, U, r, *tensors = ctx.saved_tensors
        mixtures, Ws = tensors[:N], _by_node(nodes, tensors[N:])
        _, _, _, _, wants_wx, wants_h, _, wants_U, wants_r, *wanted = ctx.needs_input_grad
        wants_w = any(wanted[:N])
        dw_all = torch.zeros(work.ends[-1], len(COLUMNS), dtype=r.dtype)
        dws = dw_all.split(list(map(len, work.sources)))
        dhs = torch.empty_like(hidden)  # total gradients of h_0 .. h_T
        dhs[-1] = 0
        if ctx.small:
            transposed = torch.stack([W.t() for block in Ws for W in block])
            scan_backward(*work.edges, *_arrays((torch.cat(mixtures), r)), ctx.eps, ctx.train, *_arrays((
                transposed, U.t().contiguous(), grad.contiguous(), work.mask(h_mask), first, hidden, states, kept, variances, dhs, dw_all)), wants_w)
        else:
            ds, dz = work.states, work.z
            w, dw, (s, v, by_s, by_z) = _arrays(mixtures), _arrays(dws), _arrays((states, variances, ds, dz))
            mask = work.mask(h_mask).numpy()

            def normalise_state_backward(t: int, i: int) -> None:
                """dz of what became state i."""
                normalise_backward(by_s[i], s[t, i], v[t, i], ctx.eps, ctx.train, by_z)

            for t in reversed(range(len(grad))):
                dh = dhs[t + 1].add_(grad[t])
                ds[0] = 0
                torch.mul(r[:, None, None], dh, out=ds[1:])
                for i in reversed(range(N)):
                    normalise_state_backward(t, i + 1)
                    product, row = products[i][t], 0
                    values = work.widened(product)
                    mix_backward(s[t], work.sources[i], values.numpy(), w[i], by_z, by_s, dw[i], wants_w)
                    if values is not product:
                        product.copy_(values)
                    for block, W in zip(nodes[i], Ws[i], strict=True):
                        back = work.back[row:row + len(block)]
                        matmul(product[row:row + len(block)].flatten(0, 1), W.t(), out=back.view(-1, W.shape[0]))
                        row += len(block)
                    add_at(by_s, work.sources[i], work.back[:row].to(dz.dtype).numpy(), mask)
                normalise_state_backward(t, 0)
                c, u = first[t].chunk(2, dim=-1)
                gate, candidate = torch.sigmoid(c), torch.tanh(u)
                dc = torch.ops.aten.sigmoid_backward(dz * (candidate - hidden[t]), gate)
                torch.cat([dc, torch.ops.aten.tanh_backward(dz * gate, candidate)], dim=1, out=first[t])
                back = matmul(first[t].to(dtype), U.t()).to(dz.dtype)
                torch.add(dz * (1 - gate), masked(back, h_mask), out=dhs[t])

        grads_W: list[Tensor | None] = [None] * len(wanted[N:])
        if any(wanted[N:]):
            grads_W = [g for blocks, product in zip(nodes, products, strict=True)
                       for g in _weight_gradients(read, blocks, product)]
        grad_U = over_time(masked(hidden[:-1], h_mask), first, dtype) if wants_U else None
        grad_r = torch.einsum("tbh,tnbh->n", dhs[1:], states[:, 1:]) if wants_r else None
        return (None, None, None, None, first if wants_wx else None, dhs[0] if wants_h else None, None, grad_U, grad_r,
                *(dws if wants_w else [None] * N), *grads_W)


def _arrays(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]  # once: at every step it would take a while


def _by_node(nodes: Sequence[Blocks], weights: Sequence[Tensor]) -> list[list[Tensor]]:
    remaining = iter(weights)
    return [[next(remaining) for _ in blocks] for blocks in nodes]


def _pick(states: Tensor, index: Sequence[int]) -> Tensor:
    """states[index], without a copy where they are neighbours."""
    first, n = index[0], len(index)
    return states[first:first + n] if list(index) == list(range(first, first + n)) else states[list(index)]


def _weight_gradients(read: Tensor, blocks: Blocks, product: Tensor) -> list[Tensor]:
    """Of every weight of a node, from the gradients by its products (T, L, B, 2 H)."""
    parts = product.split([len(block) for block in blocks], dim=1)  # (T, edges, B, 2 H)
    return [over_time(_pick(read.transpose(0, 1), block).transpose(0, 1), part, product.dtype)
            for block, part in zip(blocks, parts, strict=True)]
