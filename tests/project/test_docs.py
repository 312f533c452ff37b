"""All Python in the documentation and the README runs as it stands, with fewer updates; lines, links, names, figures."""

import pathlib
import re
import subprocess
import sys

import pytest
import torch

import hbll_seq as hs

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
WIDTH = 100


def _name(page):
    return page.relative_to(ROOT).with_suffix("").as_posix()


SKIPPED = re.compile(r"<!-- not run: (\S.*?) -->\n\n```python\n.*?```", re.S)  # with a reason


def _code(page):
    return "\n".join(re.findall(r"```python\n(.*?)```", SKIPPED.sub("", page.read_text("utf-8")), re.S))


def _prose(page):
    return re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.S | re.M)


WITH_CODE = [page for page in PAGES if _code(page)]
JOBS = {"own-ctc-loop", "word-model", "scikit-learn", "keywords", "credit-figure"}  # of a newcomer
LOOPS = [
    page for page in WITH_CODE if page.parent.name == "loops"
]  # other people's packages, each where it is installed


@pytest.mark.parametrize("page", LOOPS, ids=_name)
def test_layers_run_in_other_peoples_loops(page, tmp_path):
    """In a process of its own: such packages change global settings, and find the folder `datasets` of this one."""
    code = _code(page)
    for name in ("lightning", "accelerate", "skorch", "transformers"):
        if re.search(rf"^(import|from) {name}\b", code, re.M):
            pytest.importorskip(name)
    (tmp_path / "page.py").write_text(code, "utf-8")
    ran = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("page", [page for page in WITH_CODE if page not in LOOPS], ids=_name)
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "import optuna" in page.read_text("utf-8"):
        pytest.importorskip("optuna")
    fit = hs.fit

    def short(model, x, y=None, *, steps=None, epochs=None, **options):
        """`fit` for two updates: that a page's code runs is checked, not what comes of it."""
        if isinstance(options.get("validation"), torch.Tensor):
            options["validation"] = options["validation"][:300]
        return fit(model, x, y, **{**options, "steps": 2, "progress": False})

    monkeypatch.setattr(hs, "fit", short)
    code = _code(page).replace("n=2048", "n=1800")
    try:
        exec(compile(code, page.stem, "exec"), {})  # a reader has no other names either
    finally:
        hs.rules.base._RULES.pop(("recurrent", "every-third"), None)
        import matplotlib.pyplot as plt

        plt.close("all")


def test_a_newcomers_job_is_one_block_of_forty_lines():
    pages = [page for page in WITH_CODE if page.stem in JOBS]
    assert {page.stem for page in pages} == JOBS
    for page in pages:
        blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
        lines = [line for line in blocks[0].splitlines() if line.strip()]
        assert len(blocks) == 1 and len(lines) <= 40, (page.stem, len(blocks), len(lines))


def test_what_is_not_run_says_why_and_is_python_all_the_same():
    for page in PAGES:
        text = page.read_text("utf-8")
        for kind, body in re.findall(r"```(\w*)\n(.*?)```", text, re.S):
            python = kind == "python" or not re.search(r"^(import|from) \w|\bhs\.\w+\(", body, re.M)
            assert python, f"{page.name}: {body[:80]} runs nowhere"
        assert text.count("<!-- not run") == len(SKIPPED.findall(text)), page.name
        for block in SKIPPED.finditer(text):
            compile(re.findall(r"```python\n(.*?)```", block[0], re.S)[0], page.stem, "exec")


def test_the_worked_example_has_the_numbers_of_its_code():
    page = DOCS / "method.md"
    names = {}
    exec(compile(_code(page), page.stem, "exec"), names)
    block, sweep, roll, inconsistency = (names[name] for name in ("block", "sweep", "roll", "inconsistency"))
    first, own, w = names["h"], names["G"], names["w"]
    rows = re.findall(r"^\| [^|]*\((?:Jacobi|carry|calibrated)\) \|(.*)\|$", page.read_text("utf-8"), re.M)
    assert len(rows) == 3
    for row, carry in zip(rows, (0.0, own, w * own), strict=True):
        h = sweep(first, roll(first), carry)
        ends = roll(h)
        told = [float(number.replace("−", "-")) for number in row.split("|")]
        found = [h[1], h[2], ends[1] - h[2], inconsistency(h, ends)]
        assert [float(f"{x:.4f}") for x in found[:3]] == told[:3]
        assert float(f"{found[3]:.2g}") == told[3]
        second = sweep(h, ends, carry)
        assert inconsistency(second, roll(second)) < 1e-12, "n - 1 sweeps are exact"
    states = [0.0]
    for inputs in names["INPUTS"]:
        states.append(block(states[-1], inputs)[0])
    slopes = [block(*pair)[1] for pair in zip(states, names["INPUTS"], strict=False)]
    message = slopes[2] * (states[3] - 1)
    told = _prose(page).replace("−", "-")
    for number in (states[1], states[2], w, w * own, slopes[1], slopes[2], message, own * message, slopes[1] * message):
        assert f"{number:.4f}" in told, number


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in DOCS.rglob("*.md"):
        assert page.relative_to(DOCS).as_posix() in nav, f"{page.name} is on no menu"


def test_code_fits_the_width_of_a_page():
    for page in WITH_CODE:
        wide = [line for line in _code(page).splitlines() if len(line) > (WIDTH if page.stem == "README" else 80)]
        assert not wide, (page.name, wide)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_lines_of_prose_fit_the_width(page):
    """Tables, headings and code have lines of their own length; a link's address cannot be broken."""
    for line in _prose(page).splitlines():
        if len(line) > WIDTH and not re.match(r" *[|#]| {4}\S", line):
            without = re.sub(r"\]\([^)]+\)", "]()", line)
            assert len(without) < len(line) and len(without) <= WIDTH, f"{page.name}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_to_pages_and_headings(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", _prose(page)):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", _prose(found), re.M)
            slugs = {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", h.lower()).strip()) for h in headings}
            assert anchor in slugs, f"{page.name}: {target}#{anchor}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120


def test_every_figure_is_described():
    page = (DOCS / "howto" / "figures.md").read_text("utf-8")
    reference = (DOCS / "reference" / "credit.md").read_text("utf-8")
    for name, value in vars(hs.plot).items():
        if callable(value) and not name.startswith("_"):
            assert f"`{name}`" in page and f".{name}\n" in reference, f"{name} is in no page"


def test_every_option_of_the_rule_is_in_the_table():
    page = (DOCS / "howto" / "rules.md").read_text("utf-8")
    table = re.findall(r"^\| (`.*?) \|", page.split("## Options of `hbll`")[1], re.M)
    described = set(re.findall(r"`(\w+)`", " ".join(table)))
    assert described == {*hs.engine.Options.names(), "check_every"}


def test_pictures_are_there_and_shown():
    text = "\n".join(p.read_text("utf-8") for p in PAGES)
    for page in PAGES:
        for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), (page.name, target)
    for picture in (DOCS / "img").iterdir():
        assert f"img/{picture.name})" in text, f"{picture.name} is shown nowhere"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_names_in_the_prose_exist(page):
    prose = _prose(page)
    for name in set(re.findall(r"`(?:print\()?(hs(?:\.\w+)+)", prose)):
        found = hs
        for part in name.split(".")[1:]:
            assert hasattr(found, part), f"{name} does not exist"
            found = getattr(found, part)
