"""The API's kinds, the operator, its rights and its Lease."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from vdi.api.crd import build_crds
from vdi.diagnosis.check import check
from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.codes import make_finding
from vdi.doctor.objects.access import missing_cluster_rights, missing_rights_there
from vdi.doctor.objects.components import (
    LEASE,
    Operator,
    explain_pod,
    find_operators,
    is_led,
    lease_of,
    operator_for,
    operators_in_scope,
    pod_evidence,
    pods_of,
)
from vdi.doctor.objects.sanitize import custom_kind
from vdi.findings.model import Finding, Remedy
from vdi.session.naming import FINALIZER

# Seconds in which something new may not work yet without a finding.
YOUNG = 60.0

_INSTALL = Remedy.run("vdi install")


@check("customresourcedefinitions")
def crds(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the API server knows our kinds, with all the fields that this version reads."""
    for shipped in _shipped_crds():
        name = shipped["metadata"]["name"]
        there = snapshot.find("customresourcedefinitions", name)
        if there is None:
            yield make_finding(
                "crd_missing",
                f"customresourcedefinition/{name}",
                f"The cluster does not know {shipped['spec']['names']['kind']}: its CRD is not installed.",
                evidence=[f"GET customresourcedefinitions/{name}: not found"],
                remedy=_INSTALL,
            )
            continue
        lacking = list(_lacking(_schema(shipped), _schema(there), ""))
        if lacking:
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            yield make_finding(
                "crd_outdated",
                f"customresourcedefinition/{name}",
                f"The cluster's {shipped['spec']['names']['kind']} is older than this version of vdi."
                f" It drops {', '.join(lacking[:5])}{more} silently.",
                evidence=[f"spec.versions[].schema has no {lacking[0]}"],
                remedy=Remedy.run("kubectl apply --server-side --force-conflicts -f charts/vdi/files/crds"),
            )


@lru_cache
def _shipped_crds() -> tuple[dict[str, Any], ...]:
    """Our kinds, as `trim` leaves them."""
    return tuple(custom_kind(crd) for crd in build_crds())


def _schema(crd: Any) -> Any:
    served = [version for version in crd["spec"]["versions"] if version.get("served", True)]
    return served[0]["schema"] if served else {}


def _lacking(shipped: Any, there: Any, path: str) -> Iterator[str]:
    for name, inner in (shipped.get("properties") or {}).items():
        here = (there.get("properties") or {}).get(name)
        if here is None:
            yield f"{path}.{name}".lstrip(".")
        else:
            yield from _lacking(inner, here, f"{path}.{name}")
    if "items" in shipped and "items" in there:
        yield from _lacking(shipped["items"], there["items"], f"{path}[]")


@check("deployments", "leases", "vdisessions")
def operator_missing(snapshot: Snapshot) -> Iterator[Finding]:
    """Namespaces with sessions that no operator watches."""
    operators = find_operators(snapshot)
    watched = sorted({namespace for operator in operators for namespace in operator.watches})
    crowds: dict[str, int] = {}
    for session in snapshot.sessions:
        crowds[session.metadata.namespace] = crowds.get(session.metadata.namespace, 0) + 1
    asked = [snapshot.scope.namespace] if snapshot.scope.namespace and not operators else []
    for namespace in sorted({*crowds, *asked}):
        if namespace in watched or is_led(snapshot, namespace):
            continue
        if watched:
            yield make_finding(
                "session_unwatched",
                f"namespace/{namespace}",
                f"No operator watches the namespace {namespace}: its {crowds.get(namespace, 0)} sessions are not "
                f"processed. Watched: {', '.join(watched)}.",
                evidence=[f"{operator.object}: VDI_NAMESPACE={','.join(operator.watches)}" for operator in operators],
                remedy=Remedy(
                    f"Delete these sessions and create them in {watched[0]}, or install a second release for"
                    f" {namespace}.",
                    (
                        f"kubectl --namespace {namespace} get vdisessions",
                        f"vdi install --release vdi-{namespace} --namespace vdi-{namespace} --set"
                        f" sessions.namespace={namespace},sessions.createNamespace=false,crds.install=false"
                        f" --set templates.small=null,domain={namespace}.{operators[0].settings.domain}",
                    ),
                ),
            )
        else:
            yield make_finding(
                "operator_missing",
                f"namespace/{namespace}",
                "There is no operator on this cluster: sessions do not start.",
                evidence=["no Deployment has a container 'operator' with VDI_NAMESPACE", f"no fresh Lease {LEASE}"],
                remedy=_INSTALL,
            )


