"""The TLS Secrets of routes: which there are, for which hosts, and as a snapshot keeps them."""

from vdi.diagnosis.snapshot import Certificate, Snapshot
from vdi.doctor.objects.gateways import gateways_in_scope
from vdi.doctor.objects.operators import operator_for
from vdi.doctor.objects.sessions import diagnose_sessions
from vdi.kube import certificate
from vdi.session.naming import route_name
from vdi.session.times import format_time


def read_certificate(namespace: str, secret: str, pem: bytes) -> Certificate:
    """The certificate of this Secret, with times as text: a snapshot is a file too."""
    found = certificate.read_certificate(pem)
    return Certificate(
        namespace=namespace,
        secret=secret,
        names=found.names,
        begins=format_time(found.begins) if found.begins else "",
        ends=format_time(found.ends) if found.ends else "",
        problem=found.problem,
    )


def hosts_by_certificate(snapshot: Snapshot) -> dict[tuple[str, str], list[str]]:
    """The hosts of desktops and portal, by namespace and name of the TLS Secret that Traefik serves them with.

    A desktop whose route names no Secret has the portal's: Traefik presents a certificate for every host it covers.
    """
    found: dict[tuple[str, str], set[str]] = {}
    others: list[tuple[str, str]] = []
    for diagnosis in diagnose_sessions(snapshot):
        route = snapshot.find("ingressroutes", route_name(diagnosis.session.metadata.name), diagnosis.namespace)
        name = ((route or {}).get("spec") or {}).get("tls", {}).get("secretName")
        if name and diagnosis.host:
            found.setdefault((diagnosis.namespace, name), set()).add(diagnosis.host)
        elif route and diagnosis.host:
            others.append((diagnosis.namespace, diagnosis.host))
    for gateway in gateways_in_scope(snapshot):
        operator = operator_for(snapshot, gateway.watches[0])
        if operator and operator.settings.tls_secret:
            key = (gateway.namespace, operator.settings.tls_secret)
            hosts = found.setdefault(key, set())
            hosts.add(operator.settings.host("portal"))
            hosts |= {host for namespace, host in others if namespace in gateway.watches}
    return {key: sorted(hosts) for key, hosts in sorted(found.items())}
