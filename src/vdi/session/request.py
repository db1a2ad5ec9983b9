"""What a person who wants a desktop asks for, and the VDISession that asks the cluster for it. Pure."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vdi.api.meta import API_VERSION
from vdi.api.template import VDITemplate
from vdi.session.volumes import GROUPS, groups_annotation

_NAME_LIMIT = 63


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What a new desktop is to be like; None means not given: as the template or the schema says."""

    user: str
    template: str
    name: str | None = None
    gpu: int | None = None
    memory: str | None = None
    cpu: str | None = None
    ephemeral_storage: str | None = None
    timeout: str | None = None
    idle_timeout: str | None = None
    priority: int | None = None
    hostname: str | None = None
    home: bool | None = None
    home_size: str | None = None
    retain: bool | None = None

    @property
    def names_resources(self) -> bool:
        """Whether any of the resources was given."""
        return (self.gpu, self.memory, self.cpu, self.ephemeral_storage) != (None, None, None, None)


def generate_name(user: str, template: str) -> str:
    """A readable object name: `alice-ubuntu-desktop` for alice@example.com. Always the same for the same two."""
    words = f"{user.partition('@')[0]}-{template}".lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:_NAME_LIMIT].strip("-") or "desktop"


def build_session(
    request: SessionRequest, namespace: str, template: VDITemplate | None, groups: Collection[str] = ()
) -> dict[str, Any]:
    """The VDISession to create. `groups`: those of the user, as far as they are known.

    A session that names one resource gets the schema's defaults (1 GPU, 4Gi) for the others, not the template's: so the
    template's are written down beside it, when the template could be read.
    """
    spec: dict[str, Any] = {"user": request.user, "template": request.template}
    if request.names_resources:
        spec["resources"] = _resources(request, template)
    if persistence := _persistence(request):
        spec["persistence"] = persistence
    others = {
        "hostname": request.hostname,
        "timeout": request.timeout,
        "idleTimeout": request.idle_timeout,
        "priority": request.priority,
    }
    spec |= {key: value for key, value in others.items() if value is not None}
    name = request.name or generate_name(request.user, request.template)
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if template and (annotation := groups_annotation(template, groups)):
        metadata["annotations"] = {GROUPS: annotation}
    return {"apiVersion": API_VERSION, "kind": "VDISession", "metadata": metadata, "spec": spec}


def _resources(request: SessionRequest, template: VDITemplate | None) -> Mapping[str, Any]:
    given = {
        "gpu": request.gpu,
        "memory": request.memory,
        "cpu": request.cpu,
        "ephemeralStorage": request.ephemeral_storage,
    }
    if template is None:
        return {key: value for key, value in given.items() if value is not None}
    theirs = template.spec.resources
    offered = {"gpu": theirs.default_gpu or None, "memory": theirs.default_memory, "cpu": theirs.default_cpu}
    merged = {key: value if value is not None else offered.get(key) for key, value in given.items()}
    return {key: value for key, value in merged.items() if value is not None}


def _persistence(request: SessionRequest) -> Mapping[str, Any]:
    given = {"enabled": request.home, "size": request.home_size, "retain": request.retain}
    return {key: value for key, value in given.items() if value is not None}
