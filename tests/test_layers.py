"""The architecture's rules that a reader relies on: import direction, no cycles, sizes of files."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "precap"
FOUNDATION = (
    "allocator", "atomic", "config", "errors", "geometry", "hub", "plugins", "signals",
    "text", "types",
)  # fmt: skip

#: Which top-level parts of precap a part may import, besides itself.
MAY_IMPORT = {
    **{name: set(FOUNDATION) for name in FOUNDATION},
    "store": {*FOUNDATION},
    "extract": {*FOUNDATION, "store"},
    "train": {*FOUNDATION, "store"},
    "evaluate": {*FOUNDATION, "store"},
    "pipeline": {
        *FOUNDATION,
        "store",
        "extract",
        "train",
        "evaluate",
        "training",
        "scoring",
        "captioning",
    },
    "training": {*FOUNDATION, "store", "train", "evaluate", "pipeline"},
    "scoring": {*FOUNDATION, "store", "extract", "train", "evaluate", "pipeline", "clipscores"},
    "clipscores": {*FOUNDATION, "store", "extract", "evaluate", "pipeline"},
    "captioning": {*FOUNDATION, "store", "extract", "train", "evaluate", "pipeline", "scoring"},
    "demo": {*FOUNDATION, "store", "extract", "train", "evaluate", "pipeline"},
    "commands": {*FOUNDATION, "store", "pipeline", "demo"},
    "cli": {*FOUNDATION, "commands"},
    "__init__": {"pipeline"},
}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return re.sub(r"^_?text.*", "text", top)


def imports(path: Path) -> set[str]:
    """Full dotted names of the precap modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if re.match(r"precap\.(?!__)", name)}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    used = {re.sub(r"^_?text.*", "text", name.split(".")[1]) for name in imports(path)}
    forbidden = used - {part} - MAY_IMPORT.get(part, set())
    assert not forbidden, f"{part} must not import {sorted(forbidden)}"


def test_there_is_no_import_cycle() -> None:
    names = {module_name(path): path for path in sources()}
    graph = {
        name: {i for i in top_level_imports(path) if i in names} for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name] - {name}):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def top_level_imports(path: Path) -> set[str]:
    """Modules imported when the file itself is imported: a lazy import cannot make a cycle."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= (20 if path.name == "__init__.py" else 400)


def test_names_say_what_they_hold() -> None:
    vague = {"utils", "helpers", "base", "manager", "common", "core", "engine", "misc"}
    assert not [path for path in sources() if path.stem.strip("_") in vague]


def test_no_machine_path_is_tracked() -> None:
    pattern = re.compile(r"(?<![\w./-])/(work|root|home)/")
    text = {".py", ".md", ".yaml", ".toml", ".j2"}
    files = [p for d in ("precap", "tests", "bench", "docs") for p in (ROOT / d).rglob("*")]
    assert not [p for p in files if p.suffix in text and pattern.search(p.read_text("utf-8"))
                and p != Path(__file__)]  # fmt: skip
