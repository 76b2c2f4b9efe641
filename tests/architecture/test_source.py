"""Rules of the house that a linter does not know: what may not stand in the source of the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import diffusers_erasure

PACKAGE = Path(diffusers_erasure.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
LONGEST_MODULE, LONGEST_FUNCTION = 400, 60
RECIPE = "diffusers_erasure.embedded.recipe"


def relative(path: Path) -> str:
    """Readable test id: the path inside the package."""
    return path.relative_to(PACKAGE).as_posix()


def dotted(node: ast.expr) -> str:
    """`torch.load` for the expression that says so; empty for anything that is no plain name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def is_false(node: ast.expr) -> bool:
    """Whether the expression is the literal False."""
    return isinstance(node, ast.Constant) and node.value is False


def faults_of_call(node: ast.Call) -> Iterator[str]:
    """Calls that could load wrong or dangerous weights without a word."""
    name = dotted(node.func)
    for keyword in node.keywords:
        if keyword.arg == "strict" and is_false(keyword.value) and name != "zip":
            yield "strict=False: missing weights would go unnoticed; compare the keys and raise"
        if keyword.arg == "ignore_mismatched_sizes":
            yield "ignore_mismatched_sizes: wrong shapes would become random weights; raise instead"


def faults_of_import(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Imports of what can run code when it reads a file."""
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    if {"pickle", "dill", "cloudpickle", "joblib"} & {module.partition(".")[0] for module in modules}:
        yield "pickle: reading it can run anybody's code; use safetensors and JSON"
    if isinstance(node, ast.ImportFrom) and node.module == "torch" and "load" in {a.name for a in node.names}:
        yield "torch.load: it reads pickles; use safetensors"


def faults_of_handler(node: ast.ExceptHandler) -> Iterator[str]:
    """Handlers that would also swallow what nobody thought of."""
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    if any(kind is None or dotted(kind) in {"Exception", "BaseException"} for kind in caught):
        yield "bare or broad except: catch what is expected and let the rest be seen"


def faults(tree: ast.AST) -> Iterator[str]:
    """Every broken rule of one module, as `line: rule`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found = faults_of_call(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found = faults_of_import(node)
        elif isinstance(node, ast.ExceptHandler):
            found = faults_of_handler(node)
        elif isinstance(node, ast.Attribute) and dotted(node) == "torch.load":
            found = iter(["torch.load: it reads pickles; use safetensors"])
        else:
            continue
        yield from (f"line {node.lineno}: {fault}" for fault in found)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_that_is_forbidden(path: Path) -> None:
    assert not list(faults(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "code",
    [
        "model.load_state_dict(weights, strict=False)",
        "Model.from_pretrained(path, ignore_mismatched_sizes=True)",
        "weights = torch.load(path, weights_only=True)",
        "reader = torch.load",
        "from torch import load",
        "import pickle",
        "try:\n    go()\nexcept:\n    pass",
        "try:\n    go()\nexcept Exception:\n    pass",
        "try:\n    go()\nexcept (KeyError, BaseException) as error:\n    pass",
    ],
)
def test_the_rules_find_what_they_forbid(code: str) -> None:
    assert list(faults(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "list(zip(a, b, strict=False))",
        "model.load_state_dict(weights, strict=True)",
        "safetensors.torch.load(data)",
        "try:\n    go()\nexcept (KeyError, OSError):\n    pass",
    ],
)
def test_the_rules_leave_the_rest_alone(code: str) -> None:
    assert not list(faults(ast.parse(code)))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_modules_and_functions_are_short_enough_to_read(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_MODULE, "one module, one idea: make two of it"
    long = {
        node.name: length
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert not long, "a function is a paragraph: name its parts"


def rooms() -> list[Path]:
    """Every sub-package, at any depth."""
    return sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


def test_no_room_is_called_utils() -> None:
    vague = {"utils", "util", "helpers", "misc", "common"}
    assert not [path for path in SOURCES if vague & {*path.relative_to(PACKAGE).with_suffix("").parts}]


def test_no_room_is_called_like_a_pipeline_of_diffusers() -> None:
    """Otherwise diffusers records that name as the library of a saved component, and it never loads again."""
    import diffusers.pipelines

    folder = Path(diffusers.pipelines.__file__).parent
    theirs = {path.name for path in folder.iterdir() if path.is_dir()}
    assert "stable_diffusion" in theirs
    assert not {room.name for room in rooms()} & theirs


def test_only_commands_know_the_recipe_of_the_embedded_pipeline() -> None:
    """It trains and measures, so whoever imports it imports every room."""
    allowed = ("cli/", "embedded/recipe", "embedded/train.py")
    importers = [
        relative(path)
        for path in SOURCES
        if not relative(path).startswith(allowed)
        and any(
            name.startswith(RECIPE)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in imported_names(node, path)
        )
    ]
    assert not importers


def imported_names(node: ast.AST, path: Path) -> list[str]:
    """Full names of what an import statement of the file `path` imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    here = (PACKAGE.name, *path.parent.relative_to(PACKAGE).parts)
    base = ".".join(here[: len(here) + 1 - node.level]) if node.level else ""
    module = ".".join(part for part in (base, node.module or "") if part)
    return [module, *(f"{module}.{alias.name}" for alias in node.names)]
