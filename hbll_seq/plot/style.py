"""Shared style of the figures: colours, new axes if none are given, letters that fit small axes.

Colours are the Okabe-Ito palette and viridis/cividis maps, which colour-blind readers can tell apart.
matplotlib is imported on first use: a script that plots nothing never waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]

ROOMY = 3.4  # inches: narrower axes have smaller letters than usual
LEAST = 6.5  # points


def axes(ax: Axes | None, size: tuple[float, float] = (6.4, 4.0)) -> Axes:
    """Return `ax`, or the axes of a new figure of `size` inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def inches(ax: Axes) -> tuple[float, float]:
    """Return width and height of the axes now (a later layout changes them a little)."""
    box = ax.get_window_extent()
    return box.width / ax.figure.dpi, box.height / ax.figure.dpi


def points(width: float, size: float | str) -> float:
    """Return `size`, a number or a name as in `rcParams`, in points; less on narrow axes (`width` inches)."""
    from matplotlib.font_manager import FontProperties

    usual = FontProperties(size=size).get_size_in_points()
    return max(min(usual, LEAST), usual * min(1.0, width / ROOMY))


def fit_letters(ax: Axes, width: float | None = None) -> None:
    """Make labels, ticks and legend as small as `width` inches need: those of `ax`, or of a colour bar's axes."""
    from matplotlib import rcParams

    width = inches(ax)[0] if width is None else width
    for axis, ticks in ((ax.xaxis, rcParams["xtick.labelsize"]), (ax.yaxis, rcParams["ytick.labelsize"])):
        axis.label.set_fontsize(points(width, rcParams["axes.labelsize"]))
        axis.set_tick_params(which="both", labelsize=points(width, ticks))
    legend = ax.get_legend()
    for text in legend.get_texts() if legend is not None else ():
        text.set_fontsize(points(width, rcParams["legend.fontsize"]))
