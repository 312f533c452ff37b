"""The picture of docs/architecture.md, made from the imports: `python -m benchmarks.architecture` (seconds).

Folders of the package stand in the order of the page's table, an arrow for every two of them where a file of the upper
imports from the lower, as wide as there are such files. Modules that stand alone are named below, with the number of
files that import them. The reader of imports serves `tests/project/test_layout.py` too.
"""

import argparse
import ast
import json
import pathlib
import re
from collections import Counter
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE, PAGE, PICTURE = (
    ROOT / "hbll_seq",
    ROOT / "docs" / "architecture.md",
    ROOT / "docs" / "img" / "architecture.png",
)
# Okabe-Ito, but a dark violet for its yellow, which is faint on white; readers who see few colours go by place
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#5D3A9B")


def files() -> list[pathlib.Path]:
    """Every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def name_of(file: pathlib.Path) -> str:
    """`engine.solve`, `engine` for its `__init__`, and the empty string for that of the package."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def part(module: str) -> str:
    """The folder or the module at the top of the package that a module belongs to."""
    return module.split(".")[0]


def imports(file: pathlib.Path, modules: set[str]) -> set[str]:
    """Modules of the package that a file imports, also inside functions; not those for type checkers alone.

    An import under `if TYPE_CHECKING` names a type in an annotation and is never executed.

    Args:
        file: a module of the package.
        modules: names of all modules: what is imported from a folder may be one of them.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{file}: a relative import")
            parts = (node.module or "").split(".")
            if parts[0] == PACKAGE.name:
                base = ".".join(parts[1:])
                for alias in node.names:
                    full = f"{base}.{alias.name}".lstrip(".")
                    found.add(full if full in modules else base)
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names if part(a.name) == PACKAGE.name]
            found.update(name.removeprefix(PACKAGE.name).lstrip(".") for name in names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text("utf-8")))
    return found - {name_of(file)}


def graph() -> dict[str, set[str]]:
    """The modules that each module imports."""
    modules = {name_of(file) for file in files()}
    return {name_of(file): imports(file, modules) for file in files()}


def table() -> dict[str, str]:
    """The parts of the package from the top down, and what each holds, as the page says; the package itself is ""."""
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", PAGE.read_text("utf-8"), re.M)
    return {"" if name == PACKAGE.name else name: holds.replace("`", "") for name, holds in rows}


def between(modules: dict[str, set[str]]) -> Counter[tuple[str, str]]:
    """How many files of one part import from another, for every two parts where any does."""
    pairs = {(one, part(other)) for one, others in modules.items() for other in others}
    return Counter((part(one), other) for one, other in pairs if part(one) != other)


def arrows(counts: Counter[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Those that are drawn: between folders. The package's own are left out, since it shows names of all of them."""
    folders = {one.name for one in PACKAGE.iterdir() if (one / "__init__.py").is_file()}
    return {pair: n for pair, n in sorted(counts.items()) if folders.issuperset(pair)}


WIDE, PITCH, HIGH, EDGE, HEAD = 6.5, 0.59, 0.48, 3.72, 0.13  # inches: picture, row to row, box, its end, arrowhead
Point = tuple[float, float]


def draw(modules: dict[str, set[str]], holds: dict[str, str]) -> Any:
    """A matplotlib figure of boxes in one column and arrows beside it; see the module docstring."""
    from matplotlib.figure import Figure

    counts = between(modules)
    drawn = arrows(counts)
    folders = [name for name in holds if any(m.startswith(f"{name}.") for m in modules)]
    alone = [name for name in holds if name and name not in folders]
    rows = {name: 0.12 + PITCH * i for i, name in enumerate(["", *folders])}  # upper edges of the boxes
    tall = 0.12 + PITCH * len(rows) + 0.2 * (2 + len(alone))
    figure = Figure(figsize=(WIDE, tall))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDE), ylim=(tall, 0))
    ax.axis("off")
    sources = [name for name in folders if any(one == name for one, _ in drawn)]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(sources)}
    for name, top in rows.items():
        _box(ax, top, name or PACKAGE.name, holds[name], colours.get(name, "#777777"))
    ports = _ports(drawn, rows)
    curves = {pair: _curve(*ports[pair], abs(rows[pair[0]] - rows[pair[1]]) / (PITCH * len(rows))) for pair in drawn}
    for pair, n in sorted(drawn.items(), key=lambda one: one[1]):
        _arrow(ax, curves[pair], n, colours[pair[0]])
    for pair, (x, y) in _free_places(curves).items():
        beneath = dict(facecolor="white", edgecolor="none", pad=0.4)
        ax.text(x, y, str(drawn[pair]), size=9, ha="center", va="center_baseline", bbox=beneath)
    below = tall - 0.2 * (1.6 + len(alone))
    _list(ax, below, [(one, holds[one], sum(n for (_, o), n in counts.items() if o == one)) for one in alone])
    said = "An arrow: files of the\nupper folder import from\nthe lower one. The number:\nhow many files do."
    ax.text(4.6, below + 0.3, said, size=9.5, va="top", linespacing=1.45)
    return figure


