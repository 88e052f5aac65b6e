"""Writes vllm_engine_arguments.json: the names of the arguments that the pinned vLLM release takes.

Reads vLLM's source as text (`ast`), so nothing heavy is imported and no code of theirs runs. Run it again
after every change of the vLLM pin:

    python serving/data/make_vllm_engine_arguments.py

One test compares the shipped file with what this script makes of the installed release, another with the
fields of vLLM's real classes.
"""

import ast
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file from anywhere

from serving.data.make_vllm_architectures import installed_version, package_folder

TARGET = Path(__file__).with_name("vllm_engine_arguments.json")
CLASSES = {
    "engine": ("engine/arg_utils.py", ("EngineArgs", "AsyncEngineArgs")),
    "frontend": ("entrypoints/launchers/cli_args.py", ("BaseFrontendArgs", "FrontendArgs")),
}
"""Ray Serve LLM gives a map of arguments to AsyncEngineArgs and FrontendArgs, by their fields' names."""


def installed_names() -> dict[str, Any]:
    """The names of the installed release, as they are written to the file."""
    vllm = package_folder("vllm")
    names = {
        group: sorted(_field_names(ast.parse((vllm / path).read_text()), classes))
        for group, (path, classes) in CLASSES.items()
    }
    return {
        "about": "Fields of vLLM's AsyncEngineArgs and FrontendArgs in the release below; made by "
        "make_vllm_engine_arguments.py from its source.",
        "vllm_version": installed_version(),
        **names,
    }


def as_text(names: dict[str, Any]) -> str:
    """The file's exact content."""
    return json.dumps(names, indent=1) + "\n"


def _field_names(tree: ast.Module, classes: tuple[str, ...]) -> set[str]:
    """Annotated names in the bodies of these dataclasses; ClassVar is no field."""
    found = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in classes}
    if missing := [name for name in classes if name not in found]:
        raise SystemExit(f"{missing[0]} is not where it used to be; adapt this script to the new vLLM")
    return {
        line.target.id
        for node in found.values()
        for line in node.body
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and "ClassVar" not in ast.unparse(line.annotation)
    }


if __name__ == "__main__":
    TARGET.write_text(as_text(installed_names()))
    sys.stdout.write(f"wrote {TARGET.name}\n")
