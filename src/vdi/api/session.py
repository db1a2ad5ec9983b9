"""`VDISession`: one person's desktop."""

import msgspec

from vdi.api.meta import Condition, ObjectMeta


class SessionResources(msgspec.Struct, rename="camel", omit_defaults=True):
    """What the desktop may use (the pod's limits)."""

    gpu: int = 1
    memory: str = "4Gi"
    cpu: str | None = None


class SessionPersistence(msgspec.Struct, rename="camel", omit_defaults=True):
    """The home volume; what is left out comes from the template."""

    enabled: bool | None = None
    size: str | None = None
    storage_class: str | None = None
    retain: bool = True


class SessionSpec(msgspec.Struct, rename="camel", omit_defaults=True):
    """What the user asks for."""

    user: str
    template: str
    resources: SessionResources | None = None
    persistence: SessionPersistence | None = None
    hostname: str | None = None
    timeout: str = "8h"


class SessionStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """What the operator has seen and done. Times are RFC 3339, UTC, whole seconds."""

    phase: str = ""
    url: str = ""
    message: str = ""
    start_time: str = ""
    ready_time: str = ""
    expires_at: str = ""
    template_revision: str = ""
    pod_name: str = ""
    node_name: str = ""
    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()


class VDISession(msgspec.Struct, rename="camel", omit_defaults=True):
    """The object as the API server stores it."""

    metadata: ObjectMeta
    spec: SessionSpec
    status: SessionStatus = msgspec.field(default_factory=SessionStatus)
