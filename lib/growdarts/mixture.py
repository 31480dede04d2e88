"""A softmax mixture over a list of operations that can grow and shrink."""

import math
from collections.abc import Mapping, Sequence
from itertools import count

import torch
from torch import Tensor, nn


class Mixture(nn.Module):
    """Logits `alpha` (K,) over K candidates of unique `keys` [DARTS Eq. 2]; copies are `"name#2"`, `"name#3"`, ..."""

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
        """Mixture weights by operation, as floats, copies added up."""
        return by_operation(self.named_weights())

    def named_weights(self) -> dict[str, float]:
        """Mixture weights by key, as floats."""
        return dict(zip(self.keys, self.weights().tolist(), strict=True))

    def keep(self, index: list[int]) -> tuple[nn.Parameter, nn.Parameter]:
        """Keep only the candidates `index`; the old and the new alpha, for the optimiser's moments."""
        if not index:
            raise ValueError("a mixture must keep at least one operation")
        old = self.alpha
        self.alpha = nn.Parameter(old.detach()[index].clone())
        self.keys = [self.keys[i] for i in index]
        return old, self.alpha

    def append(self, key: str, logit: Tensor | float) -> tuple[nn.Parameter, nn.Parameter]:
        """Add candidate `key` with architecture logit `logit`; the old and the new alpha."""
        if key in self.keys:
            raise ValueError(f"the mixture of {self.keys} holds {key!r} already")
        old = self.alpha
        self.alpha = nn.Parameter(torch.cat([old.detach(), torch.as_tensor(logit).detach().to(old).reshape(1)]))
        self.keys = [*self.keys, key]
        return old, self.alpha

    def add(self, key: str, weight: float) -> tuple[nn.Parameter, nn.Parameter]:
        r"""Add candidate `key` with mixture weight w, between 0 and 1; the others keep their ratios.

        Its logit is $\log \sum_o e^{\alpha_o} + \log \frac{w}{1 - w}$. Returns the old and the new alpha.
        """
        if key in map(operation_name, self.keys):
            raise ValueError(f"the mixture of {self.keys} holds {key!r} already")
        return self.append(key, torch.logsumexp(self.alpha.detach(), 0) + math.log(weight / (1 - weight)))

    def duplicate(self, key: str) -> tuple[str, nn.Parameter, nn.Parameter]:
        r"""Let a copy share the weight of `key`: both logits are $\alpha - \log 2$, both weights half [JG 3.2.2].

        The sum of $e^\alpha$ stays, hence every other weight. Returns the copy's key, whose logit is the last, and the
        old and the new alpha.
        """
        i, name = self.keys.index(key), operation_name(key)
        copy = next(free for n in count(2) if (free := f"{name}#{n}") not in self.keys)
        logit = self.alpha.detach()[i] - math.log(2)
        old, new = self.append(copy, logit)
        with torch.no_grad():
            new[i] = logit
        return copy, old, new


def by_operation(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights by operation, of weights by key: those of the copies added up."""
    total: dict[str, float] = {}
    for key, weight in weights.items():
        total[operation_name(key)] = total.get(operation_name(key), 0.0) + weight
    return total


def operation_name(key: str) -> str:
    """The operation's name behind a mixture key: `"gate#2"` -> `"gate"`."""
    return key.split("#")[0]


def operation_keys(names: Sequence[str]) -> list[str]:
    """Unique mixture keys of operations: `["gate", "gate"]` -> `["gate", "gate#2"]`."""
    copies = [names[:position].count(name) + 1 for position, name in enumerate(names)]
    return [f"{name}#{copy}" if copy > 1 else name for name, copy in zip(names, copies, strict=True)]