@check("deployments", "pods@all")
def operator_down(snapshot: Snapshot) -> Iterator[Finding]:
    """Operators of which no replica answers, or whose settings cannot be read."""
    for operator in operators_in_scope(snapshot):
        if operator.problem:
            yield make_finding(
                "operator_settings_bad",
                operator.object,
                f"The operator cannot start with its settings: {operator.problem}.",
                evidence=[operator.problem],
                remedy=Remedy(
                    "Correct the chart's value behind the variable that the message names, and upgrade the release.",
                    (operator.upgrade,),
                ),
            )
        if operator.desired == 0:
            yield make_finding(
                "operator_down",
                operator.object,
                "The operator is scaled to 0: sessions do not start.",
                evidence=["spec.replicas: 0"],
                remedy=Remedy(
                    "Scale it up again.",
                    (f"kubectl --namespace {operator.namespace} scale deployment {operator.name} --replicas 2",),
                ),
            )
        elif operator.ready == 0 and snapshot.age(operator.raw["metadata"]["creationTimestamp"]) > YOUNG:
            yield _down(snapshot, operator)


def _down(snapshot: Snapshot, operator: Operator) -> Finding:
    pods = pods_of(snapshot, operator)
    words, evidence = "it has no pods", []
    for pod in pods:
        words = explain_pod(snapshot, pod, "operator")
        evidence += pod_evidence(snapshot, pod, words)
    conditions = (operator.raw.get("status") or {}).get("conditions") or ()
    evidence += [
        f"{condition['type']}: {condition['message']}"
        for condition in conditions
        if condition["type"] == "ReplicaFailure"
    ]
    return make_finding(
        "operator_down",
        operator.object,
        f"None of {operator.desired} replicas of the operator is ready: {words}.",
        evidence=[f"status.readyReplicas: 0 of {operator.desired}", *evidence],
        remedy=Remedy.run(
            f"kubectl --namespace {operator.namespace} logs deployment/{operator.name}",
            f"kubectl --namespace {operator.namespace} describe pods",
        ),
        related_objects=snapshot.nodes_of(operator.raw),
    )


@check("deployments", "leases")
def leaderless(snapshot: Snapshot) -> Iterator[Finding]:
    """Operators that are ready, of which none leads; or a Lease held by somebody else."""
    for operator in find_operators(snapshot):
        namespace = operator.lease_namespace
        seen = snapshot.scope.namespace in ("", *operator.watches)
        if not seen or not operator.ready or snapshot.age(operator.raw["metadata"]["creationTimestamp"]) < YOUNG:
            continue
        lease, where = lease_of(snapshot, namespace), f"lease/{namespace}/{LEASE}"
        spec = (lease or {}).get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        # After the whole machine was off, a Lease is as old as that, until the operator has started again.
        ready = [pod.condition("Ready") for pod in pods_of(snapshot, operator) if pod.ready]
        if ready and all(one and snapshot.age(one.last_transition_time) < YOUNG for one in ready):
            continue
        if not is_led(snapshot, namespace):
            said = f"spec.renewTime: {spec.get('renewTime')}, holder {spec.get('holderIdentity') or 'none'}"
            yield make_finding(
                "operator_without_lease",
                where,
                "The operator is ready, but none of its replicas leads, so nothing starts. The Lease is"
                f" {'not renewed' if lease else 'missing'}.",
                evidence=[said if lease else f"there is no Lease {namespace}/{LEASE}"],
                remedy=Remedy.run(
                    f"kubectl --namespace {operator.namespace} rollout restart deployment {operator.name}"
                ),
                related_objects=[operator.object, *snapshot.nodes_of(operator.raw)],
            )
            continue
        pods = [
            pod.metadata.name
            for watcher in find_operators(snapshot)
            if namespace in watcher.watches
            for pod in pods_of(snapshot, watcher)
        ]
        # A pod that is no more holds it for some seconds: its name begins as its Deployment's.
        names = tuple(f"{watcher.name}-" for watcher in find_operators(snapshot) if namespace in watcher.watches)
        if pods and holder and not holder.startswith(names):
            yield make_finding(
                "lease_of_a_stranger",
                where,
                f"Sessions are handled by {holder!r}, which is not a pod of {operator.object}. A second operator is "
                "running, possibly of another version.",
                evidence=[f"spec.holderIdentity: {holder}", f"pods: {', '.join(sorted(pods))}"],
                remedy=Remedy(
                    f"Stop the other operator (vdi operator run): {operator.name} then takes over.",
                    (f"kubectl --namespace {namespace} get lease {LEASE} --output yaml",),
                ),
            )


