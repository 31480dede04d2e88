"""A search, or a growth, that a reader plays step by step: one piece of HTML that needs nothing else, not even a network."""

import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from growdarts.drawing import derived_keys
from growdarts.drawing.charts import LEGEND, Chart, Weights, key_label, place, through
from growdarts.drawing.text import PALE, document, error_text, text

HERE = Path(__file__).parent
CHART, LEFT, RIGHT = 308, 44, 8  # width of a panel of curves, of its margins
CHANGES = {"grow_node": "grown", "grow_operation": "copied", "resample": "copied", "prune": "pruned"}  # kinds of events: marks


def search(record: dict[str, Any], error: str = "error") -> str:
    """HTML of the search of a record: a slider over its epochs and changes, the cell with its weights, its curves.

    error : what the loss is called on the axes, with its unit.
    """
    found = steps(record)
    space, best = record["result"]["genotype"]["space"], found[-1]
    chart = Chart([step["weights"] for step in found], space)
    derived = derived_keys(record["result"]["genotype"], best["weights"])
    (curves, across, up), end = _curves(record, error), record["search"]["history"][-1]["epoch"]
    frames, since = [], {}
    for number, step in enumerate(found):
        if step["kind"] == "grow_node":
            since = found[number - 1]["weights"]
        frames.append({
            "t": _title(step, end), "s": step["say"], "x": round(across(step["at"]), 1), "y": round(up(step["validation"]), 1),
            "w": [_code(step["weights"], name, key) for name, key in chart.slots],
            "n": [_node_code(step["weights"], since, names) for nodes in chart.parts.values() for names in nodes.values()],
            "a": [] if chart.chain else [round(2.4 * through(step["weights"].get(name)), 1) for name in chart.columns]})
    frames[-1]["c"] = [number for number, slot in enumerate(chart.slots) if slot in derived]
    legend = text(4, chart.height + 12, LEGEND) + text(4, chart.height + 27, "Framed, at the end: the derived cell.")
    stills = [(_title(step, end), document(348, chart.height + 34, [chart.draw(step["weights"], chosen=chosen, whole=whole), legend],
                                           "The cell with its mixture weights"))
              for step, chosen, whole in ((found[0], (), False), (best, derived, True))]
    return _page(f"A search of {len(found)} steps", stills, curves, frames)


