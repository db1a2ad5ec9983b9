"""What a template's desktops may use, and what a session of it may ask for: `spec.resources` of a template."""

from typing import Annotated, ClassVar

import msgspec

from vdi.api.constraints import CPU, MEMORY, Quantity, Rule, default_within_maximum, doc, quantities_as_text

# dyn(): without it the API server takes a string(integer) to be of any length, and refuses the rule as too costly.
_GPUS, _MOST_GPUS = "string(dyn(self.defaultGPU))", "string(dyn(self.maxGPU))"
_MAXIMUM_GPU = Rule(
    "!has(self.maxGPU) || self.defaultGPU <= self.maxGPU",
    "defaultGPU must not be more than maxGPU",
    f'"defaultGPU is \'" + {_GPUS} + "\', more than maxGPU \'" + {_MOST_GPUS} + "\'"',
    ".defaultGPU",
)


class TemplateResources(msgspec.Struct, rename="camel", omit_defaults=True):
    """Default and maximum resources of a desktop.

    Default of a maximum: the larger of the default value and, for GPUs, 1.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        _MAXIMUM_GPU,
        default_within_maximum("defaultMemory", "maxMemory"),
        default_within_maximum("defaultCPU", "maxCPU"),
        default_within_maximum("defaultEphemeralStorage", "maxEphemeralStorage"),
        Rule(
            "!has(self.maxEphemeralStorage) || has(self.defaultEphemeralStorage)",
            "maxEphemeralStorage needs defaultEphemeralStorage, because a session without a value would have no limit",
            field_path=".maxEphemeralStorage",
        ),
    )

    default_gpu: Annotated[int, doc("GPUs. 0: a CPU desktop, which ignores the session's gpu.", minimum=0)] = (
        msgspec.field(name="defaultGPU", default=1)
    )
    default_memory: Annotated[Quantity, doc("Memory.", MEMORY, maxLength=32)] = "4Gi"
    default_cpu: Annotated[Quantity, doc("CPUs.", CPU, maxLength=32)] = msgspec.field(name="defaultCPU", default="2")
    max_gpu: Annotated[
        int | None,
        doc(
            "The maximum number of GPUs that a session may request. Default: the larger of 1 and defaultGPU.", minimum=0
        ),
    ] = msgspec.field(name="maxGPU", default=None)
    max_memory: Annotated[
        Quantity | None,
        doc("The maximum memory that a session may request. Default: defaultMemory.", MEMORY, maxLength=32),
    ] = None
    max_cpu: Annotated[
        Quantity | None,
        doc("The maximum number of CPUs that a session may request. Default: defaultCPU.", CPU, maxLength=32),
    ] = msgspec.field(name="maxCPU", default=None)
    default_ephemeral_storage: Annotated[
        Quantity | None,
        doc(
            "Local disk of the node: data outside home and volumes, and logs. The pod requests all of it, and a "
            "desktop that uses more is evicted. Default: no request and no limit.",
            MEMORY,
            maxLength=32,
        ),
    ] = None
    max_ephemeral_storage: Annotated[
        Quantity | None,
        doc(
            "The maximum local disk that a session may request. Default: defaultEphemeralStorage.", MEMORY, maxLength=32
        ),
    ] = None

    def __post_init__(self) -> None:
        quantities_as_text(self, "default_memory", "default_cpu", "max_memory", "max_cpu")
        quantities_as_text(self, "default_ephemeral_storage", "max_ephemeral_storage")
