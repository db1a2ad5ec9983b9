"""The Go reference operator, built once into the cache with the toolchain that builds the cluster's own programs."""

from __future__ import annotations

import os
from pathlib import Path

from vdi.devcluster.progress import Progress
from vdi.devcluster.sources import Workshop, default_cache
from vdi.devcluster.sources_go import build, module_digest
from vdi.devcluster.sources_table import GoBuild

MODULES = Path(__file__).parent
PROGRAM = "reference-go"


def build_reference(progress: Progress) -> Path:
    """The program, for the sources as they are now. Raises SourceFailed or StepFailed when it cannot be built."""
    recipe = GoBuild(
        key=f"bench-{PROGRAM}-{module_digest(MODULES / PROGRAM)}",
        title="The Go reference operator",
        module=PROGRAM,
        provides={PROGRAM: PROGRAM},
    )
    workshop = Workshop(progress, default_cache(os.environ))
    entry = workshop.obtain(
        recipe.key, recipe.title, lambda step, into: build(recipe, workshop, step, into, modules=MODULES)
    )
    return entry / PROGRAM
