"""Credit as plain HTML and SVG: point at a node or character to read its number. No script, no widget."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hbll_seq.errors import InputError
from hbll_seq.plot.credits import label_of, outcome_of, row_of, scale

if TYPE_CHECKING:
    from hbll_seq.attribution.result import Credit


class Html(str):
    """HTML as text, which a notebook shows as a page."""

    def _repr_html_(self) -> str:
        return str(self)


def credit_html(result: Credit, text: str, *, row: int = 0) -> Html:
    """The text with every block's credit as background; pointing at it shows block, steps and credit.

    Args:
        result: from `hbll_seq.credit`.
        text: one character a step, at least `result.steps` of them.
        row: which sequence of the batch.

    Raises:
        InputError: too little text, a row that is not there.
    """
    nodes, steps = row_of(result, row), int(result.lengths[row])
    if len(text) < steps:
        raise InputError("text", f"{len(text)} characters", f"one a step, {steps}")
    colour = _colours(nodes[0], result.kind == "knockout")
    parts = []
    for i, v in enumerate(nodes[0]):
        start, stop = result.span(0, i, row)
        back, front = colour(v)
        shown = _letters(text, start, stop, steps)
        title = f"block {i}, steps {start} to {stop - 1}: {v:.4g} {result.unit}"
        parts.append(f'<span style="background:{back};color:{front}" title="{title}">{shown}</span>')
    style = "font-family:monospace;font-size:14px;line-height:1.6;white-space:pre-wrap;overflow-wrap:anywhere"
    return Html(f'<div><div style="{style}">{"".join(parts)}</div>{_legend(nodes, result, row)}</div>')


def _letters(text: str, start: int, stop: int, steps: int) -> str:
    """Escape one block's characters; the outcome's is framed."""

    def shown(part: str) -> str:
        return html.escape(part).replace("\n", "↵\n")

    if not start < steps <= stop:
        return shown(text[start:stop])
    frame = '<b style="outline:2px solid #000" title="the outcome\'s step">'
    return f"{shown(text[start : steps - 1])}{frame}{shown(text[steps - 1])}</b>"


def tree_html(result: Credit, *, row: int = 0, text: str | None = None, width: int = 900) -> Html:
    """The tree as SVG: pointing at a node outlines it and shows its steps, its credit and its text.

    Args:
        result: from `hbll_seq.credit`.
        row: which sequence of the batch.
        text: one character a step; shown in what a node says.
        width: of the picture, in pixels.
    """
    nodes = row_of(result, row)
    colour = _colours(np.concatenate(nodes), result.kind == "knockout")
    left, tall = 110, 26
    scale_x = (width - left - 10) / result.steps
    boxes = []
    what, first = ("block", 0) if result.axis == "step" else ("module", 1)
    for height, values in enumerate(nodes):
        y = (len(nodes) - 1 - height) * tall
        count = f"all {nodes[0].size}" if height + 1 == len(nodes) else f"{2**height} {what}{'s' * (height > 0)}"
        boxes.append(f'<text x="{left - 8}" y="{y + 17}" text-anchor="end">{count}</text>')
        for k, v in enumerate(values):
            start, stop = result.span(height, k, row)
            if stop <= start:
                continue
            said = f"{result.axis}s {start + first} to {stop - 1 + first}: " + (
                f"{v:.4g} {result.unit}" if np.isfinite(v) else "none"
            )
            said += "" if text is None else "\n" + _shorten(text[start:stop])
            place = (
                f'x="{left + start * scale_x:.1f}" y="{y}" width="{(stop - start) * scale_x:.1f}" height="{tall - 2}"'
            )
            boxes.append(f'<rect {place} fill="{colour(v)[0]}"><title>{html.escape(said)}</title></rect>')
    bottom = len(nodes) * tall + 10 * (not first)
    if not first:
        at = left + (int(result.lengths[row]) - 0.5) * scale_x
        points = f"{at:.1f},{bottom - 10} {at - 5:.1f},{bottom - 1} {at + 5:.1f},{bottom - 1}"
        boxes.append(f'<polygon points="{points}"><title>{html.escape(outcome_of(result, row))}</title></polygon>')
    ticks = [round(result.steps * q / 4) for q in range(5)]
    places: list[tuple[float, int, str]] = [
        (t, t, ("start", "middle", "middle", "middle", "end")[q]) for q, t in enumerate(ticks)
    ]
    if first:  # a module is counted, a moment is measured
        places = [(i + 0.5, i + 1, "middle") for i in range(0, result.steps, -(-result.steps // 24))]
    for at, t, anchor in places:
        boxes.append(f'<text x="{left + at * scale_x:.1f}" y="{bottom + 18}" text-anchor="{anchor}">{t}</text>')
    name = "module" if first else "time (steps)"
    boxes.append(f'<text x="{(width + left) / 2}" y="{bottom + 40}" text-anchor="middle">{name}</text>')
    style = (
        ".hbll rect{stroke:#fff;stroke-width:1}.hbll rect:hover{stroke:#000;stroke-width:2}"
        ".hbll text{font:12px sans-serif}@media(max-width:600px){.hbll text{font-size:22px}}"
    )
    svg = (
        f'<svg class="hbll" viewBox="0 0 {width} {bottom + 48}" style="width:100%;max-width:{width}px" role="img" '
        f'xmlns="http://www.w3.org/2000/svg"><style>{style}</style>{"".join(boxes)}</svg>'
    )
    return Html(f"<div>{svg}{_legend(nodes, result, row)}</div>")


def _shorten(text: str, most: int = 120) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def _colours(values: np.ndarray, signed: bool) -> Callable[[float], tuple[str, str]]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    norm, name = scale(values, signed)

    def colour(v: float) -> tuple[str, str]:
        """Background and a text colour that can be read on it."""
        if not np.isfinite(v):
            return "#d9d9d9", "#000000"
        r, g, b, _ = colormaps[name](norm(v))
        return to_hex((r, g, b)), "#ffffff" if 0.3 * r + 0.59 * g + 0.11 * b < 0.5 else "#000000"

    return colour


def _legend(nodes: list[np.ndarray], result: Credit, row: int) -> str:
    values = np.concatenate(nodes)
    signed = result.kind == "knockout"
    norm, _ = scale(values, signed)
    colour = _colours(values, signed)
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 1.0)
    stops = ",".join(colour(float(norm.inverse(q / 16)))[0] for q in range(17))
    box = f"display:inline-block;width:160px;height:10px;background:linear-gradient(to right,{stops})"
    bar = f'<span style="{box}"></span>'
    style = "font:12px sans-serif;margin-top:6px"
    said = html.escape(f"{label_of(result)}, logarithmic; {outcome_of(result, row)}")
    return f'<div style="{style}">{low:.3g} {bar} {high:.3g} &nbsp; {said}</div>'
