"""Faults that no rule was written for: the API says that something is not well, and only the last
check listens.
"""

from typing import Any

from unit.doctor.doctor_breaks import Break, Faults
from unit.doctor.doctor_builders import (
    BEGAN,
    NOW,
    OPERATOR_LABELS,
    POD,
    SPACE,
    Cluster,
    Object,
    deployment,
    meta_of,
)

UNEXPLAINED_FAULTS = fault = Faults()
MINUTES_AGO = "2026-11-20T11:55:00Z"
SECONDS_AGO = "2026-11-20T11:59:50Z"


def condition(
    kind: str, status: str, reason: str = "", message: str = "", at: str = MINUTES_AGO
) -> Object:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": at,
    }


def add_pool(cluster: Cluster, reason: str, message: str = "", at: str = BEGAN) -> Object:
    """A pool whose condition Ready is False for this reason."""
    status = {"conditions": [condition("Ready", "False", reason, message, at)]}
    meta = {"name": "warm", "uid": "uid-warm"}
    return cluster.add("vdipools", meta, spec={"template": "ubuntu-desktop"}, status=status)


def add_certificate(cluster: Cluster, secret: str, *conditions: Object) -> None:
    """A Certificate of cert-manager for this Secret."""
    status = {"conditions": [*conditions]}
    cluster.add("certificates", meta_of(SPACE, secret), spec={"secretName": secret}, status=status)


def ended(pod: Object, **terminated: Any) -> None:
    """The container of this pod was restarted five minutes ago, after it had run for some, and is
    ready again.
    """
    last = {
        "exitCode": 1,
        "reason": "Error",
        "startedAt": BEGAN,
        "finishedAt": MINUTES_AGO,
        **terminated,
    }
    container = pod["status"]["containerStatuses"][0]
    container |= {"restartCount": 1, "lastState": {"terminated": last}}
    container["state"] = {"running": {"startedAt": MINUTES_AGO}}


def fails(
    cluster: Cluster, namespace: str, name: str, reason: str, message: str, labels: Object
) -> None:
    """A pod that has been waiting for something for five minutes."""
    container = {
        "name": name,
        "image": "x:1",
        "state": {"waiting": {"reason": reason, "message": message}},
    }
    status = {
        "phase": "Pending",
        "conditions": [condition("Ready", "False")],
        "containerStatuses": [container],
    }
    cluster.add_pod(name, namespace, labels=labels, creationTimestamp=MINUTES_AGO)["status"] = (
        status
    )


@fault("unexplained_condition")
def image_that_no_node_can_pull_in_advance(cluster: Cluster) -> None:
    words = "1 of 1 nodes failed; node-1: no space"
    cluster.one("vditemplates")["status"] = {
        "conditions": [condition("ImagePulled", "False", "PullFailed", words)]
    }


def of_release(cluster: Cluster, kind: str, name: str) -> Object:
    """A workload in the release of the operator."""
    made = deployment(name, "kasm", {"app": name}, {"containers": [{"name": name}]})
    for one in (made, cluster.one("deployments", "vdi-operator")):
        one["metadata"]["annotations"] = {"meta.helm.sh/release-name": "vdi"}
    cluster.objects.setdefault(kind, []).append(made)
    return made


@fault("unexplained_condition")
def pods_of_a_release_are_refused(cluster: Cluster) -> None:
    failed = condition(
        "ReplicaFailure", "True", "FailedCreate", 'pods "docs-1" is forbidden: exceeded quota: few'
    )
    of_release(cluster, "deployments", "docs")["status"]["conditions"] = [failed]


@fault("unexplained_condition")
def pod_of_the_database_is_refused(cluster: Cluster) -> None:
    """A StatefulSet has no condition that says so."""
    of_release(cluster, "statefulsets", "postgresql")["status"] = {}
    cluster.warn(
        "StatefulSet",
        "postgresql",
        "FailedCreate",
        "create Pod failed: exceeded quota: few",
        at=MINUTES_AGO,
    )


@fault("unexplained_condition")
def image_of_the_database_is_gone(cluster: Cluster) -> None:
    of_release(cluster, "statefulsets", "postgresql")["status"] = {}
    fails(
        cluster, "kasm", "postgresql-0", "ErrImagePull", "manifest unknown", {"app": "postgresql"}
    )


@fault("unexplained_condition")
def template_is_deleted_under_a_desktop(cluster: Cluster) -> None:
    cluster.drop("vditemplates")
    missing = condition(
        "TemplateFound", "False", "TemplateNotFound", "There is no template 'ubuntu-desktop'."
    )
    cluster.session["status"]["conditions"].insert(0, missing)


@fault("unexplained_condition")
def certificate_is_not_issued(cluster: Cluster) -> None:
    waits = condition(
        "Ready", "False", "DoesNotExist", "Issuing certificate: the ACME order failed."
    )
    issuing = condition("Issuing", "False", "Failed")
    add_certificate(cluster, "wildcard", issuing, waits)


@fault("unexplained_condition")
def desktop_of_a_pool_does_not_start(cluster: Cluster) -> None:
    labels = {"vdi.kasm.io/pool": add_pool(cluster, "Filling")["metadata"]["name"]}
    fails(cluster, SPACE, "warm-x", "CreateContainerConfigError", 'secret "keys" not found', labels)


@fault("unexplained_condition")
def volume_of_a_suspended_session_is_lost(cluster: Cluster) -> None:
    cluster.session["spec"]["suspended"] = True
    cluster.without_pod("Suspended", phase="Suspended")
    cluster.one("persistentvolumeclaims")["status"]["phase"] = "Lost"


