"""What the source files say of a target, read by `ast` without importing it."""

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def module_docstring(target: str) -> str:
    """The docstring of the file that defines `eigenzoo.a.b.Name`; empty for a name of another package."""
    found = _definition(target)
    return ast.get_docstring(found[0]) or "" if found else ""


def object_docstring(target: str) -> str:
    """The docstring of the class or function itself; empty for a name of another package."""
    found = _definition(target)
    return ast.get_docstring(found[1]) or "" if found else ""


def signature(target: str) -> str:
    """`Name(a, b: int, *, c: float = 0.1)` as written; empty for a name of another package."""
    found = _definition(target)
    if not found:
        return ""
    _, node = found
    function = _constructor(node) if isinstance(node, ast.ClassDef) else node
    if function is None:
        return node.name
    arguments = ast.unparse(function.args)
    if isinstance(node, ast.ClassDef):
        arguments = arguments.removeprefix("self").removeprefix(", ")
    return f"{node.name}({arguments})"


def attribute(target: str, name: str) -> str | None:
    """The text that a class assigns to `name` in its body, or None."""
    found = _definition(target)
    for node in found[1].body if found else []:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            named = any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
            if named and isinstance(node.value.value, str):
                return node.value.value
    return None


def _constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


@cache
def _definition(target: str) -> tuple[ast.Module, ast.ClassDef | ast.FunctionDef] | None:
    """The file's tree and the target's node; a re-exported name is looked for in its package's files."""
    parts = target.split(".")
    if parts[0] != "eigenzoo" or len(parts) < 3:
        return None
    place, name = PACKAGE.joinpath(*parts[1:-1]), parts[-1]
    files = [place.with_suffix(".py")] if not place.is_dir() else sorted(place.glob("*.py"))
    for path in files:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        if f"class {name}" not in text and f"def {name}" not in text:
            continue
        tree = ast.parse(text)
        for node in tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
                return tree, node
    return None
