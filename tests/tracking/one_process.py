"""For the Python of an MLflow: `mlflow server` serves in its own process, with what is imported
there. By itself it would start Python anew for that, which takes longer than all that is asked of
it afterwards."""

import os
import runpy
import sys
from typing import Any

import mlflow.server


def _serve(command: list[str], *, extra_env: dict[str, str], **_: Any) -> None:
    module, *arguments = command[2:]  # after python -m
    os.environ.update(extra_env)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


mlflow.server._exec_cmd = _serve
