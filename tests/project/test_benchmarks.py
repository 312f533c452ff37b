"""Scripts of `benchmarks/` can be imported, and its README has a row for each, with a command that exists."""

import importlib
import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
SCRIPTS = sorted(one.name for one in FOLDER.glob("*.py") if one.stem != "__init__")
PACKAGES = sorted(f"{one.parent.name}/" for one in FOLDER.glob("*/__init__.py"))
# first cell: the script in ticks; third: the command
ROWS = re.findall(
    r"^\| `([\w./]+)` \|[^|]*\| ([^|]*) \|[^|]*\|[^|]*\|$", (FOLDER / "README.md").read_text("utf-8"), re.M
)


def test_every_script_has_one_row():
    assert sorted(name for name, _ in ROWS) == sorted(SCRIPTS + PACKAGES)


@pytest.mark.parametrize("script, command", ROWS, ids=[name for name, _ in ROWS])
def test_the_command_of_a_row_exists(script, command):
    modules, targets = re.findall(r"python -m ([\w.]+)", command), re.findall(r"`make ([\w-]+)`", command)
    assert modules, f"{script}: no command"
    assert command.startswith("part of") or f"benchmarks.{script.removesuffix('.py').rstrip('/')}" in modules
    for module in modules:
        found = importlib.util.find_spec(module)
        assert found is not None, f"{script}: there is no {module}"
        file = pathlib.Path(found.origin)
        main = file.with_name("__main__.py") if file.stem == "__init__" else file
        assert main.is_file() and '__name__ == "__main__"' in main.read_text("utf-8"), f"{module} cannot be run"
    for target in targets:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.M), f"{script}: no make {target}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_imported(script):
    """Its imports name what the package has; nothing runs at import."""
    module = importlib.import_module(f"benchmarks.{script.removesuffix('.py')}")
    assert module.__doc__, f"{script} does not say what it measures"