@check("deployments")
def operators_collide(snapshot: Snapshot) -> Iterator[Finding]:
    """Operators of several releases that take something from each other."""
    seen: list[Operator] = []
    for operator in sorted(find_operators(snapshot), key=lambda operator: operator.object):
        for other in seen:
            both, upgrade = f"{other.object} and {operator.object}", (operator.upgrade,)
            shared = [namespace for namespace in operator.watches if namespace in other.watches]
            if shared:
                result = (
                    "The active one changes with each restart."
                    if operator.lease_namespace == other.lease_namespace
                    else "Both are active there and revert each other's changes."
                )
                yield make_finding(
                    "operators_share_namespace",
                    f"namespace/{shared[0]}",
                    f"{both} watch the namespace {', '.join(shared)}. {result}",
                    evidence=[
                        f"{watcher.object}: VDI_NAMESPACE={','.join(watcher.watches)}" for watcher in (other, operator)
                    ],
                    remedy=Remedy("Set another sessions.namespace in one of the releases, or uninstall one.", upgrade),
                    related_objects=[other.object, operator.object],
                )
            elif operator.settings.domain == other.settings.domain:
                yield make_finding(
                    "operators_share_domain",
                    operator.object,
                    f"{both} serve the same domain {operator.settings.domain}. Traefik gives its hosts to one of them.",
                    evidence=[
                        f"{release.object}: VDI_DOMAIN={release.settings.domain}" for release in (other, operator)
                    ],
                    remedy=Remedy("Set another domain in one of the releases.", upgrade),
                    related_objects=[other.object, operator.object],
                )
        seen.append(operator)


@check("deployments", "clusterroles", "clusterrolebindings", "roles", "rolebindings")
def operator_rights(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the operator's account may do what the operator does."""
    for operator in find_operators(snapshot):
        if snapshot.scope.namespace not in ("", *operator.watches):
            continue
        # Of a scope of one namespace, Roles and bindings of the others were not read.
        namespaces = [snapshot.scope.namespace] if snapshot.scope.namespace else operator.watches
        there = [
            (namespace, right)
            for namespace in namespaces
            for right in missing_rights_there(
                snapshot, operator.account, operator.namespace, namespace, is_first=namespace == operator.watches[0]
            )
        ]
        cluster = missing_cluster_rights(
            snapshot, operator.account, operator.namespace, counts_others=operator.counts_others
        )
        if not there and not cluster:
            continue
        account = f"system:serviceaccount:{operator.namespace}:{operator.account}"
        first, where = (there[0][1], f" --namespace {there[0][0]}") if there else (cluster[0], " --all-namespaces")
        lines = [f"may not {right.words} in namespace {namespace}" for namespace, right in there]
        lines += [f"may not {right.words} in the cluster" for right in cluster]
        yield make_finding(
            "operator_rights_missing",
            operator.object,
            f"The operator's account {operator.account} lacks {len(lines)} permissions that it needs."
            f" The first: {lines[0].removeprefix('may not ')}.",
            evidence=[*lines[:8], f"kubectl auth can-i {first.words} --as {account}{where}"],
            remedy=Remedy.run(operator.upgrade),
        )


@check("vdisessions", "deployments", "leases")
def finalizers(snapshot: Snapshot) -> Iterator[Finding]:
    """Sessions that are deleted and stay, because the finalizer is not removed."""
    for session in snapshot.sessions:
        meta = session.metadata
        if FINALIZER not in meta.finalizers or snapshot.age(meta.deletion_timestamp) < YOUNG:
            continue
        leaderless = not is_led(snapshot, meta.namespace)
        why = "no operator is running that could remove it" if leaderless else "its operator has not done so"
        operator = operator_for(snapshot, meta.namespace)
        undo = '\'{"metadata":{"finalizers":null}}\''
        yield make_finding(
            "finalizer_stuck",
            f"vdisession/{meta.namespace}/{meta.name}",
            f"It was deleted {int(snapshot.age(meta.deletion_timestamp))} s ago and remains until its finalizer is "
            f"removed: {why}.",
            evidence=[f"metadata.deletionTimestamp: {meta.deletion_timestamp}", f"metadata.finalizers: {FINALIZER}"],
            remedy=Remedy(
                "Bring the operator back, which cleans up. Only if it is gone permanently, remove the finalizer:",
                (f"kubectl --namespace {meta.namespace} patch vdisession {meta.name} --type merge --patch {undo}",),
            ),
            related_objects=_operator_objects(operator, meta.namespace),
        )


def _operator_objects(operator: Operator | None, namespace: str) -> list[str]:
    """What a session of this namespace hangs on."""
    there = [f"namespace/{namespace}", f"lease/{operator.lease_namespace if operator else namespace}/{LEASE}"]
    return [*there, operator.object] if operator else there


CHECKS = (crds, operator_missing, operator_down, operators_collide, leaderless, operator_rights, finalizers)
