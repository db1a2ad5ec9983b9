"""The writing half of `vdi doctor --fix`: an object as it is now, the change to it, and that change alone.

Nothing is changed that is not as it was when it was shown.
"""

from typing import Any

from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.fixes import fix_for
from vdi.findings.model import Finding
from vdi.gpu.sharing.changes import Change, change_between
from vdi.kube.errors import NotFound
from vdi.kube.transport import Client

Object = dict[str, Any]


async def prepare_fix(client: Client, finding: Finding, snapshot: Snapshot) -> Change | None:
    """What would fix this, or None: a person has to, or it is gone already. Raises ApiError and ConnectionFailed."""

    fix = fix_for(finding)
    if fix is None:
        return None
    namespace, name = fix.place(finding)
    try:
        there = await client.get(fix.resource, name, namespace=namespace, into=Object)
    except NotFound:
        return None
    return change_between(fix.resource, there, fix.change(there, snapshot))


async def apply_fix(client: Client, step: Change) -> None:
    """The change. Raises Conflict or NotFound when somebody else was there first, and Forbidden."""
    before = dict(step.before or {})["metadata"]
    if step.after is None:
        await client.delete(step.resource, step.name, namespace=step.namespace, uid=before["uid"], into=Object)
        return
    patch = step.patch
    patch.setdefault("metadata", {})["resourceVersion"] = before["resourceVersion"]
    await client.patch(step.resource, step.name, patch, namespace=step.namespace, into=Object)
