"""Every notebook runs from top to bottom; what is committed shows no warning, no error and no path of a machine."""

import os
import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
FAST = ("01_language_rnn",)  # in the normal run; the others with `make slow`
PATHS = re.compile(r"/(home|root|work|tmp|Users|opt|usr|var)/|\b[A-Za-z]:\\\\|site-packages|https?://(?!arxiv|github)")


def _outputs(notebook):
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for key, text in {**output.get("data", {}), "text": output.get("text", "")}.items():
                if key.startswith("text"):
                    yield output, text


def test_there_are_notebooks():
    assert [p.stem[:2] for p in NOTEBOOKS] == sorted({p.stem[:2] for p in NOTEBOOKS}) and NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_outputs_are_clean(path):
    notebook = nbformat.read(path, 4)
    assert any("image/png" in o.get("data", {}) for c in notebook.cells for o in c.get("outputs", []))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count, "a cell that was not executed"
    for output, text in _outputs(notebook):
        assert output.output_type != "error" and output.get("name") != "stderr", text
        assert "Warning" not in text and not PATHS.search(text), text
    counts = [c.execution_count for c in notebook.cells if c.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "executed out of order"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_links_lead_to_files(path):
    for cell in nbformat.read(path, 4).cells:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (FOLDER / target).exists(), target


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=() if p.stem in FAST else pytest.mark.slow) for p in NOTEBOOKS], ids=lambda p: p.stem
)
# what the client's own libraries warn of is not ours: every warning inside the notebook still shows as stderr below
@pytest.mark.filterwarnings("ignore")
def test_runs_from_top_to_bottom(path, monkeypatch):
    monkeypatch.setenv("HBLL_SEQ_QUICK", "1")
    monkeypatch.delenv("HBLL_SEQ_DATA", raising=False)  # as on a fresh machine
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, 4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": FOLDER}})
    client.execute()
    for output, text in _outputs(notebook):
        assert output.get("name") != "stderr", text
