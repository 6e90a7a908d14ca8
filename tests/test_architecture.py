"""ARCHITECTURE.md is true: its files exist, imports follow its floors, registries hold what its tables say."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "psa_paddle"
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
DOORS = {PACKAGE / "utils/psa_logger.py"}
ROOTS = ("psa_paddle", "tests", "docs", "examples", "benchmarks", "demo", "qwen2.5-vl", "configs")
REGISTRY = re.compile(r"`([\w.]+)` \[([^\]]+)\]")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def floors() -> dict[str, int]:
    """Module of the package -> its floor."""
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", section("Floors"), re.M)
    return {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)`", names)}


def imported(file: Path):
    """(line, module) of every import from the package, wherever it stands; modules as ["kernels", "lists"]."""
    package = file.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = list(package[: len(package) - node.level + 1]) + (node.module or "").split(".") * bool(node.module)
        elif (node.module or "").split(".")[0] == "psa_paddle":
            base = node.module.split(".")[1:]
        else:
            continue
        for alias in node.names:
            yield node.lineno, [*base, alias.name]


def wrong_arrows(files, height: dict[str, int]) -> list[str]:
    found = []
    for file in files:
        own = file.relative_to(PACKAGE).with_suffix("").parts[0]
        for line, module in imported(file):
            if module[0] in height and module[0] != own and height[module[0]] >= height.get(own, 99):
                found.append(f"{file.relative_to(PACKAGE)}:{line} imports {module[0]}")
    return found


def test_every_module_has_a_floor():
    there = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py"} - {"__init__", "__main__"}
    there |= {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert set(floors()) == there


def test_imports_lead_to_lower_floors():
    files = [file for file in PACKAGE.rglob("*.py") if file not in DOORS and file.parent != PACKAGE / "demo"]
    assert not wrong_arrows(files, floors())


def test_an_arrow_upwards_is_seen():
    assert wrong_arrows(DOORS, floors()) == ["utils/psa_logger.py:3 imports stats"]
    upside_down = {name: -floor for name, floor in floors().items()}
    assert len(wrong_arrows([PACKAGE / "attention.py"], upside_down)) >= 5


def test_language_and_video_do_not_know_each_other():
    for own, other in (("language", "video"), ("video", "language")):
        for file in (PACKAGE / "integrations" / own).rglob("*.py"):
            assert not [m for _, m in imported(file) if m[:2] == ["integrations", other]], file


def waits(node: ast.AST) -> bool:
    """Whether what stands inside is not run at import: a function, or what the type checker alone reads."""
    return isinstance(node, ast.FunctionDef) or isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def test_no_import_runs_in_a_circle():
    names = {".".join(f.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): f
             for f in PACKAGE.rglob("*.py")}  # fmt: skip
    arrows = {}
    for name, file in names.items():
        late = {line for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if waits(node)
                for line in range(node.lineno, node.end_lineno + 1)}  # fmt: skip
        modules = [m for line, m in imported(file) if line not in late]
        found = {x if (x := ".".join(m)) in names else ".".join(m[:-1]) for m in modules}
        arrows[name] = {x for x in found if x in names and x != name and not name.startswith(x + ".")}
    done = set()
    while ready := {name for name in arrows if name not in done and arrows[name] <= done}:
        done |= ready
    assert not set(arrows) - done


@pytest.mark.parametrize("page, least", [("ARCHITECTURE.md", 50), ("CONTRIBUTING.md", 15)])
def test_the_files_that_a_page_names_exist(page, least):
    text = re.sub(r"(?s)```.*?```", "", (ROOT / page).read_text(encoding="utf-8"))
    words = {word for span in re.findall(r"`([^`]+)`", text) for word in span.split()}
    named = {x for x in words if x.startswith(ROOTS) and "/" in x} | set(re.findall(r"\]\(([^):]+)\)", text))
    assert len(named) >= least and not [x for x in named if not list(ROOT.glob(x))]


def test_the_figure_names_files_that_exist():
    words = " ".join(re.findall(r">([^<]+)</text>", (ROOT / "docs/way.svg").read_text(encoding="utf-8")))
    files = re.findall(r"[\w/]+\.py", words)
    assert len(files) >= 8 and not [x for x in files if not (PACKAGE / x).is_file()]


def names_in(registry: str) -> set[str]:
    """What a registry holds: keys, names of rows, or keys of what a function returns for nothing."""
    module, name = f"psa_paddle.{registry}".rsplit(".", 1)
    found = getattr(importlib.import_module(module), name)
    found = found([]) if callable(found) else found
    return {str(getattr(x, "name", x)) for x in found}


@pytest.mark.parametrize("registry, names", REGISTRY.findall(section("To add")))
def test_a_registry_holds_what_the_table_says(registry, names):
    assert names_in(registry) == set(re.findall(r"`([^`]+)`", names))


def test_the_table_names_all_kinds_of_additions():
    assert len(REGISTRY.findall(section("To add"))) == 10
