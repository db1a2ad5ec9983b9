"""The request for a new session, and the VDISession that is created from it. Pure.

The struct is the body of the REST API's `POST /sessions` as it stands; the portal's form and `vdi
session create` fill in the same one. A field that is not given is left to the template, or to the
CRD's default.
"""

import re
from collections.abc import Collection, Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from vdi.api.constraints import doc
from vdi.api.meta import API_VERSION
from vdi.api.template import VDITemplate
from vdi.session.volumes import GROUPS, groups_annotation

_NAME_LIMIT = 63
_MAX_NAMES = 20

Name = Annotated[str, Meta(max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
Length = Annotated[
    str, Meta(max_length=32, pattern=r"^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$")
]
Amount = Annotated[str, Meta(min_length=1, max_length=32)]


class RequestedResources(
    msgspec.Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True, frozen=True
):
    """Resources of the desktop; omitted fields have the template's values."""

    gpu: Annotated[
        Annotated[int, Meta(ge=1)] | None, doc("GPUs (shares of one, where they are time-sliced).")
    ] = None
    memory: Annotated[Amount | None, doc("An amount of memory, such as 8Gi.")] = None
    cpu: Annotated[Amount | None, doc("A number of CPUs, such as 2 or 1500m.")] = None
    ephemeral_storage: Annotated[
        Amount | None,
        doc(
            "Local disk of the node, such as 20Gi. For templates that have"
            " `resources.defaultEphemeralStorage`."
        ),
    ] = None


class RequestedHome(
    msgspec.Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True, frozen=True
):
    """The home volume; omitted fields have the template's values."""

    enabled: Annotated[
        bool | None, doc("Whether files in the home directory are kept when the desktop ends.")
    ] = None
    size: Annotated[
        Amount | None,
        doc(
            "Size of a new home, such as 20Gi. At most the template's `persistence.maxSize`, or"
            " `persistence.size`."
        ),
    ] = None
    retain: Annotated[
        bool | None,
        doc("false: the home belongs to this session and is deleted with it. Default: true."),
    ] = None


class SessionRequest(
    msgspec.Struct,
    rename="camel",
    omit_defaults=True,
    forbid_unknown_fields=True,
    frozen=True,
    kw_only=True,
):
    """A desktop to start."""

    template: Annotated[
        str, Meta(min_length=1, max_length=253), doc("Name of a template, one of `GET /templates`.")
    ]
    name: Annotated[
        Name | None,
        doc(
            "Name: lower-case letters, digits and inner hyphens. Default: derived from user and"
            " template."
        ),
    ] = None
    resources: Annotated[RequestedResources | None, doc("Resources of the desktop.")] = None
    persistence: Annotated[RequestedHome | None, doc("The home volume.")] = None
    timeout: Annotated[Length | None, doc("Length of the run, such as 4h. Default: 8h.")] = None
    idle_timeout: Annotated[
        Length | None,
        doc("How long the desktop may be idle, such as 30m. Default: the template's value."),
    ] = None
    time_zone: Annotated[
        Annotated[str, Meta(min_length=1, max_length=64)] | None,
        doc(
            "Time zone of the desktop, such as Europe/Berlin (IANA name). Default: the template's"
            " value."
        ),
    ] = None
    hostname: Annotated[
        Name | None,
        doc(
            "First label of the desktop's host name: lower-case letters, digits and inner hyphens."
            " The first user who gets it keeps it. Default: derived from the name and a hash."
        ),
    ] = None
    user: Annotated[
        Annotated[str, Meta(max_length=254, pattern=r"^\S+@\S+\.\S+$")] | None,
        doc("Owner of the desktop: an e-mail address. For administrators. Default: you."),
    ] = None
    priority: Annotated[
        Annotated[int, Meta(ge=-1000, le=1000)] | None,
        doc(
            "A waiting session with a higher priority starts first. Above 0 for administrators."
            " Default: 0."
        ),
    ] = None

    @property
    def names_resources(self) -> bool:
        return self.resources not in (None, RequestedResources())

    @property
    def options(self) -> dict[str, str]:
        """Size, times and home, as far as they are given."""
        is_without_home = self.persistence is not None and self.persistence.enabled is False
        size = msgspec.structs.asdict(self.resources or RequestedResources())
        given = size | {
            "timeout": self.timeout,
            "idle": self.idle_timeout,
            "home": "no" if is_without_home else None,
        }
        return {name: str(value)[:32] for name, value in given.items() if value}


def generate_name(user: str, template: str) -> str:
    """A readable object name: `alice-ubuntu-desktop` for alice@example.com; always the same for the
    same two.
    """
    joined = f"{user.partition('@')[0]}-{template}".lower()
    return re.sub(r"[^a-z0-9]+", "-", joined).strip("-")[:_NAME_LIMIT].strip("-") or "desktop"


def generate_names(user: str, template: str) -> Iterator[str]:
    """Names to try until one is free: alice@a.example and alice@b.example have the same first one."""
    first = generate_name(user, template)
    yield first
    for number in range(2, _MAX_NAMES):
        yield f"{first[:60]}-{number}"


def build_session(
    request: SessionRequest,
    namespace: str,
    template: VDITemplate | None,
    groups: Collection[str] = (),
) -> dict[str, Any]:
    """The VDISession to create for `request.user`. `groups`: those of the user, as far as they are
    known.
    """
    spec = {key: value for key, value in msgspec.to_builtins(request).items() if value != {}}
    name = spec.pop("name", None) or generate_name(spec["user"], request.template)
    # The CRD has defaults of its own for resources (1 GPU, 4Gi) as soon as one of them is named.
    # The template's are therefore written beside it, if the template can be read.
    if template and "resources" in spec:
        offer = template.spec.resources
        offered = {
            "gpu": offer.default_gpu or None,
            "memory": offer.default_memory,
            "cpu": offer.default_cpu,
        }
        spec["resources"] = {
            key: value for key, value in offered.items() if value is not None
        } | spec["resources"]
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if template and (annotation := groups_annotation(template, groups)):
        metadata["annotations"] = {GROUPS: annotation}
    return {"apiVersion": API_VERSION, "kind": "VDISession", "metadata": metadata, "spec": spec}
