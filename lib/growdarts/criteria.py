"""When to stop, grow and prune: pure functions of histories and weights."""

from collections.abc import Mapping, Sequence

from growdarts.mixture import by_operation, operation_name


def improves(error: float, best: float, min_gain: float) -> bool:
    """Whether `error` is below `best` by more than the fraction `min_gain` of it."""
    return error < best * (1 - min_gain) if best != float("inf") else error < best


def epochs_since_gain(errors: Sequence[float], min_gain: float) -> int:
    """Epochs since the last one that improved on the best before it; 0 for an empty history."""
    best, since = float("inf"), 0
    for error in errors:
        if improves(error, best, min_gain):
            best, since = error, 0
        else:
            since += 1
    return since


def stage_is_over(errors: Sequence[float], patience: int, min_gain: float, split_at: int = 0) -> bool:
    """First level of early stopping: no validation gain for `patience` epochs of the stage [JG criteria].

    They are counted anew after an operation was split, which was after the first `split_at` of the `errors`.
    """
    return min(epochs_since_gain(errors, min_gain), len(errors) - split_at) >= patience


def gained_since(errors: Sequence[float], min_gain: float, split_at: int) -> bool:
    """Whether any of the `errors` after the first `split_at` was a validation gain."""
    return epochs_since_gain(errors, min_gain) < len(errors) - split_at


def averaging_starts(errors: Sequence[float], n: int) -> bool:
    """Whether the last error is worse than the best of those more than `n` epochs before it, as in AWD-LSTM's code."""
    earlier = errors[:-1 - n]
    return bool(earlier) and errors[-1] > min(earlier)


def growing_helps(stage_errors: Sequence[float], min_gain: float) -> bool:
    """Second level: whether the last stage improved on every stage before it [JG criteria]."""
    *before, last = stage_errors
    return improves(last, min(before, default=float("inf")), min_gain)


def operations_to_prune(weights: Mapping[str, float], prune_below: float, keep_all_above: float) -> list[str]:
    """Keys of weights below `prune_below`, while no weight surpasses `keep_all_above` [JG pruning].

    The operation that would be derived always stays: of the strongest besides `none`, copies added up, the strongest
    copy.
    """
    if max(weights.values()) >= keep_all_above:
        return []
    total = by_operation(weights)
    strongest = max((key for key in weights if key != "none"), default="none",
                    key=lambda key: (total[operation_name(key)], weights[key]))
    return [key for key, weight in weights.items() if weight < prune_below and key != strongest]


Operation = tuple[int, str]  # position of its mixture, key


def operation_to_duplicate(weights: Mapping[Operation, float], threshold: float) -> Operation | None:
    """The operation of the largest mixture weight, if that surpasses `threshold` [JG criteria].

    Its two copies have half the weight each, so an operation is not duplicated again until it has gained.
    """
    above = {operation: weight for operation, weight in weights.items() if weight > threshold}
    return max(above, key=above.__getitem__, default=None)
