"""`citation`: the references to cite, as BibTeX or as text."""

from importlib.metadata import PackageNotFoundError, version

from hbll_seq.errors import InputError

STYLES = ("bibtex", "text")

_PAPER = {
    "title": "Breaking chains with trees: Deep learning with O(log N) parallel time complexity",
    "author": "Mohan Sushma, N. and Nagarsekar, A. and Teguemne Fokam, C. and Schiewer, R. and Pal, A. K. and "
    "Subramoney, A. and Kappel, D.",
    "year": "2026",
    "eprint": "2606.21497",
    "archivePrefix": "arXiv",
}


def citation(style: str = "bibtex") -> str:
    """Return the references for the method and this package.

    Args:
        style: "bibtex" for two entries, "text" for two lines.

    Returns:
        The entries for the method's paper and for this package with its version.

    Raises:
        InputError: another style.
    """
    if style not in STYLES:
        raise InputError("style", repr(style), f"one of {STYLES}")
    try:
        own = version("hbll_seq")
    except PackageNotFoundError:
        own = "not installed"
    package = {
        "title": "hbll_seq: recurrent networks on long sequences without backpropagation through time",
        "author": "{The hbll_seq authors}",
        "year": "2026",
        "note": f"Version {own}",
    }
    if style == "bibtex":
        return _entry("article", "hbll2026", _PAPER) + "\n" + _entry("software", "hbll_seq", package)
    people = ", ".join(" ".join(reversed(name.split(", "))) for name in _PAPER["author"].split(" and "))
    return (
        f"{people}. {_PAPER['title']}. arXiv:{_PAPER['eprint']}, {_PAPER['year']}.\n"
        f"The hbll_seq authors. {package['title']}. {package['note']}, {package['year']}.\n"
    )


def _entry(kind: str, key: str, fields: dict[str, str]) -> str:
    width = max(map(len, fields))
    return f"@{kind}{{{key},\n" + "".join(f"  {k:<{width}} = {{{v}}},\n" for k, v in fields.items()) + "}\n"
