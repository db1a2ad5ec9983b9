"""Certificates from an ACME server: a real Traefik, a real pebble, and the routes of a real
operator and of the chart.

pebble takes every DNS challenge for solved: what is tried is what is ordered, not how a name is
proven.
"""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cluster.edge_traefik import connector, free_port, run_program, run_traefik
from cluster.operator_stage import Stage
from support.waiting import eventually
from tools import binaries
from tools.generate.chart_render import render
from vdi.devcluster import credentials
from vdi.devcluster.progress import Progress
from vdi.kinds import ROUTES
from vdi.session.cluster_settings import ClusterSettings

DOMAIN = "desks.example.com"
EMAIL = "ops@example.com"
WILDCARD = [f"*.{DOMAIN}"]
ISSUED_SECONDS = 40.0


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Progress(tmp_path_factory.mktemp("acme")) as progress:
        return binaries.ensure(["pebble"], progress=progress)["pebble"]


@asynccontextmanager
async def acme_server(program: Path, folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """A pebble: the address of its directory, and the authority of its own TLS."""
    authority = credentials.authority(folder, "acme-ca", "acme")
    certificate, key = authority.issue("acme", "acme", names=["127.0.0.1"], server=True)
    port = free_port()
    config = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{free_port()}",
        "certificate": str(certificate),
        "privateKey": str(key),
        "retryAfter": {"authz": 1, "order": 1},
        "profiles": {"default": {"description": "default", "validityPeriod": 86400}},
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": config}))
    always = {
        "PEBBLE_VA_ALWAYS_VALID": "1",
        "PEBBLE_VA_NOSLEEP": "1",
        "PEBBLE_WFE_NONCEREJECT": "0",
    }
    async with run_program(folder, program, "-config", str(folder / "pebble.json"), **always):
        # An order that comes before the server listens fails, and Traefik does not try it again.
        await eventually(partial(listens, port), "pebble listens")
        yield f"https://127.0.0.1:{port}/dir", authority.file


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def account_file(folder: Path) -> Path:
    """Traefik's storage, with the key of an account that is to be registered.

    Traefik's own has 4,096 bits: on a busy machine it took 25 s to find one.
    """
    key = rsa.generate_private_key(65537, 2048)
    der = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    account = {"Email": EMAIL, "Registration": None, "PrivateKey": base64.b64encode(der).decode()}
    path = folder / "acme.json"
    path.touch(0o600)
    path.write_text(json.dumps({"le": {"Account": account, "Certificates": None}}))
    return path


@asynccontextmanager
async def traefik_with_resolver(
    program: Path, folder: Path, namespace: str, kubeconfig: Path, acme: str, ca: Path
) -> AsyncIterator[int]:
    """A Traefik with the resolver `le` that serves this namespace's routes: its port."""
    port = free_port()
    resolver = {
        "caServer": acme,
        "caCertificates": [str(ca)],
        "email": EMAIL,
        "storage": str(account_file(folder)),
        "keyType": "EC256",  # the default, 4,096 bits of RSA, took 17 s on a busy machine
        "dnsChallenge": {"provider": "exec", "propagation": {"disableChecks": True}},
    }
    options = {
        "providers": {"kubernetesCRD": {"namespaces": [namespace], "allowEmptyServices": True}},
        "certificatesResolvers": {"le": {"acme": resolver}},
        "log": {"level": "INFO"},
    }
    environment = {
        "KUBECONFIG": str(kubeconfig),
        "EXEC_PATH": "/bin/true",
        "LEGO_DISABLE_CNAME_SUPPORT": "true",
    }
    async with run_traefik(program, folder, port, options, **environment):
        yield port


async def serves(port: int, host: str, names: list[str]) -> bool:
    """Whether a browser gets a certificate with these names for this host."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=host)
    except OSError:
        return False
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    found = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return found.value.get_values_for_type(x509.DNSName) == names


def certificates(folder: Path) -> list[dict[str, object]]:
    """The certificates that Traefik has been given, by the requested domains."""
    try:
        stored = json.loads((folder / "acme.json").read_text())
    except (OSError, ValueError):
        return []
    return [
        certificate["domain"] for certificate in (stored.get("le") or {}).get("Certificates") or ()
    ]


async def routed(port: int, host: str) -> bool:
    """Whether Traefik knows the host's route: then there is no desktop behind it (503), and before
    no page (404).
    """
    async with aiohttp.ClientSession(connector=connector()) as http:
        try:
            async with http.get(f"https://{host}:{port}/") as answer:
                return answer.status == 503
        except aiohttp.ClientError:
            return False


@pytest.mark.long
async def test_all_desktops_and_the_portal_share_one_certificate(
    stage: Stage, kubeconfig: Path, traefik: Path, pebble: Path, helm: Path, tmp_path: Path
) -> None:
    template = await stage.template()
    async with (
        acme_server(pebble, tmp_path) as (acme, ca),
        traefik_with_resolver(traefik, tmp_path, stage.namespace, kubeconfig, acme, ca) as port,
        stage.operator(cluster=ClusterSettings(domain=DOMAIN, cert_resolver="le")),
    ):
        for name in ("alice-desk", "bob-desk"):
            user = f"{name}@example.com"  # a home serves one desktop of its user at a time
            await stage.session(name, template, user=user)
            host = f"{stage.host(name, user).partition('.')[0]}.{DOMAIN}"
            await eventually(partial(routed, port, host), f"{name} has a route", ISSUED_SECONDS)
            await eventually(
                partial(serves, port, host, WILDCARD), f"{name} has TLS", ISSUED_SECONDS
            )
        route, _ = await stage.all(ROUTES)
        assert route["spec"]["tls"] == chart_tls(helm), "else Traefik orders one for the portal too"
        # What a route orders that names no domains, and long enough for an order of the second
        # desktop's.
        other = {**route["spec"], "tls": {"certResolver": "le"}}
        other["routes"] = [{**other["routes"][0], "match": "Host(`other.example.org`)"}]
        body = {
            "apiVersion": ROUTES.api_version,
            "kind": ROUTES.kind,
            "metadata": {"name": "other"},
            "spec": other,
        }
        await stage.api.create(ROUTES, body, namespace=stage.namespace, into=msgspec.Raw)
        await eventually(
            partial(serves, port, "other.example.org", ["other.example.org"]),
            "a third",
            ISSUED_SECONDS,
        )
        assert certificates(tmp_path) == [{"main": f"*.{DOMAIN}"}, {"main": "other.example.org"}]


def chart_tls(helm: Path) -> object:
    """TLS of the chart's own route."""
    objects = render(helm, "values.yaml", "--set", f"domain={DOMAIN},traefik.certResolver=le")
    (route,) = [one for one in objects if one["kind"] == "IngressRoute"]
    return route["spec"]["tls"]
