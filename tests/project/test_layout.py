"""The folders stand in one order, and every import points down it; sizes; what the top of the package shows."""

import ast
import pathlib
import types

import pytest

import hbll_seq as hs

PACKAGE = pathlib.Path(hs.__file__).parent
# from the lowest up; a module may import from its own part and from parts before it
ORDER = (
    "errors", "tree", "data", "losses", "kernels", "cells", "engine", "audio", "datasets", "models", "checkpoint",
    "rules", "plot", "training", "paths", "attribution", "installation", "bibliography", "",
)  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(file: pathlib.Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {name_of(file) for file in FILES}


def imports(file: pathlib.Path) -> set[str]:
    """Modules of the package that a file imports, also inside functions; not those for type checkers alone.

    An import under `if TYPE_CHECKING` names a type in an annotation and is never executed.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            parts = (node.module or "").split(".")
            if parts[0] == "hbll_seq":
                base = ".".join(parts[1:])
                for alias in node.names:
                    full = f"{base}.{alias.name}".lstrip(".")
                    found.add(full if full in MODULES else base)
        elif isinstance(node, ast.Import):
            found.update(
                a.name.removeprefix("hbll_seq").lstrip(".") for a in node.names if a.name.startswith("hbll_seq")
            )
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text("utf-8")))
    return found - {name_of(file)}


GRAPH = {name_of(file): imports(file) for file in FILES}


def part(module: str) -> str:
    return module.split(".")[0]


def test_every_module_belongs_to_a_part_of_the_order():
    assert {part(m) for m in MODULES} == set(ORDER)


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_point_down_the_order(module):
    mine = ORDER.index(part(module))
    upward = [other for other in GRAPH[module] if ORDER.index(part(other)) > mine]
    assert not upward, f"{module} imports from above: {upward}"


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
