"""`VDIPool`: desktops that are started before anybody asks for one."""

from typing import Annotated, ClassVar

import msgspec

from vdi.api.constraints import OBJECT_NAME, Rule, doc
from vdi.api.meta import Condition, ObjectMeta
from vdi.api.schedule import PoolSchedule


class PoolSpec(msgspec.Struct, rename="camel", omit_defaults=True):
    """What the pool keeps ready."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(  # 1 is the default, which the API server writes into pools that have only the old name
            "!has(self.ready) || self.replicas == 1 || self.replicas == self.ready",
            "ready is the old name of replicas and is set too; remove it: "
            'kubectl patch vdipool NAME --type=merge -p \'{"spec":{"ready":null}}\'',
            field_path=".replicas",
        ),
    )

    template: Annotated[
        str,
        doc(
            "Name of the VDITemplate to start. Its desktops must have no home: one can't be attached to a desktop "
            "that runs already.",
            OBJECT_NAME,
            minLength=1,
            maxLength=253,
        ),
    ]
    replicas: Annotated[
        int, doc("How many started desktops wait for somebody. `kubectl scale` and autoscalers set it.", minimum=0)
    ] = 1
    ready: Annotated[
        int | None,
        doc("Deprecated, removed in the next minor version: the old name of replicas. It counts where set.", minimum=0),
    ] = None
    schedule: Annotated[
        PoolSchedule | None, doc("When the pool keeps them ready; outside these times it keeps none. Left out: always.")
    ] = None

    @property
    def desired(self) -> int:
        """How many desktops are to wait, by either name."""
        return self.replicas if self.ready is None else self.ready


class PoolStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """What the operator has seen and done for a pool."""

    ready: Annotated[int, doc("Started desktops that can be taken now.")] = 0
    starting: Annotated[int, doc("Desktops that are on their way.")] = 0
    claimed: Annotated[int, doc("Running sessions whose desktop came from this pool.")] = 0
    message: Annotated[str, doc("One sentence about what the pool waits for.")] = ""
    selector: Annotated[str, doc("Label selector of the pool's desktops, for the scale subresource.")] = ""
    observed_generation: Annotated[int, doc("Generation of the pool that this status speaks of.")] = 0
    conditions: Annotated[
        tuple[Condition, ...],
        doc("Ready: whether the pool has what spec asks for, and why not.", list_key="type", maxItems=32),
    ] = ()


class VDIPool(msgspec.Struct, rename="camel", omit_defaults=True):
    """Desktops of one template that are started before anybody asks; a session takes one at once."""

    plural: ClassVar[str] = "vdipools"

    metadata: ObjectMeta
    spec: PoolSpec
    status: PoolStatus = msgspec.field(default_factory=PoolStatus)
