import os
import subprocess
import sys
from pathlib import Path

from bench.operator_python import interpreter, operator_command, operator_environment


def test_the_operator_is_found_by_the_python_that_runs_it() -> None:
    program, version = interpreter()
    assert operator_command()[0] == str(program)
    question = "import platform, msgspec, vdi.kube.http as found; print(platform.python_version(), found.__file__)"
    environment = {**os.environ, **operator_environment()}
    told = subprocess.run([program, "-c", question], env=environment, capture_output=True, text=True, check=True)
    said, found = told.stdout.split()
    assert said == version
    assert version.split(".")[:2] == [str(sys.version_info.major), str(sys.version_info.minor)]
    import vdi.kube.http

    assert Path(found) == Path(vdi.kube.http.__file__)
