"""What the API says of sessions and templates, and what it takes to make and change one.

Spec and status are those of the Kubernetes objects, so that one description holds for kubectl, the command line and
this API; what a person may not know is left out (`shape`).
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from vdi.api.constraints import doc
from vdi.api.resources import TemplateResources
from vdi.api.session import SessionSpec, SessionStatus
from vdi.api.template import Lifecycle, TemplatePersistence, TemplateSpec, TemplateStatus

PAGE = 100
MOST = 500

NAME = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
LENGTH = r"^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$"
ADDRESS = r"^\S+@\S+\.\S+$"

Role = Literal["owner", "collaborator", "viewer"]
GuestRole = Literal["collaborator", "viewer"]
"""`spec.access[].role`: GUEST_ROLES of vdi.api.session."""


Name = Annotated[str, Meta(max_length=63, pattern=NAME)]
Length = Annotated[str, Meta(max_length=32, pattern=LENGTH)]
Amount = Annotated[str, Meta(min_length=1, max_length=32)]
Address = Annotated[str, Meta(max_length=254)]


class Page(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Which part of a long list."""

    limit: Annotated[int, Meta(description="The most items to send at once.", ge=1, le=MOST)] = PAGE
    cursor: Annotated[
        Annotated[str, Meta(max_length=512)] | None,
        Meta(description="`next` of the page before; left out: the first page."),
    ] = None


class Metadata(msgspec.Struct, rename="camel", omit_defaults=True):
    """What Kubernetes knows of an object."""

    name: Annotated[str, doc("Its name, the one in the API's addresses.")]
    namespace: Annotated[str, doc("The Kubernetes namespace.")] = ""
    uid: Annotated[str, doc("Another one for each object that ever had this name.")] = ""
    generation: Annotated[int, doc("Counts the changes of `spec`.")] = 0
    creation_timestamp: Annotated[str, doc("When it was made.", format="date-time")] = ""
    deletion_timestamp: Annotated[str, doc("Since when it is being deleted.", format="date-time")] = ""


class Session(msgspec.Struct, rename="camel"):
    """One desktop, its `spec` and its `status`."""

    role: Annotated[
        str,
        doc("What you are in it; `administrator` where you see it only as one.",
            enum=["owner", "collaborator", "viewer", "administrator"]),
    ]  # fmt: skip
    metadata: Annotated[Metadata, doc("Name and times.")]
    spec: Annotated[SessionSpec, doc("What was requested.")]
    status: Annotated[SessionStatus, doc("What the operator has made of it.")]


class SessionList(msgspec.Struct, omit_defaults=True):
    """Sessions, oldest first."""

    items: Annotated[tuple[Session, ...], doc("This page's.")]
    next: Annotated[str, doc("`cursor` of the next page; absent on the last one.")] = ""


class SessionQuery(Page, rename="camel", forbid_unknown_fields=True):
    """Which of my sessions."""

    role: Annotated[Role | None, Meta(description="Only those in which you are this.")] = None


class AllSessionsQuery(Page, rename="camel", forbid_unknown_fields=True):
    """Which of everybody's sessions."""

    user: Annotated[Address | None, Meta(description="Only those of this person.")] = None
    template: Annotated[
        Annotated[str, Meta(max_length=253)] | None, Meta(description="Only those of this template.")
    ] = None
    phase: Annotated[
        Literal["Pending", "Creating", "Running", "Suspended", "Terminating", "Failed"] | None,
        Meta(description="Only those in this phase."),
    ] = None


