"""What the image of a template needs beside its pod, and in which namespaces. Pure."""

from vdi.api.template import Scheme, VDITemplate
from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.objects.operators import find_operators
from vdi.session.identity import assigned_namespace


def namespaces_of(snapshot: Snapshot, template: VDITemplate) -> list[str]:
    """Namespaces in scope with a gateway, where desktops of this template may run."""
    return sorted(
        {
            namespace
            for operator in find_operators(snapshot)
            if operator.settings.edge_middleware is not None and assigned_namespace(template.metadata, operator.watches)
            for namespace in operator.watches
            if snapshot.scope.namespace in ("", namespace)
        }
    )


def secrets_to_sign_in(snapshot: Snapshot) -> dict[tuple[str, str], list[VDITemplate]]:
    """The Secrets that templates name in `basicAuthSecret`: templates by namespace and name."""
    found: dict[tuple[str, str], list[VDITemplate]] = {}
    for template in snapshot.templates.values():
        if template.spec.basic_auth_secret:
            for namespace in namespaces_of(snapshot, template):
                found.setdefault((namespace, template.spec.basic_auth_secret.name), []).append(template)
    return dict(sorted(found.items()))


def templates_with_tls(snapshot: Snapshot) -> dict[str, list[VDITemplate]]:
    """The templates whose images speak TLS, by namespace."""
    found: dict[str, list[VDITemplate]] = {}
    for template in snapshot.templates.values():
        if template.spec.scheme is Scheme.HTTPS:
            for namespace in namespaces_of(snapshot, template):
                found.setdefault(namespace, []).append(template)
    return dict(sorted(found.items()))
