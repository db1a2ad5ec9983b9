"""Checks of the control plane: CRDs, the operator, its Lease, and what Helm has installed.

`vdi.session.explain` and the operator's own settings parser decide here too, so doctor and operator
agree.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations

from vdi.api.crd import build_crds
from vdi.doctor.codes import make_finding
from vdi.doctor.objects.components import (
    LEASE,
    OF_WORKLOADS,
    Operator,
    find_operators,
    is_led,
    lasting_errors,
    operators_in_scope,
    read_lease,
    release_workloads,
    troubles,
)
from vdi.findings.model import Finding, Remedy, Severity
from vdi.snapshot.check import check, merge_patch
from vdi.snapshot.model import NOT_SET, Difference, Snapshot
from vdi.snapshot.objects import convert_object
from vdi.snapshot.objects.config import CustomResourceDefinition, Schema

# Time that a new object has to start working before it is reported.
_YOUNG_SECONDS = 60.0
# Lines of evidence about one object.
_MOST_LINES = 8
# Errors of one pod that are reported.
_MOST_ERRORS = 1
_INSTALL = Remedy.run("vdi install")


@check("customresourcedefinitions")
def crds(snapshot: Snapshot) -> Iterator[Finding]:
    """CRDs that are missing, or lack fields that this version reads."""
    for shipped in _shipped_crds():
        name, kind = shipped.metadata.name, shipped.spec.names.kind
        where = f"customresourcedefinition/{name}"
        there = snapshot.find("customresourcedefinitions", name)
        if there is None:
            yield make_finding(
                "crd_missing",
                where,
                f"The cluster does not know {kind}: its CRD is not installed.",
                evidence=[f"GET customresourcedefinitions/{name}: not found"],
                remedy=_INSTALL,
            )
        elif lacking := list(_schema(shipped).missing_in(_schema(there))):
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            yield make_finding(
                "crd_outdated",
                where,
                f"The cluster's {kind} is older than this version of vdi."
                f" It drops {', '.join(lacking[:5])}{more} silently.",
                evidence=[f"spec.versions[].schema has no {lacking[0]}"],
                remedy=Remedy.run(
                    "kubectl apply --server-side --force-conflicts -f charts/vdi/files/crds"
                ),
            )


@lru_cache
def _shipped_crds() -> tuple[CustomResourceDefinition, ...]:
    return tuple(convert_object("customresourcedefinitions", crd) for crd in build_crds())


def _schema(crd: CustomResourceDefinition) -> Schema:
    served = [version.schema.open_api for version in crd.spec.versions if version.served]
    return served[0] if served else Schema()


@check("deployments", "leases", "vdisessions")
def operator_missing(snapshot: Snapshot) -> Iterator[Finding]:
    """Namespaces with sessions that no operator watches."""
    operators = find_operators(snapshot)
    watched = sorted({namespace for operator in operators for namespace in operator.watches})
    sessions = Counter(session.metadata.namespace for session in snapshot.sessions)
    if snapshot.scope.namespace and not operators:
        requested = [snapshot.scope.namespace]
    else:
        requested = []
    # An operator without a Deployment (`vdi operator run`) is known only by its Lease.
    for namespace in sorted({*sessions, *requested}):
        if namespace in watched or is_led(snapshot, namespace):
            continue
        if watched:
            yield make_finding(
                "session_unwatched",
                f"namespace/{namespace}",
                f"No operator watches the namespace {namespace}: its {sessions[namespace]} sessions"
                f" are not processed. Watched: {', '.join(watched)}.",
                evidence=[_describe(operator) for operator in operators],
                remedy=Remedy(
                    f"Delete these sessions and create them in {watched[0]}, or install a second"
                    f" release for {namespace}.",
                    (
                        f"kubectl --namespace {namespace} get vdisessions",
                        (
                            f"vdi install --release vdi-{namespace} --namespace vdi-{namespace}"
                            " --set"
                            f" sessions.namespace={namespace},sessions.createNamespace=false,crds.install=false"
                            " --set"
                            f" templates.small=null,domain={namespace}.{operators[0].settings.domain}"
                        ),
                    ),
                ),
            )
        else:
            yield make_finding(
                "operator_missing",
                f"namespace/{namespace}",
                "There is no operator on this cluster: sessions do not start.",
                evidence=[
                    "no Deployment has a container 'operator' with VDI_NAMESPACE",
                    f"no fresh Lease {LEASE}",
                ],
                remedy=_INSTALL,
            )


def _describe(operator: Operator) -> str:
    return f"{operator.object}: VDI_NAMESPACE={','.join(operator.watches)}"


@check("deployments", "pods@all", reads=OF_WORKLOADS)
def operator_down(snapshot: Snapshot) -> Iterator[Finding]:
    """Operators without a ready replica, or with settings that cannot be read."""
    for operator in operators_in_scope(snapshot):
        if operator.problem:
            yield make_finding(
                "operator_settings_bad",
                operator.object,
                f"The operator cannot start with its settings: {operator.problem}.",
                evidence=[operator.problem],
                remedy=Remedy(
                    "Correct the chart's value behind the variable that the message names, and"
                    " upgrade the release.",
                    (operator.upgrade,),
                ),
            )
        new = operator.desired and snapshot.age(operator.created) <= _YOUNG_SECONDS
        if not (operator.ready or new) or operator.desired == 0:
            why, evidence = operator.explain_down(snapshot)
            show = (
                f"{operator.kubectl} logs deployment/{operator.name}",
                f"{operator.kubectl} describe pods",
            )
            yield make_finding(
                "operator_down",
                operator.object,
                f"No replica of the operator is ready, so sessions do not start: {why}.",
                evidence=evidence,
                remedy=Remedy.run(*show) if operator.desired else operator.scale_up(2),
                related_objects=snapshot.nodes_of(operator.raw),
            )


@check("deployments", "pods@all", "pods/log", reads=OF_WORKLOADS)
def operator_troubled(snapshot: Snapshot) -> Iterator[Finding]:
    """Troubles that operators report in their logs: some of them only the leader notices."""
    for operator in operators_in_scope(snapshot):
        for pod in operator.pods(snapshot):
            log = snapshot.log_of(pod)
            for why, line in list(lasting_errors(log, snapshot.now).items())[:_MOST_ERRORS]:
                yield make_finding(
                    "operator_troubled",
                    operator.object,
                    "The operator tries again and again, because the API server refuses what it"
                    f" does: {why.rstrip('.')}.",
                    evidence=[f"pod/{pod.metadata.name} log: {line}"],
                    remedy=Remedy.run(f"{operator.kubectl} logs {pod.metadata.name}"),
                    related_objects=operator.depends_on(snapshot),
                )
            for what, why in troubles(log).items():
                yield make_finding(
                    "operator_troubled",
                    f"{operator.object}/{what.replace(' ', '-')}",
                    f"The operator's pod {pod.metadata.name} reports a trouble with its {what}:"
                    f" {why.rstrip('.')}.",
                    evidence=[f"pod/{pod.metadata.name} log: {what}: {why}"],
                    remedy=Remedy.run(f"{operator.kubectl} logs {pod.metadata.name}"),
                    related_objects=operator.depends_on(snapshot),
                )


@check("deployments", "leases", reads=OF_WORKLOADS)
def leaderless(snapshot: Snapshot) -> Iterator[Finding]:
    """Operators that are ready and do not lead, or a Lease that another process holds."""
    for operator in find_operators(snapshot):
        in_scope = snapshot.scope.namespace in ("", *operator.watches)
        if not in_scope or not _has_been_ready(snapshot, operator):
            continue
        if is_led(snapshot, operator.lease_namespace):
            yield from _stranger_leads(snapshot, operator)
        else:
            yield _none_leads(snapshot, operator)


def _has_been_ready(snapshot: Snapshot, operator: Operator) -> bool:
    """Whether a replica has been ready for long enough to lead. One that is not ready is
    `operator_down`, which explains the Lease.
    """
    if not operator.ready or snapshot.age(operator.created) < _YOUNG_SECONDS:
        return False
    # After the whole machine was off, the Lease is as old as the power cut until the operator has
    # started again.
    ready = [pod.condition("Ready") for pod in operator.pods(snapshot) if pod.ready]
    ages = [snapshot.age(one.last_transition_time) for one in ready if one]
    return not ages or max(ages) >= _YOUNG_SECONDS


def _none_leads(snapshot: Snapshot, operator: Operator) -> Finding:
    namespace = operator.lease_namespace
    state, evidence = "missing", f"there is no Lease {namespace}/{LEASE}"
    if spec := read_lease(snapshot, namespace):
        state = "not renewed"
        evidence = f"spec.renewTime: {spec.renew_time}, holder {spec.holder_identity or 'none'}"
    return make_finding(
        "operator_without_lease",
        f"lease/{namespace}/{LEASE}",
        "The operator is ready, but none of its replicas leads, so nothing starts. The Lease is"
        f" {state}.",
        evidence=[evidence],
        remedy=Remedy.run(f"{operator.kubectl} rollout restart deployment {operator.name}"),
        related_objects=operator.depends_on(snapshot),
    )


def _stranger_leads(snapshot: Snapshot, operator: Operator) -> Iterator[Finding]:
    namespace = operator.lease_namespace
    spec = read_lease(snapshot, namespace)
    holder = spec.holder_identity if spec else ""
    rivals = [one for one in find_operators(snapshot) if namespace in one.watches]
    names = sorted(pod.metadata.name for one in rivals for pod in one.pods(snapshot))
    # A deleted pod still holds the Lease for some seconds, so pods are recognised by their
    # Deployment's name.
    if names and holder and not holder.startswith(tuple(f"{one.name}-" for one in rivals)):
        yield make_finding(
            "lease_of_a_stranger",
            f"lease/{namespace}/{LEASE}",
            f"Sessions are handled by {holder!r}, which is not a pod of {operator.object}. A"
            " second operator is running, possibly of another version.",
            evidence=[f"spec.holderIdentity: {holder}", f"pods: {', '.join(names)}"],
            remedy=Remedy(
                f"Stop the other operator (vdi operator run): {operator.name} then takes over.",
                (f"kubectl --namespace {namespace} get lease {LEASE} --output yaml",),
            ),
        )


@check("deployments")
def operators_collide(snapshot: Snapshot) -> Iterator[Finding]:
    """Operators of several releases that share a namespace of sessions, or a domain."""
    operators = sorted(find_operators(snapshot), key=lambda operator: operator.object)
    for other, operator in combinations(operators, 2):
        both, domain = [other.object, operator.object], operator.settings.domain
        if shared := [namespace for namespace in operator.watches if namespace in other.watches]:
            where, evidence = f"namespace/{shared[0]}", [_describe(other), _describe(operator)]
            problem = f"watch the namespace {', '.join(shared)}. " + (
                "They share a Lease: the leader changes with each restart"
                if operator.lease_namespace == other.lease_namespace
                else "Both are active there and revert each other's changes"
            )
        elif domain == other.settings.domain:
            where, evidence = operator.object, [f"{name}: VDI_DOMAIN={domain}" for name in both]
            problem = f"serve the same domain {domain}. Traefik gives its hosts to one of them"
        else:
            continue
        yield make_finding(
            "operators_collide",
            where,
            f"{' and '.join(both)} {problem}.",
            evidence=evidence,
            remedy=Remedy.run(operator.upgrade),
            related_objects=both,
        )


@check("deployments", "secrets@release", reads=("daemonsets", "statefulsets"))
def release_differs(snapshot: Snapshot) -> Iterator[Finding]:
    """Objects of our Helm releases that are missing, or differ in a field from what Helm
    installed.
    """
    by_object: dict[tuple[str, str], list[Difference]] = {}
    for difference in snapshot.differences:
        by_object.setdefault((difference.release, difference.object), []).append(difference)
    for differences in by_object.values():
        yield _difference_finding(snapshot, differences)


def _difference_finding(snapshot: Snapshot, differences: list[Difference]) -> Finding:
    first = differences[0]
    namespace, _, name = first.release.partition("/")
    kind, _, place = first.object.partition("/")
    ours = []
    for one in release_workloads(snapshot):
        if (one.namespace, one.release) == (namespace, name):
            ours.append(one)
    # The objects of a component, such as its rights and settings, explain the state of its
    # workload.
    served = [one.object for one in ours if one.component == first.component]
    lines = [f"release {first.release}"]
    if first.field:
        for difference in differences[:_MOST_LINES]:
            by = ""
            if difference.manager:
                by = f" ({', '.join(filter(None, (difference.manager, difference.time)))})"
            lines.append(
                f"{difference.field}: {difference.observed}; expected: {difference.expected}{by}"
            )
        by = ""
        if first.manager:
            by = f", changed with {first.manager}" + (f" at {first.time}" if first.time else "")
        others = ""
        if len(differences) > 1:
            others = f", and {len(differences) - 1} more"
        message = (
            f"The {kind} {place} is not as Helm installed it: {first.field} is {first.observed},"
            f" not {first.expected}{by}{others}."
        )
    else:
        message = f"The {kind} {place}, which Helm installed, does not exist."
    restore = "Put it back"
    if first.has_data and not first.field:
        restore = "Restore it from a backup: Helm makes an empty one. Without a backup"
    return make_finding(
        "release_differs",
        first.object,
        message,
        evidence=lines,
        remedy=Remedy(
            f"{restore} (with Helm alone: `{first.rollback}`):",
            (*(f"{one.upgrade} --yes" for one in ours[:1]), *_removals(kind, place, differences)),
        ),
        related_objects=served,
        severity=Severity.WARNING if first.field else None,
    )


def _removals(kind: str, place: str, differences: list[Difference]) -> Iterator[str]:
    """Commands that remove fields which someone has added: server-side apply leaves them."""
    namespace, _, name = place.rpartition("/")
    for difference in differences:
        if (
            difference.field
            and difference.expected == NOT_SET
            and not re.search(r"[\[/]", difference.field)
        ):
            patch: object = None
            for key in reversed(difference.field.split(".")):
                patch = {key: patch}
            yield merge_patch(kind, name, patch, namespace)


CHECKS = (
    crds,
    operator_missing,
    operator_down,
    operator_troubled,
    operators_collide,
    leaderless,
    release_differs,
)
