"""A softmax mixture over a list of operations that can grow and shrink."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Mixture(nn.Module):
    """Architecture logits `alpha` (K,) over K named candidates [DARTS Eq. 2].

    `keys` are unique; a duplicated operation is stored as `"name#2"`, `"name#3"`, ...

    Parameters
    ----------
    keys : names of the candidates, in the order of `alpha`.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__()
        if not keys or len(set(keys)) != len(keys):
            raise ValueError(f"a mixture needs at least one operation and unique names, got {list(keys)}")
        self.keys = list(keys)
        # DARTS starts near the uniform mixture; the small noise breaks ties between equal operations.
        self.alpha = nn.Parameter(1e-3 * torch.randn(len(keys)))

    def weights(self) -> Tensor:
        """softmax(alpha), shape (K,)."""
        return torch.softmax(self.alpha, dim=0)

    def operation_weights(self) -> dict[str, float]:
        """Mixture weights by operation, the copies of a duplicated one added up."""
        total: dict[str, float] = {}
        for key, weight in self.named_weights().items():
            total[operation_name(key)] = total.get(operation_name(key), 0.0) + weight
        return total

    def named_weights(self) -> dict[str, float]:
        """Mixture weights by key, as floats."""
        return dict(zip(self.keys, self.weights().tolist(), strict=True))

    def keep(self, index: list[int]) -> tuple[nn.Parameter, nn.Parameter]:
        """Keep only the candidates `index`; the softmax hands the others' weight to them.

        Returns the old and the new `alpha`, so that the caller can carry the optimiser's moments over.
        """
        if not index:
            raise ValueError("a mixture must keep at least one operation")
        old = self.alpha
        self.alpha = nn.Parameter(old.detach()[index].clone())
        self.keys = [self.keys[i] for i in index]
        return old, self.alpha


def operation_name(key: str) -> str:
    """The operation's name behind a mixture key: `"gate#2"` -> `"gate"`."""
    return key.split("#")[0]
