"""What docstrings, comments and pages refer to is there: pages and their anchors, files, modules, names in modules."""

import ast
import functools
import importlib
import io
import pathlib
import re
import tokenize
import unicodedata
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE, DOCS = ROOT / "hbll_seq", ROOT / "docs"
CODE = sorted(file for folder in ("hbll_seq", "benchmarks", "docs", "tests") for file in (ROOT / folder).rglob("*.py"))
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("benchmarks/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])

PAGE = re.compile(r"(?<![\w/.:-])((?:[\w.-]+/)*[\w.-]+\.md)(?:#([\w.-]+))?")
LINK = re.compile(r"\]\(((?!\w+:)[^)#\s]*)(?:#([^)\s]+))?\)")
FILE = re.compile(r"(?<![\w/.*<-])((?:[\w-]+/)*[\w-]+\.py)\b")
TICKS = re.compile(r"`+([^`]+)`+")
PARTS = sorted({p.stem for p in PACKAGE.glob("[a-z]*.py")} | {p.parent.name for p in PACKAGE.glob("*/__init__.py")})
DOTTED = re.compile(rf"(?<![\w.])((?:hbll_seq|benchmarks|{'|'.join(PARTS)})(?:\.[A-Za-z_]\w*)+)")
# what a reader of the repository cannot open
HIDDEN = re.compile(r"\b(?:designs?|prototypes?|issues?)\b|\bshared/|§", re.I)
ENDINGS = (".py", ".md", ".png", ".json", ".jsonl", ".txt")
SECTION = re.compile(r"\bsections? \d", re.I)


def prose(file: pathlib.Path) -> str:
    """Comments and docstrings of a module; a page without its code."""
    text = file.read_text("utf-8")
    if file.suffix == ".md":
        return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    comments = [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and not re.match(r"# *(type|fmt|noqa|ruff)\b", token.string)
    ]
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, owners)]
    return "\n\n".join([*docstrings, *comments])


def slug(heading: str) -> str:
    """The anchor of a heading, as Python-Markdown makes it."""
    heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # the text of a link
    heading = re.sub(r"[`*]", "", heading)
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


@functools.cache
def anchors(page: pathlib.Path) -> frozenset[str]:
    """Of the headings of a page, numbered where they repeat, and of the names that its directives describe."""
    text = page.read_text("utf-8")
    found: Counter[str] = Counter()
    all_of_them = set(re.findall(r"^::: *([\w.]+)", text, re.M))
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M):
        name = slug(heading)
        all_of_them.add(f"{name}_{found[name]}" if found[name] else name)
        found[name] += 1
    return frozenset(all_of_them)


def named_pages(file: pathlib.Path) -> Iterator[tuple[str, pathlib.Path | None, str]]:
    """Every page that a file names: as written, where that is, and the anchor."""
    text = prose(file)
    if file.suffix == ".md":
        for target, anchor in LINK.findall(text):
            page = file if not target else file.parent / target
            yield f"{target}#{anchor}", page if page.exists() else None, anchor if page.suffix == ".md" else ""
        text = LINK.sub("]", text)
    for name, anchor in PAGE.findall(text):
        places = [one / name for one in (file.parent, ROOT, DOCS, DOCS / "notes") if (one / name).is_file()]
        yield f"{name}#{anchor}", places[0] if places else None, anchor


def resolve(dotted: str) -> bool:
    """Whether a module, or a name in one, is there; parts of the package may be given without `hbll_seq`.

    Names in nn are those of PyTorch or of the package.
    """
    first, *rest = dotted.split(".")
    if first == "nn" and _has(torch.nn, rest):
        return True
    names = [first, *rest] if first in ("hbll_seq", "benchmarks") else ["hbll_seq", first, *rest]
    module = importlib.import_module(names[0])
    for i in range(1, len(names)):
        try:
            module = importlib.import_module(".".join(names[: i + 1]))
        except ModuleNotFoundError:
            return _has(module, names[i:])
    return True


def _has(found: object, names: list[str]) -> bool:
    for name in names:
        annotated = any(name in getattr(one, "__annotations__", {}) for one in getattr(found, "__mro__", [found]))
        if annotated:
            return True
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


def where(file: pathlib.Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", [*CODE, *PAGES], ids=where)
def test_pages_and_anchors_exist(file):
    gone = [
        written
        for written, page, anchor in named_pages(file)
        if page is None or (anchor and anchor not in anchors(page))
    ]
    assert not gone, f"{where(file)} names pages or headings that are not there: {gone}"


@pytest.mark.parametrize("file", [*CODE, *PAGES], ids=where)
def test_files_exist(file):
    gone = [
        name
        for name in FILE.findall(prose(file))
        if not any((folder / name).is_file() for folder in (file.parent, ROOT, PACKAGE))
    ]
    assert not gone, f"{where(file)} names files that are not beside it, in the package or in the repository: {gone}"


@pytest.mark.parametrize("file", [*CODE, *PAGES], ids=where)
def test_modules_and_their_names_exist(file):
    named = {name for ticked in TICKS.findall(prose(file)) for name in DOTTED.findall(ticked)}
    gone = sorted(name for name in named if not name.endswith(ENDINGS) and not resolve(name))
    assert not gone, f"{where(file)} names what is not there: {gone}"


def test_what_the_reference_pages_document_is_there():
    given = [(page, re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.M)) for page in DOCS.rglob("*.md")]
    gone = [f"{where(page)}: {name}" for page, names in given for name in names if not resolve(name)]
    assert sum(len(names) for _, names in given) > 50 and not gone, gone


@pytest.mark.parametrize("file", [*CODE, *PAGES], ids=where)
def test_nothing_refers_to_what_a_reader_cannot_open(file):
    paragraphs = prose(file).split("\n\n")
    found = [one for one in paragraphs if HIDDEN.search(one) or ("paper" not in one and SECTION.search(one))]
    assert not found, f"{where(file)}: {found}"


def test_anchors_are_those_that_the_pages_get(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One: `fit` and [its *loop*](x.md), 2 T\n\n## Again\n```\n# no heading\n```\n## Again\n\n::: a.b\n"
    )
    assert anchors(page) == {"one-fit-and-its-loop-2-t", "again", "again_1", "a.b"}


def test_names_are_looked_up_in_modules_and_classes():
    assert resolve("engine.solve") and resolve("cells.Cell.advance") and resolve("benchmarks.device.jobs")
    assert resolve("data.batch.Batch.lengths"), "an attribute that is only annotated"
    assert not resolve("engine.nothing") and not resolve("cells.Cell.nothing") and not resolve("benchmarks.nothing")
