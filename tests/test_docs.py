"""The Python in the documentation runs, with fewer steps; every page is in the navigation."""

import pathlib
import re

import pytest

import hbll_seq as hs

DOCS = pathlib.Path(__file__).parent.parent / "docs"
RUN = ("tutorial", "howto/data", "howto/audio", "howto/cell", "howto/rule")  # pages whose code stands alone


@pytest.mark.parametrize("page", RUN)
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text("utf-8"), re.S))
    assert code
    code = re.sub(r"steps=300", "steps=2, progress=False", code).replace("n=2048", "n=1800")
    names: dict = {}
    try:
        exec(compile(code, page, "exec"), names)
    finally:
        hs.rules.base._RULES.pop(("recurrent", "every-third"), None)


def test_every_page_is_in_the_navigation():
    nav = (DOCS.parent / "mkdocs.yml").read_text("utf-8")
    for page in DOCS.rglob("*.md"):
        assert page.relative_to(DOCS).as_posix() in nav, f"{page.name} is on no menu"
