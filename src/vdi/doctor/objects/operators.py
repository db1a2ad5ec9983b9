"""The operators of a cluster, as their Deployments, pods and Leases show them. Pure."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vdi.diagnosis.snapshot import Raw, Snapshot
from vdi.doctor.objects.deployments import Deployment, find_deployments, pods_of
from vdi.operator.settings import read_settings
from vdi.operator.variables import SettingsError
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.observed import Pod

LEASE = "vdi-operator"
STALE = 30.0
"""Seconds without a renewal after which no one leads: renewals come every 2, others take over after 10."""

HANDOVER = 10.0
"""Seconds that a Lease which was given back may have no holder: the next one looks every second."""


@dataclass(frozen=True)
class Operator(Deployment):
    """One Deployment of the operator."""

    settings: ClusterSettings
    problem: str
    """Why its settings cannot be used; empty: they can."""
    counts_others: bool = True
    requests_nodes: bool = False
    """Whether it asks an autoscaler for nodes."""

    @property
    def lease_namespace(self) -> str:
        """Where its Lease is."""
        return self.watches[0]

    @property
    def account(self) -> str:
        """Its ServiceAccount."""
        return str(self.raw["spec"]["template"]["spec"].get("serviceAccountName") or "default")


@lru_cache(maxsize=2)
def find_operators(snapshot: Snapshot) -> tuple[Operator, ...]:
    """Deployments with an operator's container, found by a variable of ours."""
    return tuple(
        _operator(raw, environment) for raw, environment in find_deployments(snapshot, "operator", "VDI_NAMESPACE")
    )


def operators_in_scope(snapshot: Snapshot) -> list[Operator]:
    """Those that watch what was asked about; all, where none does."""
    scope, found = snapshot.scope.namespace, find_operators(snapshot)
    return [one for one in found if scope in ("", *one.watches)] or list(found)


def _operator(raw: Raw, environment: dict[str, str]) -> Operator:
    try:
        settings = read_settings(environment)
    except SettingsError as error:
        watches = tuple(environment["VDI_NAMESPACE"].split(","))
        return Operator("deployment", raw, watches, ClusterSettings(), str(error))
    return Operator(
        "deployment",
        raw,
        settings.namespaces,
        settings.cluster,
        "",
        settings.count_other_workloads,
        settings.autoscaling.enabled,
    )


def operator_for(snapshot: Snapshot, namespace: str) -> Operator | None:
    """Whose sessions these are."""
    return next((operator for operator in find_operators(snapshot) if namespace in operator.watches), None)


def settings_for(snapshot: Snapshot, namespace: str) -> ClusterSettings:
    """The settings of this namespace's operator; the defaults where its Deployment is not seen."""
    operator = operator_for(snapshot, namespace)
    return operator.settings if operator else ClusterSettings()


def sick_pods(snapshot: Snapshot, operator: Operator) -> list[Pod]:
    """Those of its pods that run and are not ready."""
    return [pod for pod in pods_of(snapshot, operator) if not pod.ready and pod.status.phase == "Running"]


def lease_namespace(snapshot: Snapshot, namespace: str) -> str:
    """Where the Lease of this namespace's operator is; without a Deployment of it, there."""
    operator = operator_for(snapshot, namespace)
    return operator.lease_namespace if operator else namespace


def lease_of(snapshot: Snapshot, namespace: str) -> dict[str, Any] | None:
    """The Lease by which one of several operators leads that work in this namespace."""
    return snapshot.find("leases", LEASE, lease_namespace(snapshot, namespace))


def is_led(snapshot: Snapshot, namespace: str) -> bool:
    """Whether somebody works on the sessions there, or did a moment ago.

    While one replica hands over to another, the Lease has no holder.
    """
    spec = (lease_of(snapshot, namespace) or {}).get("spec") or {}
    renewed = spec.get("renewTime")
    return bool(renewed) and snapshot.age(renewed) < (STALE if spec.get("holderIdentity") else HANDOVER)
