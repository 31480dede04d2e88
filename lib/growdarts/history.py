"""What a search notes down whenever it changes the architecture."""

from typing import TYPE_CHECKING, Any

from growdarts.space import SearchSpace

if TYPE_CHECKING:
    from growdarts.search import Search


class Event:
    """Context that notes one change of the architecture: what, when, at what cost, with what effect."""

    def __init__(self, search: "Search", kind: str) -> None:
        self.search, self.kind = search, kind

    def __enter__(self) -> dict[str, Any]:
        self.entry = {"kind": self.kind, "epoch": self.search.state.epoch, "what": [],
                      "validation_before": self.search.validation_error()}
        return self.entry

    def __exit__(self, exception_type: type | None, *_: object) -> None:
        if exception_type is None:
            search = self.search
            self.entry |= {"validation_after": search.validation_error(), "nodes": search.network.n_nodes(),
                           "weights": mixture_weights(search.network),
                           "parameters": sum(p.numel() for p in search.network.theta_parameters()),
                           "flops_spent": search.state.flops, "seconds_spent": search.state.seconds}
            search.state.events.append(self.entry)


def mixture_weights(network: SearchSpace) -> dict[str, dict[str, float]]:
    """Mixture weights by name of the mixture, rounded: they are for looking at."""
    return {name: {key: round(weight, 3) for key, weight in mixture.named_weights().items()}
            for name, mixture in zip(network.mixture_names(), network.mixtures(), strict=True)}
