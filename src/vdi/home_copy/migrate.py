"""Moves a home into another one: a copy that is verified, then the switch. The old home is kept.

pod -> both claims marked (`COPYING`) -> is one in use? -> `program` in the pod -> switch -> marks off -> pod deleted

The pod's name keeps a second migration out. Killed at any step: no desktop starts on a marked claim, and the same
command goes on.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.home_copy import program
from vdi.home_copy.errors import CopyFailedError, CopyRefusedError
from vdi.home_copy.migration import Migration, find_ending, find_refusal
from vdi.home_copy.pod import build_copy_pod, migrate_script, pod_name
from vdi.home_copy.runner import (
    END_SECONDS,
    LOOK_SECONDS,
    CopyRun,
    copy_pod,
    delete_claim,
    open_command,
    reason_of,
    result_of,
    until_running,
)
from vdi.kube.errors import AlreadyExists, NotFound
from vdi.kube.resource import CLAIMS, PODS
from vdi.operator.kinds import SESSIONS
from vdi.session.children.home import build_home
from vdi.session.homes import COPYING, MADE_AHEAD, MIGRATE, MIGRATED_TO
from vdi.session.identity import Identity
from vdi.session.observed import PersistentVolumeClaim, Pod


@dataclass(frozen=True, slots=True)
class Migrated:
    """A home that has been copied."""

    files: int
    folders: int
    size: int
    left_out: tuple[str, ...]
    """Sockets and devices."""


class ConflictError(CopyRefusedError):
    """Raised when the target has other files of the same names, or when files cannot be read."""

    def __init__(self, message: str, paths: Sequence[str], count: int) -> None:
        super().__init__(message)
        self.paths = tuple(paths)
        """The first of them."""
        self.count = count


async def migrate_home(
    run: CopyRun, migration: Migration, template: VDITemplate, *, into: str = "", image: str | None = None
) -> Migrated | None:
    """Copy, verify, switch; None: an interrupted run had copied all, only the switch was left.

    Raises CopyRefusedError, CopyFailedError and KubeError: the old home is the one in use then.
    """
    source, target = migration.source, migration.target.claim
    body = build_copy_pod(source, template, image=image, read_only=True, target=target)
    async with copy_pod(run, source, body):
        await _refuse_or_go(run, migration)
        if migration.switched:  # a run that was killed at its last lines
            await _switch(run, migration)
            return None
        marking = asyncio.create_task(_mark(run, migration, template))
        try:
            await asyncio.shield(marking)
            await _refuse_or_go(run, migration)  # a desktop that started before the marks were there
            await until_running(run, source)
            done = await _copy(run, source, into)
            await _refuse_or_go(run, migration)
        except BaseException:
            made = await result_of(marking)
            await _patch(run, source, {COPYING: None})
            if made:
                await delete_claim(run, target, made)
            else:  # only the mark: a claim that this run has not made may have files
                await _patch(run, target, {COPYING: None})
            raise
        await _switch(run, migration)
    return done


async def _switch(run: CopyRun, migration: Migration) -> None:
    """In this order: no desktop starts on either home before the new one is the home, and then on that alone."""
    source, target = migration.source, migration.target.claim
    if migration.replaces:
        await _patch(run, source, {MIGRATED_TO: target})
    await _patch(run, target, {COPYING: None, MIGRATED_TO: None})
    await _patch(run, source, {COPYING: None})


async def _refuse_or_go(run: CopyRun, migration: Migration) -> None:
    """Wait for desktops that are ending. Raises CopyRefusedError while something else has one of the two homes."""
    deadline = run.clock.monotonic() + END_SECONDS
    while True:
        claims = await run.client.list(CLAIMS, namespace=run.namespace, into=PersistentVolumeClaim)
        sessions = await run.client.list(SESSIONS, namespace=run.namespace, into=VDISession)
        pods = await run.client.list(PODS, namespace=run.namespace, into=Pod)
        others = [pod for pod in pods if pod.metadata.name != pod_name(migration.source)]
        if why := find_refusal(migration, claims, sessions, others, run.flags):
            raise CopyRefusedError(why)
        ending = find_ending(migration, sessions, others)
        if ending is None:
            return
        name = ending.metadata.name
        if run.clock.monotonic() >= deadline:
            raise CopyRefusedError(f"the pod {name} uses the home and has not ended within {END_SECONDS:g} s")
        run.progress(f"waiting for the end of the pod {name}")
        await run.clock.sleep(LOOK_SECONDS)


async def _mark(run: CopyRun, migration: Migration, template: VDITemplate) -> str | None:
    """Keep desktops from both homes; the uid of the target when this has made it."""
    await _patch(run, migration.source, {COPYING: MIGRATE, MADE_AHEAD: None})
    identity = Identity(run.namespace, name="", uid="", user=migration.user, template=template.metadata.name)
    body = build_home(identity=identity, home=migration.target)
    body["metadata"]["annotations"][COPYING] = MIGRATE
    try:
        made = await run.client.create(CLAIMS, body, namespace=run.namespace, into=PersistentVolumeClaim)
    except AlreadyExists:
        await _patch(run, migration.target.claim, {COPYING: MIGRATE, MADE_AHEAD: None})
        return None
    return made.metadata.uid


async def _patch(run: CopyRun, claim: str, annotations: Mapping[str, str | None]) -> None:
    body = {"metadata": {"annotations": dict(annotations)}}
    try:
        await run.client.patch(CLAIMS, claim, body, namespace=run.namespace, into=msgspec.Raw)
    except NotFound:
        if any(annotations.values()):
            raise


async def _copy(run: CopyRun, claim: str, into: str) -> Migrated:
    source = await asyncio.to_thread(Path(program.__file__).read_bytes)
    result: dict[str, Any] = {}
    async with open_command(run, claim, migrate_script(into)) as command:
        command.stdin.write(source)
        command.stdin.close()
        async for line in command.stdout:
            result = json.loads(line)
            if "bytes" in result:
                run.moved(result["bytes"])
            elif "step" in result:
                run.progress(_STEPS[result["step"]])
        status, lines = await command.end()
    if "error" in result:
        if result["count"]:
            raise ConflictError(result["error"], result["paths"], result["count"])
        raise CopyFailedError(result["error"])
    if status != 0 or "done" not in result:
        raise CopyFailedError(await reason_of(run, claim, status, lines))
    done = result["done"]
    return Migrated(done["files"], done["folders"], done["bytes"], tuple(done["leftOut"]))


_STEPS = {"scan": "reading the old home", "move": "renaming into place"}
