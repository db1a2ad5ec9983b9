"""One copy of the wildcard certificate: a real Traefik presents that of the portal's route for
desktops too.
"""

import base64
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from cluster.edge_traefik import free_port, run_traefik
from cluster.operator_stage import Stage
from cluster.test_acme import routed, serves
from support.waiting import eventually
from vdi.devcluster import credentials
from vdi.kinds import ROUTES
from vdi.kube.resource import SECRETS
from vdi.session.cluster_settings import ClusterSettings
from vdi.snapshot.objects import MIDDLEWARES

DOMAIN, EDGE, CERTIFICATE = "desks.example.com", "vdi-edge", "wild"
WILDCARD = f"*.{DOMAIN}"


async def make_portal(stage: Stage, namespace: str, folder: Path) -> None:
    """The portal's route as the chart makes it, and the Secret that it names."""
    certificate, key = credentials.authority(folder, "ca", "test").issue(
        "wild", "wild", names=[WILDCARD], server=True
    )
    files = {"tls.crt": certificate, "tls.key": key}
    data = {name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": CERTIFICATE},
    }
    await stage.api.create(SECRETS, {**secret, "data": data}, namespace=namespace, into=msgspec.Raw)
    rule = {
        "kind": "Rule",
        "match": f"Host(`portal.{DOMAIN}`)",
        "services": [{"name": "vdi-gateway", "port": 80}],
    }
    spec = {"entryPoints": ["websecure"], "routes": [rule], "tls": {"secretName": CERTIFICATE}}
    route = {
        "apiVersion": ROUTES.api_version,
        "kind": ROUTES.kind,
        "metadata": {"name": "vdi-gateway"},
        "spec": spec,
    }
    await stage.api.create(ROUTES, route, namespace=namespace, into=msgspec.Raw)


async def test_desktops_use_the_certificate_without_a_copy_of_its_key(
    stage: Stage, second_namespace: str, kubeconfig: Path, traefik: Path, tmp_path: Path
) -> None:
    await make_portal(stage, second_namespace, tmp_path)
    middleware: dict[str, Any] = {"apiVersion": MIDDLEWARES.api_version, "kind": MIDDLEWARES.kind}
    middleware |= {
        "metadata": {"name": EDGE},
        "spec": {"headers": {"customResponseHeaders": {"Server": ""}}},
    }
    await stage.api.create(MIDDLEWARES, middleware, namespace=stage.namespace, into=msgspec.Raw)
    template = await stage.template()
    settings = ClusterSettings(domain=DOMAIN, tls_secret=CERTIFICATE, edge_middleware=EDGE)
    namespaces, port = [stage.namespace, second_namespace], free_port()
    routes = {
        "providers": {"kubernetesCRD": {"namespaces": namespaces, "allowEmptyServices": True}}
    }
    async with (
        run_traefik(traefik, tmp_path, port, routes, KUBECONFIG=str(kubeconfig)),
        stage.operator(cluster=settings),
    ):
        await stage.session("alice-desk", template)
        host = f"{stage.host('alice-desk').partition('.')[0]}.{DOMAIN}"
        await eventually(partial(routed, port, host), "the desktop has a route", 40)
        assert await serves(port, host, [WILDCARD])
        names = {secret["metadata"]["name"] for secret in await stage.all(SECRETS)}
        assert CERTIFICATE not in names, "the gateway reads every Secret of this namespace"
