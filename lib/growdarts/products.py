"""Products of matrices, by whichever of torch's two libraries computes them faster.

`torch.mm` of float32 goes to the BLAS that torch was built with, MKL for x86 processors, which does without the widest
vector instructions of some of them; `torch.nn.Linear` as `torch.compile` builds it goes to oneDNN, which uses them. Both
compute in float32. oneDNN takes longer to start, so small products, other types and builds without it have `torch.mm`.
"""

import torch
from torch import Tensor

LEAST = 2**21  # multiply-adds from which oneDNN is the faster one

_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def matmul(x: Tensor, W: Tensor, out: Tensor | None = None) -> Tensor:
    """x W of matrices (n, k) and (k, m), in `out` if that is given; autograd does not follow it."""
    if _linear is None or x.dtype != torch.float32 or x.shape[0] * W.numel() < LEAST:
        return torch.mm(x, W, out=out)
    found = _linear.default(x, W.t(), None, "none", [], "")
    return found if out is None else out.copy_(found)