def _box(ax: Any, top: float, name: str, holds: str, colour: str) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((0.06, top), EDGE - 0.06, HIGH, facecolor="#F2F2F2", edgecolor="#BBBBBB", linewidth=0.8))
    ax.add_patch(Rectangle((0.06, top), 0.09, HIGH, facecolor=colour, edgecolor="none"))
    ax.text(0.24, top + 0.155, name, size=12, weight="bold", va="center")
    ax.text(0.24, top + 0.355, holds, size=9.5, va="center", color="#222222")


def _ports(drawn: dict[tuple[str, str], int], rows: dict[str, float]) -> dict[tuple[str, str], tuple[float, float]]:
    """Heights where arrows leave and arrive: they arrive above where others leave, the far ones outside the near ones."""
    ends: dict[tuple[str, str], list[float]] = {pair: [0.0, 0.0] for pair in drawn}
    for name, top in rows.items():
        into = sorted((p for p in drawn if p[1] == name), key=lambda p: -rows[p[0]])  # the nearest above comes first
        out = sorted((p for p in drawn if p[0] == name), key=lambda p: -rows[p[1]])  # the farthest below comes first
        slots = [*((p, 1) for p in into), *((p, 0) for p in out)]
        for i, (pair, end) in enumerate(slots):
            ends[pair][end] = top + HIGH * (i + 0.7) / (len(slots) + 0.4)
    return {pair: (one[0], one[1]) for pair, one in ends.items()}


def _curve(start: float, stop: float, share: float) -> list[Point]:
    """Control points of a cubic curve from box to box around the right, the wider the farther."""
    far = EDGE + 0.45 + 3.6 * share**0.9
    return [(EDGE, start), (far, start), (far, stop), (EDGE + HEAD, stop)]


def _arrow(ax: Any, curve: list[Point], n: int, colour: str) -> None:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    points, path, stop = 0.8 + 0.22 * n, Path(curve, [1, 4, 4, 4]), curve[-1][1]
    for colour_of_line, width in (("white", points + 1.6), (colour, points)):  # white: a gap where lines cross
        ax.add_patch(PathPatch(path, facecolor="none", edgecolor=colour_of_line, linewidth=width, capstyle="butt"))
    half = max(0.035, 0.75 * points / 72)
    ax.add_patch(Polygon([(EDGE, stop), (EDGE + HEAD, stop - half), (EDGE + HEAD, stop + half)], facecolor=colour))


def _free_places(curves: dict[tuple[str, str], list[Point]]) -> dict[tuple[str, str], Point]:
    """Where on each curve its number stands: where no other curve and no number is near, if there is such a place."""

    def at(curve: list[Point], t: float) -> Point:
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        x, y = (sum(w * point[i] for w, point in zip(weights, curve, strict=True)) for i in (0, 1))
        return x, y

    lines = {pair: [at(curve, i / 100) for i in range(101)] for pair, curve in curves.items()}
    places: dict[tuple[str, str], Point] = {}
    for pair, line in lines.items():
        others = [point for other in lines if other != pair for point in lines[other]] + [*places.values()] * 2

        def room(point: Point, others: list[Point] = others) -> float:
            return min(max(abs(point[0] - x), abs(point[1] - y)) for x, y in others)

        middle_first = sorted(line[15:86], key=lambda point: abs(point[1] - line[50][1]))
        places[pair] = next((point for point in middle_first if room(point) > 0.14), max(line[15:86], key=room))
    return places


def _list(ax: Any, top: float, alone: list[tuple[str, str, int]]) -> None:
    ax.text(0.06, top, "Modules of their own, and how many files import each", size=9.5, weight="bold", va="center")
    for i, (name, holds, n) in enumerate(alone, 1):
        ax.text(0.06, top + 0.2 * i, f"{name} ({n})", size=9.5, va="center")
        ax.text(1.5, top + 0.2 * i, holds, size=9.5, va="center", color="#222222")


def shown(modules: dict[str, set[str]]) -> str:
    """What a picture of these modules shows, for its metadata: a test compares it, so that no picture goes stale."""
    return json.dumps(sorted("{} -> {}".format(*pair) for pair in arrows(between(modules))))


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, default=PICTURE)
    a = p.parse_args()
    modules = graph()
    draw(modules, table()).savefig(
        a.out, dpi=150, metadata={"Description": shown(modules), "Software": None}, pil_kwargs={"optimize": True}
    )
    print(a.out)


if __name__ == "__main__":
    main()
