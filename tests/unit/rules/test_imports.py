"""Who may import whom (docs/architecture.md), read from the source with `ast`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {"ray", "vllm", "torch", "transformers"}
FRAMEWORKS = {"django", "celery", "channels", "ninja"}


def imports_of(path: Path) -> set[str]:
    """Every module a file imports anywhere, in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def files(folder: str, *, but: tuple[str, ...] = ()) -> Iterator[Path]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        relative = path.relative_to(ROOT).as_posix()
        if not relative.startswith(but):
            yield path


def offenders(paths: Iterator[Path], forbidden: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imports_of(path)
        if name.split(".")[0] in forbidden or name in forbidden
    ]


def test_only_the_cluster_side_imports_the_engine() -> None:
    outside = ("serving/cluster/", "serving/demo/train", "serving/data/make_")
    assert offenders(files("serving", but=outside), HEAVY) == []
    assert offenders(files("console"), HEAVY) == []
    assert offenders(files("workers"), HEAVY) == []


def test_the_domain_knows_no_framework_and_neither_console_nor_workers() -> None:
    assert offenders(files("serving"), FRAMEWORKS | {"console", "workers"}) == []


def test_the_console_reaches_the_workers_by_task_name_only() -> None:
    # The collector's command is a process of the workers' that Django's command line starts.
    assert offenders(files("console", but=("console/management/commands/collect",)), {"workers"}) == []


def test_one_module_touches_the_channel_layer() -> None:
    users = [
        path.relative_to(ROOT).as_posix()
        for folder in ("console", "workers")
        for path in files(folder)
        if "channels.layers" in imports_of(path) or "channels.layers.get_channel_layer" in imports_of(path)
    ]
    assert users == ["console/live.py"]


@pytest.mark.parametrize("word", ["ray stop", 'address="auto"', "pkill", "killall"])
def test_nothing_ends_or_joins_processes_of_others(word: str) -> None:
    """`ray stop` ends every Ray of the machine, and address="auto" joins anybody's cluster."""
    used = []
    for folder in ("console", "serving", "workers", "deploy"):
        for path in files(folder):
            tree = ast.parse(path.read_text())
            docs = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if _has_docstring(node)}
            texts = [
                n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
            ]
            used += [path.name for text in texts if word in text and text not in docs]
    assert used == []


def _has_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
