"""The folders stand in one order, and every import points down it; sizes; what the top of the package shows; tests."""

import ast
import pathlib
import types

import pytest
from PIL import Image

import hbll_seq as hs
from benchmarks.architecture import PICTURE, arrows, between, files, graph, part, shown, table

PACKAGE, TESTS = pathlib.Path(hs.__file__).parent, pathlib.Path(__file__).parents[1]
# from the lowest up; a module may import from its own part and from parts before it
ORDER = (
    "errors", "optional", "tree", "data", "losses", "kernels", "cells", "engine", "nn", "distributed", "audio", "text",
    "datasets", "models", "checkpoint", "exporters", "rules", "plot", "training", "estimators", "paths", "attribution",
    "installation", "bibliography", "",
)  # fmt: skip
FILES, TEST_FILES = files(), sorted(TESTS.rglob("test_*.py"))
GRAPH = graph()
MODULES = set(GRAPH)


def test_every_module_belongs_to_a_part_of_the_order():
    assert {part(m) for m in MODULES} == set(ORDER)


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_point_down_the_order(module):
    mine = ORDER.index(part(module))
    upward = [other for other in GRAPH[module] if ORDER.index(part(other)) > mine]
    assert not upward, f"{module} imports from above: {upward}"


def test_the_page_on_architecture_has_the_same_order_and_a_picture_of_today():
    assert tuple(reversed(table())) == ORDER
    with Image.open(PICTURE) as picture:
        assert picture.info["Description"] == shown(GRAPH), "python -m benchmarks.architecture draws it anew"


def test_a_picture_shows_imports_between_folders_and_counts_files():
    counts = between(
        {"": {"rules"}, "rules.a": {"engine.x", "engine.y", "rules.b"}, "rules.b": {"engine"}, "engine": {"errors"}}
    )
    assert arrows(counts) == {("rules", "engine"): 2} and counts["engine", "errors"] == counts["", "rules"] == 1


def test_there_are_no_circles():
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module in done:
            return
        for other in sorted(GRAPH[module]):
            # a folder's __init__ only collects names: who imports one of its modules does not wait for the others
            walk(other, (*path, module))
        done.add(module)

    for module in sorted(GRAPH):
        walk(module, ())


def test_the_top_holds_few_modules_and_every_folder_says_what_belongs_there():
    assert len([f for f in FILES if f.parent == PACKAGE]) <= 8
    for folder in (f for f in FILES if f.name == "__init__.py" and f.parent != PACKAGE):
        text = ast.get_docstring(ast.parse(folder.read_text("utf-8"))) or ""
        assert len(text.splitlines()) >= 2, f"{folder}: what belongs here, and what does not"


def test_no_public_function_hides_its_module():
    def look(where: types.ModuleType, seen: set[str]) -> None:
        for name, value in vars(where).items():
            full = f"{where.__name__}.{name}"
            if isinstance(value, types.ModuleType):
                if full.startswith("hbll_seq.") and value.__name__ == full and full not in seen:
                    look(value, seen | {full})
            else:
                assert full.removeprefix("hbll_seq.") not in MODULES, f"{full} is no longer the module of that name"

    look(hs, set())


def test_a_tab_key_shows_the_public_names():
    imported = {
        name.asname or name.name
        for node in ast.parse((PACKAGE / "__init__.py").read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    imported -= {"TYPE_CHECKING", "Any"}
    imported |= {"SequenceClassifier", "SequenceRegressor"}  # imported when first asked for
    assert dir(hs) == sorted(imported) and {"fit", "nn", "convert"} <= set(dir(hs)) and "kernels" not in dir(hs)
    assert all(hasattr(hs, name) for name in dir(hs))


def functions(file: pathlib.Path) -> list[tuple[str, int]]:
    tree = ast.parse(file.read_text("utf-8"))
    return [
        (node.name, (node.end_lineno or 0) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


# an emitter writes one kernel from its first instruction to its last, in the order they run; cut, it is harder to read
EMITTERS = {"kernels/emit.py"}


def test_files_and_functions_fit():
    for file in FILES:
        where = file.relative_to(PACKAGE).as_posix()
        assert len(file.read_text("utf-8").splitlines()) <= 300, f"{where} holds more than 300 lines"
        long = [(name, lines) for name, lines in functions(file) if lines > 80]
        assert not long or where in EMITTERS, f"{where}: {long}"


def test_tests_stand_in_folders_named_as_those_of_the_package():
    folders = {name for name in ORDER if name and (PACKAGE / name).is_dir()}
    assert {file.parent.name for file in TEST_FILES if file.parent != TESTS} <= folders | {"project", "fuzz"}
    modules = {f"test_{name}.py" for name in set(ORDER) - folders}
    assert {file.name for file in TEST_FILES if file.parent == TESTS} <= modules, (
        "a module at the top has its tests there"
    )


def test_test_files_fit():
    long = [file.name for file in TEST_FILES if len(file.read_text("utf-8").splitlines()) > 400]
    assert not long, f"more than 400 lines: {long}"
