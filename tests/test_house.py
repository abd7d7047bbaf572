"""The house stands: imports go down the floors of docs/architecture.md, and never in a circle."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jimgen"
FLOORS = (  # from the top; a name is a file or a folder of jimgen/
    {"cli", "commands", "experiment"},
    {"apps"},
    {"runs"},
    {"evaluation", "curves"},
    {"methods"},
    {"nets", "sampling", "data", "train_step"},
    {"objectives", "metrics", "noise", "masking", "schedules", "arcs", "conditions", "augment", "gradient_skipping"},
    {
        "parallel",
        "cpu",
        "precision",
        "alpha",
        "pictures",
        "sizes",
        "files",
        "errors",
        "output",
        "interrupts",
        "libraries",
        "__init__",
    },
)
HEIGHT = {name: -floor for floor, names in enumerate(FLOORS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(("jimgen", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path) for path in FILES}


def imports_of(path: Path) -> set[str]:
    """The modules of jimgen that a file imports anywhere, those within functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES
            found |= inside or {node.module}
    return {name for name in found if name in MODULES}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_down_only(path):
    here = HEIGHT[room(module_of(path))]
    above = {name for name in imports_of(path) if HEIGHT[room(name)] > here}
    assert not above, f"{module_of(path)} imports from a floor above: {sorted(above)}"


def test_no_imports_in_a_circle():
    """Among files, whatever the floor; imports within functions count too."""
    graph = {module_of(path): imports_of(path) for path in FILES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for name in graph[module]:
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())
