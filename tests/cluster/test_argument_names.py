"""The shipped names of engine arguments are the fields of the installed vLLM's own classes."""

import json
import subprocess
import sys

import pytest

from serving.engine_support import engine_argument_names
from tests.cluster.local_cluster import PROJECT

pytestmark = pytest.mark.cluster
ASK = """
import dataclasses, json
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import FrontendArgs
fields = [field.name for kind in (AsyncEngineArgs, FrontendArgs) for field in dataclasses.fields(kind)]
print(json.dumps(sorted(set(fields))))
"""


def test_the_shipped_argument_names_are_the_fields_of_the_real_classes() -> None:
    asked = subprocess.run(
        [sys.executable, "-c", ASK], cwd=PROJECT, capture_output=True, text=True, timeout=180, check=False
    )
    assert asked.returncode == 0, asked.stderr[-2000:]
    assert set(json.loads(asked.stdout.splitlines()[-1])) == engine_argument_names()
