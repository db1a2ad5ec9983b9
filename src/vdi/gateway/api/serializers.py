"""Sessions and templates as the API shows them to one person. Pure."""

from datetime import datetime

import msgspec

from vdi.api.meta import ObjectMeta
from vdi.api.session import Role, VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.api.schemas import Metadata, Session, Template, TemplateOffer, WholeTemplate
from vdi.gateway.rights import role_in
from vdi.gateway.users import User, same_user


def metadata_of(meta: ObjectMeta) -> Metadata:
    """Without what only Kubernetes' own clients need."""
    return Metadata(
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        generation=meta.generation,
        creation_timestamp=meta.creation_timestamp,
        deletion_timestamp=meta.deletion_timestamp or "",
    )


def session_of(session: VDISession, user: User, now: datetime) -> Session:
    """The session as this person may see it: guests learn nothing of the other guests."""
    role = role_in(session, user.email, now)
    spec = session.spec
    if role is not Role.OWNER and not user.admin:
        mine = tuple(access for access in spec.access if same_user(access.user, user.email))
        spec = msgspec.structs.replace(spec, access=mine)
    return Session(
        role=role.value if role else "administrator",
        metadata=metadata_of(session.metadata),
        spec=spec,
        status=session.status,
    )


def template_of(template: VDITemplate) -> Template:
    """The template for who may start it: without environment, volumes, placement, and who else may."""
    spec = template.spec
    offer = TemplateOffer(**{name: getattr(spec, name) for name in TemplateOffer.__struct_fields__})
    return Template(metadata_of(template.metadata), offer, template.status)


def whole_template_of(template: VDITemplate) -> WholeTemplate:
    """The template for administrators."""
    return WholeTemplate(metadata_of(template.metadata), template.spec, template.status)
