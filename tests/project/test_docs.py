"""All Python in the documentation and the README runs, with fewer steps; every page is in the navigation."""

import pathlib
import re

import pytest
import torch

import hbll_seq as hs

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
# names that a page's code takes for granted
GIVEN = {
    "README": lambda: dict(
        waves=[torch.randn(n) for n in (3000, 4000)], chunk=torch.randn(500),
        images=torch.rand(2, 1, 28, 28), labels=torch.tensor([3, 7]),
        gpt=hs.models.GPT(94, hidden=8, heads=2, layers=4, symbols=hs.datasets.load("pydoc").symbols),
    ),
}  # fmt: skip


def _code(path):
    return "\n".join(re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.S))


PAGES = [p for p in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))) if _code(p)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit = hs.fit

    def short(model, x, y=None, *, steps=None, epochs=None, **options):
        """`fit` for two steps: that a page's code runs is checked, not what comes of it."""
        if isinstance(options.get("validation"), torch.Tensor):
            options["validation"] = options["validation"][:300]
        return fit(model, x, y, **{**options, "steps": 2, "progress": False})

    monkeypatch.setattr(hs, "fit", short)
    code = _code(page).replace("n=2048", "n=1800")
    names = GIVEN.get(page.stem, dict)()
    try:
        exec(compile(code, page.stem, "exec"), names)
    finally:
        hs.rules.base._RULES.pop(("recurrent", "every-third"), None)
        import matplotlib.pyplot as plt

        plt.close("all")


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in DOCS.rglob("*.md"):
        assert page.relative_to(DOCS).as_posix() in nav, f"{page.name} is on no menu"


def test_code_fits_the_width_of_a_page():
    for page in PAGES:
        wide = [line for line in _code(page).splitlines() if len(line) > (120 if page.stem == "README" else 80)]
        assert not wide, (page.name, wide)


def test_every_figure_is_described():
    page = (DOCS / "howto" / "figures.md").read_text("utf-8")
    reference = (DOCS / "reference" / "credit.md").read_text("utf-8")
    for name, value in vars(hs.plot).items():
        if callable(value) and not name.startswith("_"):
            assert f"`{name}`" in page and f".{name}\n" in reference, f"{name} is in no page"


def test_pictures_are_there_and_shown():
    text = "\n".join(p.read_text("utf-8") for p in (ROOT / "README.md", *DOCS.rglob("*.md")))
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), (page.name, target)
    for picture in (DOCS / "img").iterdir():
        assert f"img/{picture.name})" in text, f"{picture.name} is shown nowhere"


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda p: p.stem)
def test_names_in_the_prose_exist(page):
    prose = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    for name in set(re.findall(r"`(?:print\()?(hs(?:\.\w+)+)", prose)):
        found = hs
        for part in name.split(".")[1:]:
            assert hasattr(found, part), f"{name} does not exist"
            found = getattr(found, part)
