"""`VDIPool`: desktops that are started before a session requests one."""

from typing import Annotated, ClassVar

import msgspec

from vdi.api.constraints import doc, explanation, object_name
from vdi.api.meta import Condition, ObjectMeta
from vdi.api.schedule import PoolSchedule


class PoolSpec(msgspec.Struct, rename="camel", omit_defaults=True):
    """The desktops that the pool keeps ready."""

    template: Annotated[
        str,
        object_name(
            "Name of the VDITemplate to start. Its desktops must have no home, because a home"
            " cannot be attached to a running desktop."
        ),
    ]
    replicas: Annotated[
        int,
        doc(
            "Number of started desktops to keep available. `kubectl scale` and autoscalers set it.",
            minimum=0,
        ),
    ] = 1
    schedule: Annotated[
        PoolSchedule | None,
        doc(
            "When the pool keeps desktops ready; outside these times it keeps none. Default:"
            " always."
        ),
    ] = None


class PoolStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """The pool's state, as observed by the operator."""

    ready: Annotated[int, doc("Started desktops that are available now.")] = 0
    starting: Annotated[int, doc("Desktops that are starting.")] = 0
    claimed: Annotated[int, doc("Running sessions whose desktop came from this pool.")] = 0
    message: Annotated[str, explanation("What the pool waits for, in one sentence.")] = ""
    selector: Annotated[
        str, doc("Label selector of the pool's desktops, for the scale subresource.")
    ] = ""
    observed_generation: Annotated[
        int, doc("Generation of the pool that this status describes.")
    ] = 0
    conditions: Annotated[
        tuple[Condition, ...],
        doc(
            "Ready: whether the pool has the desktops that spec requests, and the reason if not.",
            list_key="type",
            maxItems=32,
        ),
    ] = ()


class VDIPool(msgspec.Struct, rename="camel", omit_defaults=True):
    """Desktops of one template that are started in advance; a new session takes one immediately."""

    plural: ClassVar[str] = "vdipools"

    metadata: ObjectMeta
    spec: PoolSpec
    status: PoolStatus = msgspec.field(default_factory=PoolStatus)
