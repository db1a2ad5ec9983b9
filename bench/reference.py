"""The Go reference operator, built once into the cache with the toolchain that builds the cluster's
own programs.
"""

from __future__ import annotations

import os
from pathlib import Path

from vdi.devcluster.binaries.components import GoBuild
from vdi.devcluster.binaries.go_build import build, module_digest
from vdi.devcluster.build_cache import BuildCache, default_cache
from vdi.devcluster.progress import Progress

MODULES = Path(__file__).parent
PROGRAM = "reference-go"


def build_reference(progress: Progress) -> Path:
    """The program, for the sources as they are now. Raises SourceFailed or StepFailed when it
    cannot be built.
    """
    recipe = GoBuild(
        key=f"bench-{PROGRAM}-{module_digest(MODULES / PROGRAM)}",
        title="The Go reference operator",
        modules=MODULES,
        module=PROGRAM,
        provides={PROGRAM: PROGRAM},
    )
    build_cache = BuildCache(progress, default_cache(os.environ))
    entry = build_cache.obtain(
        recipe.key, recipe.title, lambda step, into: build(recipe, build_cache, step, into)
    )
    return entry / PROGRAM
