"""The API kinds of this project and of Traefik, as `vdi.kube` resources; Kubernetes' own are in
`vdi.kube.resource`.
"""

from vdi.api.meta import API_VERSION, GROUP, VERSION
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.kube.meta import ObjectReference
from vdi.kube.resource import Resource

SESSIONS = Resource(GROUP, VERSION, VDISession.plural, "VDISession")
TEMPLATES = Resource(GROUP, VERSION, VDITemplate.plural, "VDITemplate", namespaced=False)
POOLS = Resource(GROUP, VERSION, VDIPool.plural, "VDIPool", namespaced=False)
ROUTES = Resource("traefik.io", "v1alpha1", "ingressroutes", "IngressRoute")


def reference_to(session: VDISession) -> ObjectReference:
    """The session as the subject of an Event."""
    meta = session.metadata
    return ObjectReference(API_VERSION, SESSIONS.kind, meta.name, meta.uid, meta.namespace)
