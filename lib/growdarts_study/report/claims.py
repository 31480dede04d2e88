"""The table of claims on the front page: a verdict in a word, the estimate as a small plot."""

from collections.abc import Sequence
from html import escape

from growdarts_study.report.comparison import Interval
from growdarts_study.report.searches import Verdict

CLAIMS = {  # claim -> in a few words
    "C1": "Growing beats LSTM, GRU and random cells on series", "C2": "... and works for language",
    "C3": "Growing is cheaper than a fixed backbone", "C4": "The morphism beats fresh weights",
    "C5": "Duplicated operations help", "C6": "Pruning removes much and costs little",
    "C7": "The two-input backbone beats DARTS' graph", "C8": "Found cells hold the Hadamard product",
    "C9": "Growing suits streams of data", "C10": "A remedy of ours helps growing"}
SIGNS = {"supported": "✓", "contradicted": "✗", "no difference worth having": "=", "undecided": "?", "not tested": "–"}
WIDTH, HEIGHT = 150, 26  # of a plot, pixels


def interval_plot(estimate: Interval, margin: float) -> str:
    """SVG of an estimate with its interval; the band is the smallest difference of interest, the axis its multiple."""
    reach = 1.1 * max(abs(estimate.low), abs(estimate.high), 2 * margin, 1.0)

    def x(value: float) -> float:
        return round(WIDTH / 2 * (1 + value / reach), 1)

    text = f"{estimate.mean:+.1f} percent, 95 % interval {estimate.ends('+.1f')}"
    middle = HEIGHT / 2
    return (f'<svg class="interval" role="img" aria-label="{text}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
            f'<rect class="margin" x="{x(-margin)}" y="2" width="{round(x(margin) - x(-margin), 1)}" height="{HEIGHT - 4}"/>'
            f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="0" y2="{HEIGHT}"/>'
            f'<line class="range" x1="{x(estimate.low)}" x2="{x(estimate.high)}" y1="{middle}" y2="{middle}"/>'
            f'<circle class="estimate" cx="{x(estimate.mean)}" cy="{middle}" r="4"/></svg>')


def claims_table(verdicts: Sequence[Verdict], pages: dict[str, str], others: dict[str, tuple[str, str]]) -> str:
    """HTML: a row a claim, its verdict, its estimate, what was measured, a link.

    Parameters
    ----------
    pages : claim -> address of the page with its evidence.
    others : claims without an estimate -> verdict and why.
    """
    found = {one.claim: one for one in verdicts}
    rows = []
    for claim, words in CLAIMS.items():
        one = found.get(claim)
        verdict, what = (one.verdict, f"{one.what}; {one.estimate.n} series, {one.seeds} seeds each") if one else (
            others.get(claim, ("not tested", "")))
        kind = verdict.split()[0] if verdict in SIGNS else "undecided"
        plot = interval_plot(one.estimate, one.margin) + f"<br>{one.estimate.mean:+.1f} % ({one.estimate.ends('+.1f')})" if one else ""
        label = f'<a href="{escape(pages[claim])}">{claim}</a>' if claim in pages else claim
        rows.append(f'<tr><th scope="row">{label}</th><td>{escape(words)}</td><td class="verdict {kind}">'
                    f'{SIGNS.get(verdict, "?")} {escape(verdict)}{", so far" if one and one.preliminary() else ""}</td><td>{plot}</td><td>{escape(what)}</td></tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", "claim", "verdict", "estimate, 95 % interval", "what was measured"))
    return f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
