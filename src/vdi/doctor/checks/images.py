"""What images of their own need in the sessions' namespace: a Secret to sign in with, a ServersTransport."""

from collections.abc import Iterator, Sequence

from vdi.api.template import VDITemplate
from vdi.diagnosis.check import check
from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.checks.registry import found
from vdi.doctor.objects.images import secrets_to_sign_in, templates_with_tls
from vdi.findings.model import Finding, Remedy, Severity
from vdi.session.basic_auth import PASSWORD_KEY, SECRET_TYPE, USERNAME_KEY
from vdi.session.children.route import DESKTOP_TRANSPORT

_TRANSPORT = (
    '{"apiVersion": "traefik.io/v1alpha1", "kind": "ServersTransport", '
    f'"metadata": {{"name": "{DESKTOP_TRANSPORT}"}}, "spec": {{"insecureSkipVerify": true}}}}'
)
"""As the chart has it."""


@check("vditemplates", "deployments", "secrets@basicAuthSecret")
def basic_auth_secrets_bad(snapshot: Snapshot) -> Iterator[Finding]:
    """Secrets that templates name to sign in to their images, and that are not there or cannot be used."""
    for (namespace, name), templates in secrets_to_sign_in(snapshot).items():
        secret = snapshot.find("secrets", name, namespace)
        if secret and not secret["problem"]:
            continue
        kind = secret["type"] if secret else SECRET_TYPE
        used = _count_sessions(snapshot, namespace, templates)
        yield found(
            "basic_auth_secret_missing",
            f"secret/{namespace}/{name}",
            f"{_names(templates)} in basicAuthSecret the Secret {namespace}/{name}, which "
            f"{secret['problem'] if secret else 'does not exist'}. The gateway cannot sign in: desktops respond "
            "with 503.",
            evidence=[
                *(f"vditemplate/{template.metadata.name}: spec.basicAuthSecret.name: {name}" for template in templates),
                f"{used} sessions in namespace {namespace} use these templates",
            ],
            remedy=Remedy(
                "Write the image's user name and password into the files username and password, without a trailing "
                "newline. Then:",
                (
                    f"kubectl --namespace {namespace} create secret generic {name} --type {kind}"
                    f" --from-file {USERNAME_KEY} --from-file {PASSWORD_KEY} --dry-run=client -o yaml"
                    " | kubectl apply -f -",
                ),
            ),
            severity=None if used else Severity.WARNING,
        )


@check("vditemplates", "deployments", "serverstransports")
def servers_transport_missing(snapshot: Snapshot) -> Iterator[Finding]:
    """Namespaces without the ServersTransport that routes to images with TLS name."""
    if "serverstransports" in snapshot.absent:
        return  # so are Traefik's other kinds
    for namespace, templates in templates_with_tls(snapshot).items():
        if snapshot.find("serverstransports", DESKTOP_TRANSPORT, namespace):
            continue
        used = _count_sessions(snapshot, namespace, templates)
        yield found(
            "servers_transport_missing",
            f"serverstransport/{namespace}/{DESKTOP_TRANSPORT}",
            f"The ServersTransport {namespace}/{DESKTOP_TRANSPORT} does not exist. Traefik ignores the routes of "
            "desktops with scheme HTTPS (404).",
            evidence=[
                *(f"vditemplate/{template.metadata.name}: spec.scheme: HTTPS" for template in templates),
                f"{used} sessions in namespace {namespace} use these templates",
            ],
            remedy=Remedy.run(f"kubectl --namespace {namespace} apply -f - <<< '{_TRANSPORT}'"),
            severity=None if used else Severity.WARNING,
        )


def _count_sessions(snapshot: Snapshot, namespace: str, templates: Sequence[VDITemplate]) -> int:
    names = {template.metadata.name for template in templates}
    return sum(
        session.metadata.namespace == namespace and session.spec.template in names for session in snapshot.all_sessions
    )


def _names(templates: Sequence[VDITemplate]) -> str:
    names = ", ".join(template.metadata.name for template in templates)
    return f"Template {names} names" if len(templates) == 1 else f"Templates {names} name"


CHECKS = (basic_auth_secrets_bad, servers_transport_missing)
