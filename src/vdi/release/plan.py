"""What an install would bring about, for people who confirm it. Pure: Facts -> plan."""

from dataclasses import dataclass

from vdi.release.facts import Facts, Object
from vdi.release.needs import images_of


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An install before it is made."""

    release: str
    namespace: str
    server: str
    portal: str
    """URL; empty: there is no gateway."""
    desktops: str
    """URL of a desktop, with NAME in it."""
    sessions_namespaces: tuple[str, ...]
    certificate: str
    admins: tuple[str, ...]
    """Users and groups that administer the portal."""
    images: tuple[str, ...]
    new_namespaces: tuple[str, ...]


def plan_install(facts: Facts) -> Plan:
    """The plan of an install."""
    cluster, gateway = facts.settings.cluster, _variables(facts, "gateway")
    admins = [name for key in ("VDI_ADMIN_USERS", "VDI_ADMIN_GROUPS") for name in gateway.get(key, "").split(",")]
    return Plan(
        release=facts.release,
        namespace=facts.namespace,
        server=facts.server,
        portal=cluster.url(cluster.host(cluster.portal_label)) if gateway else "",
        desktops=cluster.url(cluster.host("NAME")),
        sessions_namespaces=facts.settings.namespaces,
        certificate=_certificate(facts),
        admins=tuple(filter(None, admins)),
        images=tuple(image for image, _ in images_of(facts)),
        new_namespaces=tuple(name for name, namespace in facts.namespaces.items() if namespace is None),
    )


def _certificate(facts: Facts) -> str:
    cluster = facts.settings.cluster
    issuers = {obj["spec"]["issuerRef"]["name"] for obj in facts.objects if obj["kind"] == "Certificate"}
    if issuers:
        return f"Secret {cluster.tls_secret}, made by cert-manager's issuer {', '.join(sorted(issuers))}"
    if cluster.tls_secret:
        return f"Secret {cluster.tls_secret}"
    if cluster.cert_resolver:
        return f"Traefik's certificate resolver {cluster.cert_resolver}"
    return "Traefik's default certificate"


def _variables(facts: Facts, name: str) -> dict[str, str]:
    """Variables of the container with this name."""
    for pods in facts.pods:
        for container in pods.spec["containers"]:
            if container["name"] == name:
                return _environment(container)
    return {}


def _environment(container: Object) -> dict[str, str]:
    return {variable["name"]: str(variable.get("value", "")) for variable in container.get("env") or ()}
