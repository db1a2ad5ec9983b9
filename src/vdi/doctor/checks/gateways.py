"""The gateway: whether it is there, and what it leans on."""

import re
from collections.abc import Iterator

from vdi.diagnosis.check import check
from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.checks.registry import found
from vdi.doctor.objects.deployments import explain_pod, pod_evidence, pods_of, unavailable_for
from vdi.doctor.objects.gateways import Gateway, gateways_in_scope, last_words, troubles
from vdi.doctor.objects.operators import operators_in_scope
from vdi.doctor.objects.proxies import find_traefiks
from vdi.findings.model import Finding, Remedy

_EDGE = "VDI_EDGE_MIDDLEWARE"
_RESTART = 60.0
"""Seconds in which a gateway with a volume stops and starts again on a busy node, when it is upgraded."""
_CUT = "websockets of "
_CUT_SLACK = 5.0
"""Seconds between a timeout and the next connection of the page, at most."""
_BY_NAME = {
    "database": ("database_unreachable", "Its database does not respond"),
    "shared state": ("redis_unreachable", "Redis does not respond"),
    "clock": ("clock_wrong", "The clock of a replica is wrong"),
    "history": ("history_not_written", "History cannot be written"),
    "single sign-on": ("oidc_unreachable", "The identity provider does not respond correctly"),
}


@check("deployments", "pods@all")
def gateway_down(snapshot: Snapshot) -> Iterator[Finding]:
    """Gateways of which no replica answers, or that are not there though routes ask them."""
    for gateway in gateways_in_scope(snapshot):
        command = f"kubectl --namespace {gateway.namespace}"
        if gateway.desired == 0:
            up = Remedy("Scale it up again.", (f"{command} scale deployment {gateway.name} --replicas 1",))
            yield _down(snapshot, gateway, "it is scaled to 0", up)
        elif gateway.ready == 0 and unavailable_for(snapshot, gateway) > _RESTART:
            yield _down(snapshot, gateway, "", Remedy.run(f"{command} logs deployment/{gateway.name}"))
    here = {namespace for gateway in gateways_in_scope(snapshot) for namespace in gateway.watches}
    for operator in operators_in_scope(snapshot):
        containers = operator.raw["spec"]["template"]["spec"]["containers"]
        named = [
            variable.get("value")
            for container in containers
            for variable in container.get("env") or ()
            if variable["name"] == _EDGE
        ]
        without = [namespace for namespace in operator.watches if namespace not in here]
        if named and named[0] and without:
            yield found(
                "gateway_missing",
                operator.object,
                f"Its routes use the Middleware {named[0]}, but {', '.join(without)} has no gateway behind it.",
                evidence=[f"{operator.object}: {_EDGE}={named[0]}", "no Deployment has a container 'gateway'"],
                remedy=Remedy.run(f"{operator.upgrade} --set gateway.enabled=true"),
            )


def _down(snapshot: Snapshot, gateway: Gateway, words: str, remedy: Remedy) -> Finding:
    evidence, code = [f"status.readyReplicas: {gateway.ready} of {gateway.desired}"], ""
    for pod in pods_of(snapshot, gateway):
        why = explain_pod(snapshot, pod, "gateway")
        evidence += pod_evidence(snapshot, pod, why)
        lines = snapshot.logs.get(f"{pod.metadata.namespace}/{pod.metadata.name}") or []
        if ended := last_words(lines):
            evidence += [] if any(ended in line for line in evidence) else [f"log: {ended}"]
            code = "database_newer" if "at revision" in ended else code
        words = words or ended or why
    return found(
        code or "gateway_down",
        gateway.object,
        f"No replica of the gateway is ready: {words or 'it has no pods'}.",
        evidence=evidence,
        remedy=remedy if code != "database_newer" else Remedy.run(gateway.upgrade),
        related_objects=[gateway.object, *snapshot.nodes_of(gateway.raw)],
    )


@check("deployments", "pods@all", "pods/log")
def gateway_troubled(snapshot: Snapshot) -> Iterator[Finding]:
    """What the gateways say in their logs that they lack."""
    for gateway in gateways_in_scope(snapshot):
        reported: dict[str, tuple[str, str]] = {}
        for pod in pods_of(snapshot, gateway):
            lines = snapshot.logs.get(f"{pod.metadata.namespace}/{pod.metadata.name}") or []
            for what, why in troubles(lines):
                reported.setdefault(what, (pod.metadata.name, why))
        for what, (pod_name, why) in reported.items():
            if what.startswith(_CUT):
                yield _cut(snapshot, gateway, what.removeprefix(_CUT), pod_name, why)
                continue
            code, words = _BY_NAME.get(what, ("gateway_troubled", f"It lacks {what}"))
            yield found(
                code,
                gateway.object if code != "gateway_troubled" else f"{gateway.object}/{what.replace(' ', '-')}",
                f"{words}: {why.rstrip('.')}.",
                evidence=[f"pod/{pod_name} log: {what}: {why}"],
                remedy=Remedy.run(f"kubectl --namespace {gateway.namespace} logs {pod_name}"),
                related_objects=[gateway.object, *snapshot.nodes_of(gateway.raw)],
            )


def _namespace_of(snapshot: Snapshot, gateway: Gateway, session: str) -> str:
    """Where the session of this name is: one of all that the gateway serves."""
    there = {(known.metadata.namespace, known.metadata.name) for known in snapshot.all_sessions}
    return next((namespace for namespace in gateway.watches if (namespace, session) in there), gateway.watches[0])


def _cut(snapshot: Snapshot, gateway: Gateway, session: str, pod_name: str, why: str) -> Finding:
    timeouts = [
        (traefik, argument, seconds)
        for traefik in find_traefiks(snapshot)
        for argument, seconds in traefik.timeouts.items()
    ]
    period = re.search(r"every (\d+) s", why)
    ends = [timeout for timeout in timeouts if period and 0 <= float(period[1]) - timeout[2] <= _CUT_SLACK]
    message = f"Its connections are interrupted: {why.rstrip('.')}."
    if ends:
        traefik, argument, _ = ends[0]
        option = argument.removeprefix("--").partition("=")[0]
        message += f" Traefik ends them: {option} is {argument.partition('=')[2]}."
        remedy = Remedy(
            "Remove this argument of Traefik, or set it to 0. On K3s: in the HelmChartConfig (docs/k3s.md).",
            (f"kubectl --namespace {traefik.namespace} edit {traefik.kind} {traefik.name}",),
        )
    else:
        message += " A proxy or load balancer between browser and Traefik ends them."
        remedy = Remedy("Raise the idle timeout of the proxy in front of Traefik (nginx: proxy_read_timeout 3600s).")
    return found(
        "websocket_cut",
        f"vdisession/{_namespace_of(snapshot, gateway, session)}/{session}",
        message,
        evidence=[
            f"pod/{pod_name} log: {_CUT}{session}: {why}",
            *(f"{traefik.object}: {argument}" for traefik, argument, _ in timeouts),
        ],
        remedy=remedy,
    )


CHECKS = (gateway_down, gateway_troubled)