def steps(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Epochs and changes of the architecture of a search in their order, and last the stage that was kept.

    Each with `epoch`, `at` (of the curves), `kind`, `weights`, `validation` error and a sentence, `say`.
    """
    history, events, found = record["search"]["history"], record["search"]["events"], []
    for row in history:
        found.append({"epoch": row["epoch"], "at": row["epoch"], "kind": "epoch", "weights": row["weights"],
                      "validation": row["validation_error"],
                      "say": f"Training error {row['train_loss']:.4f}, validation error {error_text(row['validation_error'])}. "
                             f"{row['nodes']} node{'s' * (row['nodes'] > 1)}. {_strongest(row['weights'])}."})
        for event in events:
            if event["epoch"] == row["epoch"] and event["what"] and event["kind"] != "stage":
                found.append({"epoch": row["epoch"], "at": row["epoch"] + 0.5, "kind": event["kind"],
                              "weights": event["weights"],
                              "validation": row["validation_error"] if event["validation_after"] is None else event["validation_after"],
                              "say": f"{_what(event)}. The validation error was {error_text(event['validation_before'], 5)} and is now "
                                     f"{error_text(event['validation_after'], 5)}."})
    stages = [event for event in events if event["kind"] == "stage"]
    kept = max(number for number, event in enumerate(stages) if event["what"] == ["gain"] or not number)
    found.append({"epoch": stages[kept]["epoch"], "at": stages[kept]["epoch"], "kind": "end", "weights": stages[kept]["weights"],
                  "validation": stages[kept]["validation_after"],
                  "say": f"The search is over. Stage {kept + 1} of {len(stages)} is kept, with a validation error of "
                         f"{error_text(stages[kept]['validation_after'])}. The framed operations make up the derived cell."})
    return found


def morphism(curves: Any, changes: Sequence[tuple[float | None, float]]) -> str:
    """HTML of one growth at several epsilons: the response of the cell before and after, and the change that was measured.

    curves : table with `input`, `before` and one column for every epsilon, in the order of `changes`.
    changes : (epsilon, relative change of the output) of every growth; epsilon None: with fresh random weights.
    """
    before, columns = curves["before"], [name for name in curves if name not in ("input", "before")]
    most = 1.05 * float((curves[columns[-2]] - before).abs().max())  # fresh weights, the last, leave the lower panel
    across = _scale(-3, 3, LEFT, CHART - RIGHT)
    low, high = float(curves.drop(columns="input").min().min()), float(curves.drop(columns="input").max().max())
    up, down = _scale(low, high, 150, 24), _scale(-100 * most, 100 * most, 250, 180)
    frames = [{"t": f"Epsilon {epsilon:.2g}" if epsilon else "Fresh weights",
               "d": _path(curves["input"], curves[name], across, up),
               "e": _path(curves["input"], 100 * (curves[name] - before).clip(-most, most), across, down),
               "s": f"A node was added. The output changed by {100 * change:.2g} % of its size; "
                    + (f"{100 * epsilon:.2g} % was allowed." if epsilon else "nothing held its random weights back.")}
              for name, (epsilon, change) in zip(columns, changes, strict=True)]
    stills = [(frame["t"], document(CHART, 284, [
        *_axes("output", low, high, up, 24, 150), *_axes("change of the output, \u00d7 0.01", -100 * most, 100 * most, down, 180, 250),
        *_x_axis(-3, 3, across, 250, "input"),
        f'<path class="gd-before" d="{_path(curves["input"], before, across, up)}" fill="none" stroke="#999999" '
        'stroke-opacity="0.6" stroke-width="7"/>',
        *(f'<path class="gd-after" d="{frame[panel]}" fill="none" stroke="#D55E00" stroke-width="2"/>' for panel in "de")],
        "Output of the cell against its input before and after a node was added, and below it the change"))
        for frame in (frames[0], frames[-1])]
    return _page("A growth at every epsilon", stills, "", frames, "Grey, wide: before. Orange, thin: after.")


def _page(label: str, stills: Sequence[tuple[str, str]], curves: str, frames: Sequence[dict[str, Any]], key: str = "") -> str:
    """The HTML: controls, first and last drawing for print and for readers without JavaScript, data, script, style."""
    shown = "".join(f'<div class="gd-still"><p>{escape(title)}</p>{drawing}</div>' for title, drawing in stills)
    data = json.dumps(frames, separators=(",", ":")).replace("</", "<\\/")
    last = len(frames) - 1
    return (f'<div class="gd-player" role="group" aria-label="{escape(label)}">\n<style>{(HERE / "player.css").read_text()}</style>\n'
            f'<div class="gd-controls"><button type="button" aria-label="Play">\u25b6</button><input type="range" min="0" '
            f'max="{last}" value="0" aria-label="{escape(label)}"><b class="gd-title"></b></div>\n'
            f'<p class="gd-say" aria-live="polite"></p>\n<div class="gd-views">{shown}{curves}</div>\n'
            + (f'<p class="gd-key">{key}</p>\n' if key else "")
            + f'<script type="application/json">{data}</script>\n<script>{(HERE / "player.js").read_text()}</script>\n</div>')


def _code(weights: Weights, name: str, key: str) -> int:
    """A weight in thousandths; -1: its mixture is not there, -2: it is, but without this operation."""
    if name not in weights:
        return -1
    return round(1000 * weights[name][key]) if key in weights[name] else -2


def _node_code(weights: Weights, before: Weights, names: Sequence[str]) -> int:
    """0: the node is not there, 1: it is, 2: it has been added last."""
    there = any(name in weights for name in names)
    return there + (there and bool(before) and not any(name in before for name in names))


def _title(step: dict[str, Any], end: int) -> str:
    words = {"epoch": f"Epoch {step['epoch']} of {end}", "end": "The end"}
    return words.get(step["kind"], f"After epoch {step['epoch']}")


def _where(name: str) -> str:
    """Of a mixture, for readers: `layer 1, node 2` -> `node 2`, `normal 3 <- 0` -> `normal edge 3 from 0`."""
    part, node, source = place(name)
    if source is None:
        return f"node {node}" if part == "layer 1" else f"{part}, node {node}"
    return f"{'' if part == 'edge' else part + ' '}edge {node} from {source}"


def _strongest(weights: Weights) -> str:
    """The strongest operation of every node in words; edges are too many to be read out, so of the strongest edge alone."""
    found = sorted(((max(mixture.values()), name) for name, mixture in weights.items()), reverse=True)
    chosen = list(weights) if place(found[0][1])[2] is None else [found[0][1]]
    best = {name: max(weights[name], key=weights[name].__getitem__) for name in chosen}
    return "Strongest: " + "; ".join(f"{_where(name)}, {key_label(key)} {100 * weights[name][key]:.0f} %" for name, key in best.items())


def _what(event: dict[str, Any]) -> str:
    """An event in words."""
    if event["kind"] == "tune":
        return f"The weights alone were trained: {event['what'][0].replace('1 epochs', '1 epoch')}"
    if event["kind"] == "grow_node":
        return f"A node was grown: {event['what'][0]}"
    verb = {"prune": "Pruned", "resample": "Came in", "grow_operation": "Duplicated"}[event["kind"]]
    pairs = [what.split(": ", 1) for what in event["what"]]
    return f"{verb}: " + "; ".join(f"{', '.join(map(key_label, key.split(' -> ')))} of {_where(name)}" for name, key in pairs)


# ---- curves ------------------------------------------------------------------------------------


def _curves(record: dict[str, Any], error: str) -> tuple[str, Any, Any]:
    """Two panels, validation and training error by epoch, with the changes marked; scales of the epochs and of the first."""
    history = record["search"]["history"]
    epochs = [row["epoch"] for row in history]
    across = _scale(1, max(epochs[-1] + 0.5, 2), LEFT, CHART - RIGHT)
    drawn, scales = [], []
    for top, name, field in ((44, "validation", "validation_error"), (150, "training", "train_loss")):
        values = [row[field] for row in history]
        up = _scale(min(values), max(values), top + 76, top)
        drawn += _axes(f"{name} {error}", min(values), max(values), up, top, top + 76)
        drawn.append(f'<path class="gd-curve" d="{_path(epochs, values, across, up)}" fill="none" stroke="#0072B2" stroke-width="1.8"/>')
        scales.append(up)
    kinds = dict.fromkeys(CHANGES[event["kind"]] for event in record["search"]["events"]
                          if event["kind"] in CHANGES and event["what"])
    for event in record["search"]["events"]:
        if event["kind"] in CHANGES and event["what"]:
            x, kind = across(event["epoch"] + 0.5), CHANGES[event["kind"]]
            drawn.append(f'<path class="gd-line" d="M{x:.1f} 44V120M{x:.1f} 150V226" stroke="#8a8a8a" stroke-dasharray="2,3"/>'
                         + _mark(x, 12 if kind != "pruned" else 22, kind))
    x = LEFT
    for kind in kinds:
        drawn.append(_mark(x + 5, 262, kind) + text(x + 14, 266, {"grown": "node grown", "copied": "operation added"}.get(kind, kind)))
        x += 90 if kind != "copied" else 115
    drawn += _x_axis(1, epochs[-1], across, 226, "epoch")
    drawn.append('<g class="gd-cursor" opacity="0"><path d="M0 44V120M0 150V226" stroke="#222222"/></g>'
                 '<circle class="gd-dot" r="4.5" fill="#222222" opacity="0"/>')
    return (f'<div class="gd-chart">{document(CHART, 274, drawn, "Validation and training error by epoch")}</div>', across, scales[0])


def _mark(x: float, y: float, kind: str) -> str:
    """Sign of a change around (x, y): a triangle, a diamond or a cross."""
    if kind == "pruned":
        return f'<path class="gd-cross" d="M{x - 4:.1f} {y - 4}l8 8m0 -8l-8 8" stroke="#333333" stroke-width="2"/>'
    shape = "l5 9h-10z" if kind == "grown" else "l5 5l-5 5l-5 -5z"
    return f'<path class="gd-mark" d="M{x:.1f} {y - 5}{shape}" fill="#D55E00"/>'


def _scale(low: float, high: float, start: float, end: float) -> Any:
    """A linear map of low to high onto start to end."""
    return lambda value: start + (end - start) * (value - low) / ((high - low) or 1)


def _path(xs: Sequence[float], ys: Sequence[float], across: Any, up: Any) -> str:
    points = [f"{across(x):.1f} {up(y):.1f}" for x, y in zip(xs, ys, strict=True)]
    return "M" + "L".join(points) + ("h0.1" if len(points) == 1 else "")


def _axes(title: str, low: float, high: float, up: Any, top: float, bottom: float) -> list[str]:
    """Title and vertical axis of a panel."""
    ticks = [tick for tick in MaxNLocator(nbins=3, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]))) if len(ticks) > 1 else 3
    return [text(LEFT, top - 8, title), f'<path class="gd-line" d="M{LEFT} {top}V{bottom}" stroke="#8a8a8a"/>',
            *(text(LEFT - 5, up(tick) + 4, f"{tick:.{digits}f}".replace("-", "\u2212"), "end", fill=PALE) for tick in ticks)]


def _x_axis(low: float, high: float, across: Any, y: float, title: str) -> list[str]:
    ticks = [tick for tick in MaxNLocator(nbins=5, integer=True).tick_values(low, high) if low <= tick <= high]
    return [f'<path class="gd-line" d="M{LEFT} {y}H{CHART - RIGHT}" stroke="#8a8a8a"/>', text(4, y + 14, title, fill=PALE),
            *(text(across(tick), y + 14, f"{tick:.0f}".replace("-", "\u2212"), "middle", fill=PALE) for tick in ticks)]
