"""Our own kinds: every field is known, and none is for a secret, but for the environment. Pure."""

import msgspec

from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.snapshot.objects.meta import REDACTED, OurMeta
from vdi.snapshot.objects.workloads import READ_ENV


class Session(VDISession, rename="camel", omit_defaults=True, kw_only=True):
    metadata: OurMeta


class Template(VDITemplate, rename="camel", omit_defaults=True, kw_only=True):
    metadata: OurMeta

    def __post_init__(self) -> None:
        spec = self.spec
        spec.icon = ""
        spec.env = tuple(
            (
                msgspec.structs.replace(variable, value=REDACTED)
                if variable.name not in READ_ENV
                else variable
            )
            for variable in spec.env
        )
        spec.pod_template.metadata.annotations = {}


class Pool(VDIPool, rename="camel", omit_defaults=True, kw_only=True):
    metadata: OurMeta
