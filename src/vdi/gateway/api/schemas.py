"""Sessions and templates in the REST API: request and response structs, and the responses made from
the objects.

`spec` and `status` are those of the Kubernetes objects, so that one description holds for kubectl,
the command line and this API; fields that a user may not see are left out here.
"""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from vdi.api.constraints import doc
from vdi.api.meta import ObjectMeta
from vdi.api.session import (
    Phase,
    Role,
    SessionSpec,
    SessionStatus,
    VDISession,
)
from vdi.api.template import (
    Lifecycle,
    TemplatePersistence,
    TemplateResources,
    TemplateSpec,
    TemplateStatus,
    VDITemplate,
)
from vdi.gateway.rights import User, role_in
from vdi.session.users import same_user

PAGE = 100
MOST = 500

Address = Annotated[str, Meta(max_length=254)]
SinceTime = Annotated[
    Annotated[datetime, Meta(tz=True)] | None,
    Meta(description="Only records from this time on, such as 2026-11-01T00:00:00Z."),
]
UntilTime = Annotated[
    Annotated[datetime, Meta(tz=True)] | None,
    Meta(description="Only records from before this time."),
]


class Page(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Page of a long list."""

    limit: Annotated[
        int, Meta(description="The maximum number of items to return.", ge=1, le=MOST)
    ] = PAGE
    cursor: Annotated[
        Annotated[str, Meta(max_length=512)] | None,
        Meta(description="`next` of the previous page; default: the first page."),
    ] = None


class Metadata(msgspec.Struct, rename="camel", omit_defaults=True):
    """Metadata of a Kubernetes object."""

    name: Annotated[str, doc("Its name, as used in addresses of the API.")]
    namespace: Annotated[str, doc("The Kubernetes namespace.")] = ""
    uid: Annotated[str, doc("Unique for each object, also if the name is reused.")] = ""
    generation: Annotated[int, doc("Increases with each change of `spec`.")] = 0
    creation_timestamp: Annotated[str, doc("When it was created.", format="date-time")] = ""
    deletion_timestamp: Annotated[
        str, doc("When its deletion was requested.", format="date-time")
    ] = ""


class Session(msgspec.Struct, rename="camel"):
    """One desktop, with its `spec` and `status`."""

    role: Annotated[
        str,
        doc("Your role in it; `administrator` if you see it only as an administrator.",
            enum=[*(role.value for role in Role), "administrator"]),
    ]  # fmt: skip
    metadata: Annotated[Metadata, doc("Name and times.")]
    spec: Annotated[SessionSpec, doc("The requested state.")]
    status: Annotated[SessionStatus, doc("Status reported by the operator.")]


class SessionQuery(Page, rename="camel", forbid_unknown_fields=True):
    """Filters of one's own sessions."""

    role: Annotated[Role | None, Meta(description="Only sessions in which you have this role.")] = (
        None
    )


class AllSessionsQuery(Page, rename="camel", forbid_unknown_fields=True):
    """Filters of all users' sessions."""

    user: Annotated[Address | None, Meta(description="Only sessions of this user.")] = None
    template: Annotated[
        Annotated[str, Meta(max_length=253)] | None,
        Meta(description="Only sessions of this template."),
    ] = None
    phase: Annotated[Phase | None, Meta(description="Only sessions in this phase.")] = None


class EndQuery(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Parameters of the end of a session."""

    delete_home: Annotated[
        bool, Meta(description="true: also delete the home with all files in it.")
    ] = False


class TemplateOffer(msgspec.Struct, rename="camel", omit_defaults=True):
    """The part of a template's spec that concerns its users."""

    image: Annotated[str, doc("Image of the desktop.")]
    display_name: Annotated[str, doc("Display name.")] = ""
    description: Annotated[str, doc("Purpose of this desktop.")] = ""
    icon: Annotated[
        str, doc("Name of an icon of the portal, or address of a picture (https: or data:).")
    ] = ""
    resources: Annotated[TemplateResources, doc("Default and maximum resources of a desktop.")] = (
        msgspec.field(default_factory=TemplateResources)
    )
    persistence: Annotated[TemplatePersistence, doc("Defaults for the home volume.")] = (
        msgspec.field(default_factory=TemplatePersistence)
    )
    lifecycle: Annotated[Lifecycle, doc("How long desktops run, and what happens at the end.")] = (
        msgspec.field(default_factory=Lifecycle)
    )
    pre_pull: Annotated[bool, doc("Whether nodes pull the image in advance.")] = False


class Template(msgspec.Struct, rename="camel"):
    """A kind of desktop that you can start."""

    metadata: Annotated[Metadata, doc("Name and times.")]
    spec: Annotated[TemplateOffer, doc("What the template offers.")]
    status: Annotated[TemplateStatus, doc("Progress of pulling its image on the nodes.")]


class WholeTemplate(msgspec.Struct, rename="camel"):
    """A template with the fields that only administrators see: environment, volumes, placement,
    access.
    """

    metadata: Annotated[Metadata, doc("Name and times.")]
    spec: Annotated[TemplateSpec, doc("The complete template.")]
    status: Annotated[TemplateStatus, doc("Progress of pulling its image on the nodes.")]


def metadata_of(meta: ObjectMeta) -> Metadata:
    """Metadata without fields that only Kubernetes' own clients need."""
    return Metadata(
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        generation=meta.generation,
        creation_timestamp=meta.creation_timestamp,
        deletion_timestamp=meta.deletion_timestamp or "",
    )


def session_of(session: VDISession, user: User, now: datetime) -> Session:
    """The session as this user may see it: guests do not learn of other guests."""
    role = role_in(session, user.email, now)
    spec = session.spec
    if role is not Role.OWNER and not user.admin:
        mine = tuple(access for access in spec.access if same_user(access.user, user.email))
        spec = msgspec.structs.replace(spec, access=mine, access_request=None)
    return Session(
        role=role.value if role else "administrator",
        metadata=metadata_of(session.metadata),
        spec=spec,
        status=session.status,
    )


def template_of(template: VDITemplate) -> Template:
    """The template for its users: without environment, volumes, placement, and access of others."""
    offer = msgspec.convert(template.spec, TemplateOffer, from_attributes=True)
    return Template(metadata_of(template.metadata), offer, template.status)