class WishedResources(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What the desktop may use; what is left out is as the template says."""

    gpu: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="GPUs (shares of one, where they are time-sliced).")
    ] = None
    memory: Annotated[Amount | None, Meta(description="An amount of memory, such as 8Gi.")] = None
    cpu: Annotated[Amount | None, Meta(description="A number of CPUs, such as 2 or 1500m.")] = None
    ephemeral_storage: Annotated[
        Amount | None,
        Meta(
            description="An amount of the node's local disk, such as 20Gi. "
            "For templates that have `resources.defaultEphemeralStorage`."
        ),
    ] = None


class WishedHome(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The home volume; what is left out is as the template says."""

    enabled: Annotated[bool | None, Meta(description="Whether files in the home directory outlive the desktop.")] = None
    size: Annotated[
        Amount | None,
        Meta(
            description="Size of a home that is made new, such as 20Gi. "
            "The maximum is the template's `persistence.maxSize`, or its `persistence.size`."
        ),
    ] = None
    retain: Annotated[
        bool | None,
        Meta(description="false: the home belongs to this session and is deleted with it. Left out: true."),
    ] = None


class NewSession(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A desktop to start."""

    template: Annotated[
        str, Meta(description="Name of a template, one of `GET /templates`.", min_length=1, max_length=253)
    ]
    name: Annotated[
        Name | None,
        Meta(
            description="Name of the session: lower-case letters, digits and inner hyphens. "
            "Left out: made from user and template.",
        ),
    ] = None
    resources: Annotated[WishedResources | None, Meta(description="What the desktop may use.")] = None
    persistence: Annotated[WishedHome | None, Meta(description="The home volume.")] = None
    timeout: Annotated[Length | None, Meta(description="Length of the run, such as 4h. Left out: 8h.")] = None
    idle_timeout: Annotated[
        Length | None, Meta(description="How long it may be idle, such as 30m. Left out: as the template says.")
    ] = None
    hostname: Annotated[
        Name | None,
        Meta(
            description="First label of the desktop's host name: lower-case letters, digits and inner hyphens. "
            "The first user who gets it keeps it. Left out: made from the name and a hash.",
        ),
    ] = None
    user: Annotated[
        Annotated[str, Meta(max_length=254, pattern=ADDRESS)] | None,
        Meta(description="Whose desktop: an e-mail address. For administrators. Left out: yours."),
    ] = None
    priority: Annotated[
        Annotated[int, Meta(ge=-1000, le=1000)] | None,
        Meta(description="A waiting session with a higher one starts first. For administrators. Left out: 0."),
    ] = None


class Extend(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """More time."""

    timeout: Annotated[Length, Meta(description="Length of the whole run, such as 10h.")]


class EndQuery(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What becomes of the files."""

    delete_home: Annotated[bool, Meta(description="true: the home is deleted too, with all files in it.")] = False


class Share(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What a guest may do."""

    role: Annotated[GuestRole, Meta(description="viewer: sees the desktop. collaborator: uses mouse and keyboard too.")]
    expires: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="When it ends, such as 2026-12-24T18:00:00Z. Left out: with the session."),
    ] = None


class TemplateOffer(msgspec.Struct, rename="camel", omit_defaults=True):
    """A template's spec, as far as it concerns who starts a desktop."""

    image: Annotated[str, doc("Image of the desktop.")]
    display_name: Annotated[str, doc("Name for people.")] = ""
    description: Annotated[str, doc("What this desktop is for.")] = ""
    icon: Annotated[str, doc("Address of a picture (https: or data:).")] = ""
    resources: Annotated[
        TemplateResources, doc("Limits of a desktop when the session names none, and the most that it may name.")
    ] = msgspec.field(default_factory=TemplateResources)
    persistence: Annotated[TemplatePersistence, doc("Defaults of the home volume.")] = msgspec.field(
        default_factory=TemplatePersistence
    )
    lifecycle: Annotated[Lifecycle, doc("How long desktops live, and what happens then.")] = msgspec.field(
        default_factory=Lifecycle
    )
    pre_pull: Annotated[bool, doc("Whether nodes get the image before anybody asks.")] = False


class Template(msgspec.Struct, rename="camel"):
    """A kind of desktop that you may start."""

    metadata: Annotated[Metadata, doc("Name and times.")]
    spec: Annotated[TemplateOffer, doc("What it offers.")]
    status: Annotated[TemplateStatus, doc("How far the nodes are with its image.")]


class TemplateList(msgspec.Struct):
    """Templates, by name."""

    items: Annotated[tuple[Template, ...], doc("All that you may start.")]


class WholeTemplate(msgspec.Struct, rename="camel"):
    """A template with everything that only administrators see: environment, volumes, placement, who may use it."""

    metadata: Annotated[Metadata, doc("Name and times.")]
    spec: Annotated[TemplateSpec, doc("All of it.")]
    status: Annotated[TemplateStatus, doc("How far the nodes are with its image.")]


class WholeTemplateList(msgspec.Struct):
    """Templates, by name."""

    items: Annotated[tuple[WholeTemplate, ...], doc("All of the cluster.")]
