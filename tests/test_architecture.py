"""The layer map and the habits that keep the code readable, held by reading every module's source."""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "localfusion"

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "messages"}),
    frozenset({"analysis"}),
    frozenset({"outcome"}),
    frozenset({"machine", "domains", "offline"}),
    frozenset({"database", "config", "events", "wire", "codec", "owner", "gguf_header"}),
    frozenset({"engine", "providers", "search", "catalog", "store", "run_state"}),
    frozenset({"scheduler", "tools", "tool_calls", "citations", "usage", "context", "function_calls"}),
    frozenset({"panel", "judge", "synthesis", "assistant"}),
    frozenset({"panel", "judge", "synthesis", "assistant"}),
    frozenset({"deliberation"}),
    frozenset({"session"}),
    frozenset({"fits", "outer"}),
    frozenset({"doctor", "listing", "server"}),
    frozenset({"cli"}),
)
"""A module imports only from layers before its own; the parts of one layer do not know each other.

The first three are the values of layer 0, each built from the ones before it; `machine` and `domains` are the ground
of layer 1.
"""

ROOT_MODULES = frozenset({"__init__", "__main__"})
LAZY = frozenset({"localfusion.cli.lazy", "localfusion.providers", "localfusion.catalog.hub"})
"""The modules that import others when these are used: commands, and what only a cloud model or the hub needs."""

DOORS: Mapping[str, frozenset[str]] = {
    "llama_cpp": frozenset({"engine"}),
    "llguidance": frozenset({"engine"}),
    "apsw": frozenset({"database"}),
    "yaml": frozenset({"config"}),
    "trafilatura": frozenset({"search"}),
    "httpx": frozenset({"search"}),
    "httpcore": frozenset({"search"}),
    "ddgs": frozenset({"search"}),
    "libzim": frozenset({"search"}),
    "sqlite_vec": frozenset({"database"}),
    "pypdfium2": frozenset({"search"}),
    "lxml": frozenset({"search"}),
    "docx": frozenset({"search"}),
    "pptx": frozenset({"search"}),
    "python_calamine": frozenset({"search"}),
    "docutils": frozenset({"search"}),
    "huggingface_hub": frozenset({"catalog"}),
    "httpx2": frozenset({"catalog", "providers"}),
    "filelock": frozenset({"catalog"}),
    "zstandard": frozenset({"catalog"}),
    "openai": frozenset({"providers"}),
    "keyring": frozenset({"providers"}),
    "tenacity": frozenset({"providers"}),
    "click": frozenset({"cli"}),
    "fastapi": frozenset({"server"}),
    "starlette": frozenset({"server"}),
    "uvicorn": frozenset({"server"}),
    "prometheus_client": frozenset({"server"}),
    "matplotlib": frozenset({"cli"}),
    "rich": frozenset({"cli"}),
}
"""Package -> the only part of localfusion that imports it."""

BARRED_NAMES = frozenset(
    {"utils", "util", "helpers", "helper", "common", "manager", "managers", "data", "info", "process"}
)


@dataclass(frozen=True)
class Module:
    """One source file; `part` is the name that the layer map knows it by."""

    path: Path
    name: str
    part: str
    tree: ast.Module

    def __str__(self) -> str:
        return self.name


def read_module(path: Path) -> Module:
    relative = path.relative_to(ROOT).with_suffix("")
    parts = relative.parts[:-1] if relative.name == "__init__" and len(relative.parts) > 2 else relative.parts
    return Module(path, ".".join(parts), relative.parts[1], ast.parse(path.read_text(encoding="utf-8")))


MODULES = [read_module(path) for path in sorted(PACKAGE.rglob("*.py"))]
EVERY_MODULE = pytest.mark.parametrize("module", MODULES, ids=str)


def imports(module: Module) -> Iterator[tuple[str, ast.Import | ast.ImportFrom]]:
    """Each imported module by its absolute name; `from package import module` is the module where it is one."""
    names = {other.name for other in MODULES}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in names else base), node


def layer_of(part: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if part in layer)


def our_parts(module: Module) -> set[str]:
    return {name.split(".")[1] for name, _ in imports(module) if name.startswith("localfusion.")}


