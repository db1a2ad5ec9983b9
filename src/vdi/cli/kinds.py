"""The kinds that the commands read and write besides Kubernetes' own."""

from vdi.api.meta import GROUP, VERSION
from vdi.kube.resource import Resource

SESSIONS = Resource(GROUP, VERSION, "vdisessions", "VDISession")
TEMPLATES = Resource(GROUP, VERSION, "vditemplates", "VDITemplate", namespaced=False)
ROUTES = Resource("traefik.io", "v1alpha1", "ingressroutes", "IngressRoute")