@fault("unexplained_event")
def secret_of_a_running_desktop_is_deleted(cluster: Cluster) -> None:
    note = 'MountVolume.SetUp failed for volume "keys" : secret "keys" not found'
    cluster.warn_pod("FailedMount", note, at=SECONDS_AGO)


@fault("unexplained_event")
def warning_of_an_hour_ago_is_repeated(cluster: Cluster) -> None:
    cluster.warn(
        "VDISession", cluster.session["metadata"]["name"], "ActivityUnknown", "silent", at=BEGAN
    )
    cluster.objects["events"][-1]["series"] = {"count": 60, "lastObservedTime": SECONDS_AGO}


@fault("unexplained_event")
def volume_does_not_grow(cluster: Cluster) -> None:
    claim = cluster.one("persistentvolumeclaims")["metadata"]["name"]
    cluster.warn(
        "PersistentVolumeClaim", claim, "VolumeResizeFailed", "the array is full", at=MINUTES_AGO
    )


@fault("deletion_stuck")
def foreign_finalizer_on_the_pod_of_a_deleted_session(cluster: Cluster) -> None:
    """The session stays too, as a consequence."""
    cluster.pod["metadata"] |= {
        "deletionTimestamp": MINUTES_AGO,
        "finalizers": ["batch.example.com/tracking"],
    }
    cluster.session["metadata"]["deletionTimestamp"] = MINUTES_AGO


def lost(cluster: Cluster, **failure: Any) -> None:
    """The first desktop was lost five minutes ago. Its successor runs."""
    found = {
        "count": 1,
        "reason": "PodFailed",
        "message": "The desktop's pod has ended.",
        "time": MINUTES_AGO,
    }
    cluster.session["status"]["failures"] = {**found, "generation": 1, "restartedAt": "", **failure}


@fault("container_restarted")
def desktop_was_evicted_for_its_disk(cluster: Cluster) -> None:
    """Its first pod, which had ended with 0, is gone: only the Event of that pod names the disk."""
    lost(cluster)
    note = "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi."
    cluster.warn_pod("Evicted", note, uid="of-the-first-pod", at=MINUTES_AGO)


@fault()
def replacement_pods_are_ready(cluster: Cluster) -> None:
    """Nothing: an evicted pod of the operator is left over, and its successor is ready."""
    gone = {
        "phase": "Failed",
        "reason": "Evicted",
        "conditions": [condition("Ready", "False", at="2026-11-20T10:00:00Z")],
    }
    cluster.add_pod(f"{POD}-0", "kasm", labels=OPERATOR_LABELS)["status"] |= gone


def _deleted(plural: str, *finalizers: str) -> Break:
    """The first object of this kind is deleted, and its finalizers keep it."""
    deleted = {"deletionTimestamp": MINUTES_AGO, "finalizers": [*finalizers]}
    return lambda cluster: cluster.one(plural)["metadata"].update(deleted)


_HOMES = "persistentvolumeclaims"
_PROTECTION = "kubernetes.io/pvc-protection"
_BACKUP = "backup.example.com/hold"
_HAS_HOME = "Template 'ubuntu-desktop' has a home. A pool needs one without."
_VIRUS = condition("example.com/scanned", "False", "Infected", "The scanner found a virus.")
_SILENT = "The operator cannot check whether the desktop is in use, so it does not count as idle."
_RESIZE = condition("ResizePending", "True", "Deferred", "The node has no room for the new size.")
UNEXPLAINED_FAULTS.table(
    (
        "unexplained_condition",
        "recording_of_a_desktop_fails",
        lambda cluster: cluster.session["status"].update(
            recording={"mode": "OnDemand", "state": "Failed", "message": "its recorder has ended"}
        ),
    ),
    (
        "unexplained_condition",
        "recording_that_the_template_promises_is_not_made",
        lambda cluster: cluster.session["status"].update(
            readyTime=BEGAN,
            recording={
                "mode": "Always",
                "state": "Off",
                "message": "the gateway does not store recordings",
            },
        ),
    ),
    (
        "unexplained_condition",
        "new_size_waits_for_an_hour",
        lambda cluster: cluster.session["status"]["conditions"].append(_RESIZE),
    ),
    (
        "unexplained_event",
        "agent_of_a_desktop_is_silent",
        lambda cluster: cluster.warn(
            "VDISession", "alice-0", "ActivityUnknown", _SILENT, at=MINUTES_AGO
        ),
    ),
    (
        "unexplained_condition",
        "pool_of_a_template_with_a_home",
        lambda cluster: add_pool(cluster, "TemplateHasHome", _HAS_HOME, NOW),
    ),
    (
        "unexplained_condition",
        "second_replica_of_the_operator_has_no_image",
        lambda cluster: fails(
            cluster, "kasm", f"{POD}-2", "ErrImagePull", "manifest unknown", OPERATOR_LABELS
        ),
    ),
    (
        "unexplained_condition",
        "condition_of_another_controller_on_a_desktop",
        lambda cluster: cluster.pod["status"]["conditions"].append(_VIRUS),
    ),
    ("deletion_stuck", "foreign_finalizer_on_a_claim", _deleted(_HOMES, _PROTECTION, _BACKUP)),
    (
        "deletion_stuck",
        "foreign_finalizer_on_a_session",
        _deleted("vdisessions", "audit.example.com/keep"),
    ),
    ("deletion_stuck", "home_of_a_running_desktop_is_deleted", _deleted(_HOMES, _PROTECTION)),
    (
        "container_restarted",
        "desktop_was_killed_for_its_memory",
        lambda cluster: ended(cluster.pod, reason="OOMKilled", exitCode=137),
    ),
    (
        "container_restarted",
        "operator_has_crashed_once",
        lambda cluster: ended(cluster.one("pods", POD), message="panic\nTraceback: KeyError"),
    ),
)