def test_every_part_has_a_layer() -> None:
    parts = {module.part for module in MODULES} - ROOT_MODULES
    assert parts - set().union(*LAYERS) == set()


@EVERY_MODULE
def test_imports_go_down_the_layers(module: Module) -> None:
    if module.part in ROOT_MODULES:
        return
    mine = layer_of(module.part)
    wrong = {part for part in our_parts(module) if part != module.part and layer_of(part) >= mine}
    assert wrong == set(), f"{module.name} is in layer {mine} and may not import {sorted(wrong)}"


@EVERY_MODULE
def test_imports_are_absolute_and_at_the_top(module: Module) -> None:
    top = {id(node) for node in module.tree.body}
    for name, node in imports(module):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
        assert id(node) in top, f"line {node.lineno}: {name} is imported inside of something"


@EVERY_MODULE
def test_only_the_command_group_and_the_providers_import_by_name(module: Module) -> None:
    if module.name not in LAZY:  # importlib.metadata says what is installed and imports none of it
        names = {name for name, _ in imports(module)} - {"importlib.metadata"}
        assert "importlib" not in {name.split(".")[0] for name in names}


@EVERY_MODULE
def test_each_package_has_one_door(module: Module) -> None:
    for name, node in imports(module):
        door = DOORS.get(name.split(".")[0])
        assert door is None or module.part in door, f"line {node.lineno}: {name} belongs to {sorted(door or ())}"


@EVERY_MODULE
def test_only_config_reads_the_environment(module: Module) -> None:
    if module.part == "config":
        return
    reads = [
        node.lineno
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"} and ast.unparse(node.value) == "os"
    ]
    assert reads == []


def test_the_parent_process_does_not_import_llama_cpp() -> None:
    """What is reached from the command line without the worker's own entry loads neither llama_cpp nor llguidance."""
    by_name = {module.name: module for module in MODULES}
    reached: set[str] = set()
    waiting = [module.name for module in MODULES if module.part == "cli"]
    while waiting:
        name = waiting.pop()
        if name in reached or name not in by_name:
            continue
        reached.add(name)
        waiting += [found for found, _ in imports(by_name[name])]
    heavy = {
        name
        for name in reached
        for found, _ in imports(by_name[name])
        if found.split(".")[0] in {"llama_cpp", "llguidance"}
    }
    assert heavy == set()


def test_there_are_no_import_cycles() -> None:
    edges = {module.name: {name for name, _ in imports(module)} for module in MODULES}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"cycle: {' -> '.join((*above[above.index(name) :], name))}"
        if name in done or name not in edges:
            return
        for other in sorted(edges[name] - {name}):
            visit(other, (*above, name))
        done.add(name)

    for name in edges:
        visit(name, ())


@EVERY_MODULE
def test_every_module_says_what_it_is(module: Module) -> None:
    assert (ast.get_docstring(module.tree) or "").strip()


@EVERY_MODULE
def test_no_module_has_an_empty_name(module: Module) -> None:
    assert set(module.name.split(".")) & BARRED_NAMES == set()


@EVERY_MODULE
def test_nothing_catches_everything(module: Module) -> None:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            reraises = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
            assert caught not in ("", "Exception"), f"line {node.lineno}"
            assert caught != "BaseException" or reraises, f"line {node.lineno}"


def lines_for_files() -> list[str]:
    """The file of each line of ARCHITECTURE.md that is about one."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    return re.findall(r"^- `([^`]+)`: \S", text, flags=re.MULTILINE)


def listed_files() -> set[str]:
    return set(lines_for_files())


def test_the_architecture_lists_no_file_twice() -> None:
    assert {name: count for name, count in Counter(lines_for_files()).items() if count > 1} == {}


def test_every_file_has_its_line_in_the_architecture() -> None:
    files = {str(module.path.relative_to(PACKAGE).as_posix()) for module in MODULES}
    assert {name for name in listed_files() if name.endswith(".py") and not name.startswith("scripts/")} == files


def test_every_script_has_its_line_in_the_architecture() -> None:
    scripts = {f"scripts/{path.name}" for path in (ROOT / "scripts").iterdir() if path.is_file()}
    assert scripts <= listed_files()
