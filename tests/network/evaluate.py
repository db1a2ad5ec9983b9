"""The meaning of policies by a third party: the Go module cyclonus, in a small program built once
into the cache.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from network.roles import Question
from vdi.devcluster.binaries.components import GoBuild
from vdi.devcluster.binaries.go_build import build, module_digest
from vdi.devcluster.build_cache import BuildCache, default_cache
from vdi.devcluster.progress import Progress

MODULES = Path(__file__).parent
PROGRAM = "evaluator"
Policy = dict[str, Any]


@lru_cache(maxsize=1)
def evaluator() -> Path:
    """The program, for its sources as they are now. Raises SourceFailed or StepFailed when it
    cannot be built.
    """
    recipe = GoBuild(
        key=f"network-{PROGRAM}-{module_digest(MODULES / PROGRAM)}",
        title="The evaluator of NetworkPolicies",
        modules=MODULES,
        module=PROGRAM,
        provides={PROGRAM: PROGRAM},
    )
    cache = default_cache(os.environ)
    with Progress(cache / "logs") as progress:
        build_cache = BuildCache(progress, cache)
        entry = build_cache.obtain(
            recipe.key, recipe.title, lambda step, into: build(recipe, build_cache, step, into)
        )
    return entry / PROGRAM


def ask(questions: Sequence[Question], sets: Sequence[Sequence[Policy]]) -> list[str]:
    """For each set of policies a letter for each question: y allowed, e the sender's say no, i the
    receiver's do.
    """
    given = {"questions": [question.as_json() for question in questions], "sets": sets}
    done = subprocess.run(
        [evaluator()],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answers: list[str] = json.loads(done.stdout)
    return answers
