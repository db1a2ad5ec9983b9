"""The API kinds of this project and of Traefik, as `vdi.kube` resources; Kubernetes' own are in `vdi.kube.resource`."""

from vdi.api.meta import GROUP, VERSION
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.kube.resource import Resource

SESSIONS = Resource(GROUP, VERSION, VDISession.plural, "VDISession")
TEMPLATES = Resource(GROUP, VERSION, VDITemplate.plural, "VDITemplate", namespaced=False)
POOLS = Resource(GROUP, VERSION, VDIPool.plural, "VDIPool", namespaced=False)
ROUTES = Resource("traefik.io", "v1alpha1", "ingressroutes", "IngressRoute")

FIELD_MANAGER = "vdi-operator"
