"""How large functions may grow, how many arguments they may hand on, and that nothing stands twice."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "psa_paddle"
FILES = sorted(ROOT.rglob("*.py"))
# The operator's rooms. Two signatures are published and wider: the seeds promise them.
ROOMS = ("attention.py", "eager/", "kernels/", "layers.py", "plan.py", "psa_module.py", "reference.py")
PUBLISHED = {"psa_module.py:forward", "psa_module.py:psa_attention"}
MAX_PARAMETERS, MAX_LINES = 8, 60
# What may be written once only: as a definition, or as a number that says nothing by itself.
DEFINED_ONCE = ("HEAD_DIMS", "SAMPLE_STEP", "GOLDEN", "ceil_div", "DENSE_BELOW")


def host_functions(tree: ast.AST):
    """Functions that are not compiled for a GPU."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not any(ast.unparse(d).endswith("jit") for d in node.decorator_list):
                yield node


def parameters(function) -> int:
    a = function.args
    return len(a.posonlyargs) + len(a.args) + len(a.kwonlyargs) + (a.vararg is not None) + (a.kwarg is not None)


def names_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def too_wide(file: Path) -> list[str]:
    found = host_functions(ast.parse(file.read_text(encoding="utf-8")))
    return [f"{names_of(file)}:{f.name}" for f in found if parameters(f) > MAX_PARAMETERS]


def test_the_operators_functions_take_few_parameters():
    wide = [name for file in FILES if names_of(file).startswith(ROOMS) for name in too_wide(file)]
    assert set(wide) == PUBLISHED, "hand on a Plan, or a tuple with names"


def test_functions_are_short():
    long = [
        f"{names_of(file)}:{f.name}: {f.end_lineno - f.lineno + 1} lines"
        for file in FILES
        for f in host_functions(ast.parse(file.read_text(encoding="utf-8")))
        if f.end_lineno - f.lineno >= MAX_LINES
    ]
    assert not long, f"more than {MAX_LINES}"


@pytest.mark.parametrize("name", DEFINED_ONCE)
def test_is_defined_once(name):
    places = []
    for file in FILES:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(t, ast.Name) and t.id == name for t in targets) or getattr(node, "name", None) == name:
                places.append(names_of(file))
    assert len(places) == 1, places
