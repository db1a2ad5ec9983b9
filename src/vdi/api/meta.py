"""Kubernetes object metadata, pruned to the fields this project reads. Part of every struct decoded
from the API.
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec

from vdi.api.constraints import doc, explanation, instant

GROUP = "vdi.kasm.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
# Namespace of operator and gateway unless the administrator chooses another.
RELEASE_NAMESPACE = "vdi-system"


class OwnerReference(msgspec.Struct, rename="camel", omit_defaults=True, gc=False, frozen=True):
    """`metadata.ownerReferences[]`."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False


class ObjectMeta(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """`metadata` without managedFields and the rest that is not read here."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class Condition(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """`status.conditions[]` as Kubernetes defines it (KEP-1623)."""

    type: Annotated[str, doc("Type of the condition.", maxLength=316)]
    status: Annotated[str, doc("Status of the condition.", enum=["True", "False", "Unknown"])]
    reason: Annotated[str, doc("Reason code, for programs.", maxLength=1024)]
    message: Annotated[str, explanation("Explanation for people.")] = ""
    last_transition_time: Annotated[str, instant("When status last changed.")] = ""
    observed_generation: Annotated[
        int, doc("Generation of the object that this condition describes.")
    ] = 0


def find_condition(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of that type, if there is one."""
    return next((condition for condition in conditions if condition.type == kind), None)
