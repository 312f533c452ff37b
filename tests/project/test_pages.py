"""The site's own parts: notebooks become pages, formulas are set when the pages are made, nothing is fetched."""

import importlib.util
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
DOCS, NOTEBOOKS = ROOT / "docs", sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted(DOCS.rglob("*.md"))
# characters of formulas that were typed as text: sub- and superscript letters, operators
TYPED = re.compile("[ᵢⱼₙₜᵣᵀ∂⟨⟩‖]")


def _formulas(page):
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```math\n(.*?)^```", text, re.S | re.M)
    prose = re.sub(r"`[^`]*`", "", re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M))
    return blocks, re.findall(r"\$([^$]+)\$", prose), prose


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_notebook_is_on_the_menu(path):
    assert f"notebooks/{path.stem}.md" in (ROOT / "mkdocs.yml").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(DOCS).as_posix())
def test_formulas_are_whole(page):
    """The build refuses what KaTeX cannot read; here: dollars in pairs, braces and environments that close."""
    blocks, inline, prose = _formulas(page)
    assert prose.count("$") % 2 == 0
    for tex in [*blocks, *inline]:
        bare = tex.replace(r"\{", "").replace(r"\}", "")
        assert bare.count("{") == bare.count("}"), tex
        assert re.findall(r"\\begin\{(\w+)\}", tex) == re.findall(r"\\end\{(\w+)\}", tex), tex
        assert not TYPED.search(tex), tex


def test_the_method_has_no_typed_formulas():
    text = (DOCS / "method.md").read_text("utf-8")
    blocks, inline, _ = _formulas(DOCS / "method.md")
    assert len(blocks) >= 9 and len(inline) > 60
    assert not TYPED.search(text)


@pytest.fixture(scope="module")
def hooks():
    pytest.importorskip("mkdocs")  # the pages' own environment has it
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_becomes_a_page(hooks, path):
    notebook = json.loads(path.read_text("utf-8"))
    page, pictures = hooks.as_markdown(notebook, path.stem)
    assert page.startswith("# ")
    shown = [o for c in notebook["cells"] for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == len(shown) and all(picture[:4] == b"\x89PNG" for picture in pictures.values())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert "".join(cell["source"]) in page


def test_every_formula_is_read_by_katex(hooks):
    pytest.importorskip("py_mini_racer")
    for page in PAGES:
        blocks, inline, _ = _formulas(page)
        for display, all_of_them in ((True, blocks), (False, inline)):
            for tex in all_of_them:
                assert "<math" in hooks.formula(" ".join(tex.split()), display)


def test_a_broken_formula_stops_the_build(hooks):
    pytest.importorskip("py_mini_racer")
    with pytest.raises(hooks.PluginError, match="does not parse"):
        hooks.formula(r"\frac{a}", False)


def test_the_built_site_fetches_nothing(hooks):
    """Only where `make docs` has run."""
    pages = sorted((ROOT / "build" / "site").rglob("*.html"))
    if not pages:
        pytest.skip("no site was built")
    for page in pages:
        text = page.read_text("utf-8")
        assert not re.search(r'<(?:script|img|iframe)[^>]+src="?https?:', text), page
        assert not re.search(r'<link[^>]+rel="?(?:stylesheet|preconnect|icon)[^>]+href="?https?:', text), page
