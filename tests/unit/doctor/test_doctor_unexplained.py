"""The last check: each bad state in the API is explained by a finding or is one, and a normal state
is none.
"""

import json
import shlex

import pytest

from unit.doctor.doctor_breaks import Break, Faults, put
from unit.doctor.doctor_builders import (
    JUST_NOW,
    OPERATOR_LABELS,
    POD,
    SPACE,
    Cluster,
    ready_condition,
)
from unit.doctor.doctor_faults import FAULTS, SETUP, local_path
from unit.doctor.doctor_unexplained import (
    MINUTES_AGO,
    SECONDS_AGO,
    UNEXPLAINED_FAULTS,
    add_certificate,
    add_pool,
    condition,
    ended,
    lost,
)
from vdi.doctor.report import make_report
from vdi.findings.model import Finding, Remedy, roots
from vdi.findings.render import as_text
from vdi.snapshot.model import Unreadable

OLD = "2026-11-20T09:00:00Z"
LONG_AGO = "2026-11-20T08:00:00Z"
SHORTLY_BEFORE = "2026-11-20T11:54:50Z"
NORMAL = normal = Faults()


def only(cluster: Cluster) -> Finding:
    (finding,) = cluster.findings()
    return finding


def starts(cluster: Cluster, at: str) -> None:
    """The first desktop has been starting since then."""
    cluster.waits("ContainerCreating")
    cluster.pod["metadata"]["creationTimestamp"] = at
    for one in cluster.pod["status"]["conditions"]:
        one["lastTransitionTime"] = at


@normal()
def suspended_for_hours(cluster: Cluster) -> None:
    cluster.session["spec"]["suspended"] = True
    cluster.without_pod("Suspended", phase="Suspended")
    cluster.session["status"]["conditions"] = [
        condition(kind, "False", "Suspended", at=OLD)
        for kind in ("Admitted", "PodReady", "RouteReady", "Ready")
    ]


@normal()
def resumed_a_moment_ago(cluster: Cluster) -> None:
    """Its conditions have been False since it was suspended."""
    starts(cluster, JUST_NOW)
    cluster.session["status"]["conditions"] = [
        condition(kind, "False", "Starting", at=OLD) for kind in ("PodReady", "RouteReady", "Ready")
    ]


@normal()
def warned_while_it_started(cluster: Cluster) -> None:
    for reason in ("FailedScheduling", "FailedMount", "Failed", "FailedAttachVolume"):
        cluster.warn_pod(reason, "not yet", at=MINUTES_AGO)
    for one in cluster.pod["status"]["conditions"]:
        one["lastTransitionTime"] = SECONDS_AGO
    cluster.pod["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": SECONDS_AGO}}
    cluster.pod["metadata"]["creationTimestamp"] = "2026-11-20T11:59:45Z"


@normal()
def warned_before_ten_minutes(cluster: Cluster) -> None:
    at = "2026-11-20T11:49:00Z"
    cluster.warn(
        "VDISession", cluster.session["metadata"]["name"], "ActivityUnknown", "silent", at=at
    )


@normal()
def warning_of_a_namesake(cluster: Cluster) -> None:
    for kind, plural in (("Pod", "pods"), ("PersistentVolumeClaim", "persistentvolumeclaims")):
        name = cluster.objects[plural][-1]["metadata"]["name"]
        cluster.warn(
            kind, name, "FailedSomething", "of the one before", uid="another", at=SECONDS_AGO
        )


@normal()
def session_announces_its_end(cluster: Cluster) -> None:
    cluster.session["status"]["conditions"].append(condition("Expiring", "True", "ExpiringSoon"))
    for reason in ("ExpiringSoon", "ClosingSoon", "Idle", "NodeCordoned", "EndPlanned"):
        cluster.warn(
            "VDISession", cluster.session["metadata"]["name"], reason, "soon", at=SECONDS_AGO
        )


@normal()
def image_is_being_pulled(cluster: Cluster) -> None:
    pulling = condition("ImagePulled", "False", "Pulling", "0 of 1 nodes")
    cluster.one("vditemplates")["status"] = {"conditions": [pulling]}


@normal()
def replica_of_an_upgrade_starts(cluster: Cluster) -> None:
    status = {
        "phase": "Pending",
        "conditions": [condition("Ready", "False", at="2026-11-20T11:58:10Z")],
    }
    cluster.add_pod(f"{POD}-2", "kasm", labels=OPERATOR_LABELS)["status"] = status
    available = condition("Available", "False", "MinimumReplicasUnavailable", at=SECONDS_AGO)
    cluster.one("deployments")["status"]["conditions"] = [
        available,
        condition("Progressing", "True"),
    ]


@normal()
def claim_was_deleted_seconds_ago(cluster: Cluster) -> None:
    meta = cluster.one("persistentvolumeclaims")["metadata"]
    meta |= {"deletionTimestamp": SECONDS_AGO, "finalizers": ["backup.example.com/hold"]}


@normal()
def machine_was_off(cluster: Cluster) -> None:
    """Every container was started again, and the operator's Lease is as old as the power cut."""
    for pod in cluster.objects["pods"]:
        ended(pod)
        pod["status"]["containerStatuses"][0]["state"] = {
            "running": {"startedAt": "2026-11-20T11:59:20Z"}
        }
        ready_condition(pod)["lastTransitionTime"] = "2026-11-20T11:59:40Z"
    cluster.one("leases")["spec"]["renewTime"] = "2026-11-20T11:50:00.000000Z"


def certificate_is_renewed(cluster: Cluster) -> None:
    add_certificate(cluster, "wildcard", condition("Ready", "True"), condition("Issuing", "False"))


NORMAL.table(
    # The operator could not act, or the session waited for its turn: neither is slow now that it
    # has a desktop.
    ("", "pod_came_late", put("vdisessions", "metadata.creationTimestamp", "2026-11-20T10:55:00Z")),
    ("", "setup_script_of_k3s", lambda cluster: local_path(cluster, SETUP.format("0777"))),
    (
        "",
        "probe_failed_once",
        lambda cluster: cluster.warn_pod("Unhealthy", "Liveness probe failed", at=SECONDS_AGO),
    ),
    (
        "",
        "mount_failed_some_minutes_ago",
        lambda cluster: cluster.warn_pod("FailedMount", "timed out", at=MINUTES_AGO),
    ),
    (
        "",
        "pod_was_deleted_by_a_person",
        lambda cluster: lost(cluster, reason="PodDeleted", message="It was deleted."),
    ),
    (
        "",
        "restarted_by_a_person_since_it_was_lost",
        lambda cluster: lost(cluster, restartedAt="before"),
    ),
    (
        "",
        "pool_fills_up_all_day",
        lambda cluster: add_pool(cluster, "Filling", "1 of 2 desktops is ready."),
    ),
    (
        "",
        "pool_waits_for_a_moment",
        lambda cluster: add_pool(cluster, "GPUsBusy", "All are in use.", at=SECONDS_AGO),
    ),
    ("", "user_has_logged_out", lambda cluster: ended(cluster.pod, reason="Completed", exitCode=0)),
    (
        "",
        "container_failed_before_it_had_started",
        lambda cluster: ended(cluster.one("pods", POD), startedAt=SHORTLY_BEFORE),
    ),
    (
        "",
        "container_crashed_hours_ago",
        lambda cluster: ended(cluster.pod, startedAt=LONG_AGO, finishedAt=OLD),
    ),
    ("", "certificate_is_renewed", certificate_is_renewed),
    (
        "",
        "certificate_no_route_names",
        lambda cluster: add_certificate(cluster, "web", condition("Ready", "False")),
    ),
)


@pytest.mark.parametrize("name", NORMAL)
def test_a_normal_state_is_no_finding(name: str) -> None:
    findings = NORMAL.broken(name, sessions=1).findings()
    assert findings == [], [f"{finding.key}: {finding.message}" for finding in findings]


@pytest.mark.parametrize(
    ("name", "object_name", "words"),
    [
        ("pool_of_a_template_with_a_home", "vdipool/warm", "Template 'ubuntu-desktop' has a home."),
        (
            "image_that_no_node_can_pull_in_advance",
            "vditemplate/ubuntu-desktop",
            "PullFailed: 1 of 1 nodes failed",
        ),
        (
            "second_replica_of_the_operator_has_no_image",
            f"pod/kasm/{POD}-2",
            "the registry has no such image",
        ),
        ("pods_of_a_release_are_refused", "deployment/kasm/docs", "exceeded quota: few."),
        ("pod_of_the_database_is_refused", "statefulset/kasm/postgresql", "exceeded quota: few."),
        (
            "image_of_the_database_is_gone",
            "pod/kasm/postgresql-0",
            "the registry has no such image",
        ),
        (
            "desktop_of_a_pool_does_not_start",
            f"pod/{SPACE}/warm-x",
            "The desktop needs the Secret 'keys'",
        ),
        (
            "secret_of_a_running_desktop_is_deleted",
            f"pod/{SPACE}/alice-0",
            'secret "keys" not found.',
        ),
        (
            "desktop_was_evicted_for_its_disk",
            f"vdisession/{SPACE}/alice-0",
            "exceeds the total limit of containers 1Gi",
        ),
        (
            "desktop_was_killed_for_its_memory",
            f"pod/{SPACE}/alice-0",
            "desktop used more memory than its limit 300 s",
        ),
        ("operator_has_crashed_once", f"pod/kasm/{POD}", "ended with exit code 1 300 s ago"),
    ],
)
def test_the_object_and_its_words_are_the_finding(name: str, object_name: str, words: str) -> None:
    finding = only(UNEXPLAINED_FAULTS.broken(name))
    assert finding.object == object_name
    assert words in finding.message


def test_a_finalizer_is_shown_with_its_owner_and_removed_alone() -> None:
    finding = only(UNEXPLAINED_FAULTS.broken("foreign_finalizer_on_a_claim"))
    assert (
        "kubernetes.io/pvc-protection (Kubernetes removes it when no pod uses the claim)"
        in finding.message
    )
    assert (
        "backup.example.com/hold (the controller of backup.example.com removes it)"
        in finding.message
    )
    show, patch = finding.remedy.commands
    assert show.endswith("--output yaml")
    own = only(UNEXPLAINED_FAULTS.broken("home_of_a_running_desktop_is_deleted"))
    assert not any("finalizers" in command for command in own.remedy.commands)
    operations = json.loads(shlex.split(patch)[-1])
    place = {"path": "/metadata/finalizers/1"}
    assert operations == [
        {"op": "test", **place, "value": "backup.example.com/hold"},
        {"op": "remove", **place},
    ], "a finalizer that no one has named stays, whoever adds it meanwhile"


def test_a_stuck_pod_speaks_for_its_stuck_session() -> None:
    finding = only(UNEXPLAINED_FAULTS.broken("foreign_finalizer_on_the_pod_of_a_deleted_session"))
    assert finding.object == f"pod/{SPACE}/alice-0"


def test_a_session_that_stays_names_the_operator() -> None:
    finding = only(FAULTS.broken("finalizer_stays"))
    assert (
        "vdi.kasm.io/session-cleanup (the operator removes it after its clean-up)"
        in finding.message
    )
    assert finding.remedy.commands[-1].endswith("rollout restart deployment/vdi-operator")


@pytest.mark.parametrize("name", UNEXPLAINED_FAULTS)
def test_the_sentence_of_an_object_is_said_once(name: str) -> None:
    for finding in UNEXPLAINED_FAULTS.broken(name).findings():
        message = finding.message.removeprefix("Its ").rstrip(".")
        assert not any(message in line or line in finding.message for line in finding.evidence), (
            finding
        )


def test_desktop_killed_from_inside_did_not_hang() -> None:
    cluster = Cluster()
    ended(cluster.pod, exitCode=137)
    cluster.warn_pod(
        "Unhealthy", "Liveness probe failed: dial tcp 10.42.0.5:8080: connect: connection refused"
    )
    assert "was killed, neither for its memory limit nor by the kubelet" in only(cluster).message


def crash_loops(cluster: Cluster) -> None:
    cluster.crashes("OOMKilled", restarts=4)
    cluster.session["status"]["conditions"] = [condition("Ready", "False", "Starting", at=OLD)]
    cluster.warn_pod("FailedSomething", "of the crash", at=SECONDS_AGO)


def is_lost_on_a_full_node(cluster: Cluster) -> None:
    pressure = condition("DiskPressure", "True", at=OLD)
    cluster.one("nodes")["status"]["conditions"].append(pressure)
    lost(cluster, reason="OutOfEphemeralStorage")


def ignores_an_encoder(cluster: Cluster) -> None:
    template = cluster.one("vditemplates")
    template["spec"]["env"] = [{"name": "SELKIES_ENCODER", "value": "nvh264enc"}]
    template["status"] = {
        "conditions": [condition("SettingsIgnored", "True", "OfSelkies1", "SELKIES_ENCODER")]
    }


@pytest.mark.parametrize(
    ("breaks", "code"),
    [
        (crash_loops, "desktop_out_of_memory"),
        (is_lost_on_a_full_node, "node_under_pressure"),
        (ignores_an_encoder, "encoder_obsolete"),
    ],
)
def test_what_a_finding_explains_is_not_shown_again(breaks: Break, code: str) -> None:
    cluster = Cluster()
    breaks(cluster)
    assert [root.code for root in cluster.findings()] == [code]


def test_advice_about_a_template_explains_no_bad_state() -> None:
    cluster = UNEXPLAINED_FAULTS.broken("image_that_no_node_can_pull_in_advance")
    cluster.template["shmSize"] = "1Mi"
    assert set(cluster.roots()) == {"shm_too_small", "unexplained_condition"}


def test_an_owner_speaks_for_what_it_owns() -> None:
    cluster = UNEXPLAINED_FAULTS.broken("desktop_of_a_pool_does_not_start")
    ready = cluster.one("vdipools")["status"]["conditions"][0]
    ready |= {"reason": "DesktopsFail", "message": "The desktop warm-x needs the Secret 'keys'."}
    assert only(cluster).object == "vdipool/warm"


def test_words_of_an_object_are_bounded_and_printable() -> None:
    cluster = Cluster()
    add_pool(cluster, "TemplateHasHome", "\x1b[31mred\n" + 400 * "word ")
    finding = only(cluster)
    assert len(finding.message) <= 301
    assert finding.message.isprintable()


def test_without_pods_nothing_is_called_unexplained() -> None:
    cluster = UNEXPLAINED_FAULTS.broken("pool_of_a_template_with_a_home")
    cluster.unread.append(Unreadable("pods", "You may not.", Remedy("ask")))
    assert [finding.code for finding in cluster.findings()] == ["not_readable"]


def summary_of(cluster: Cluster) -> str:
    return list(as_text(make_report(cluster.findings(), cluster.snapshot())))[-1]


def test_a_start_that_goes_on_is_not_called_well() -> None:
    cluster = Cluster()
    starts(cluster, "2026-11-20T11:59:51Z")
    assert summary_of(cluster).endswith("checks: 1 session has been starting for 9 s.")


def test_a_session_without_a_pod_is_starting_too() -> None:
    cluster = Cluster(2)
    cluster.without_pod("HomeInUse", "Another desktop has it.")
    cluster.session["metadata"]["creationTimestamp"] = JUST_NOW
    cluster.session["status"]["conditions"][0]["lastTransitionTime"] = JUST_NOW
    assert summary_of(cluster).endswith("1 session has been starting for 2 s.")
    assert summary_of(Cluster(2)).endswith("no problems found.")


def test_causes_of_the_whole_cluster_explain_the_rest() -> None:
    cluster = UNEXPLAINED_FAULTS.broken("certificate_is_not_issued")
    cluster.drop("customresourcedefinitions", "vdipools.vdi.kasm.io")
    assert [root.code for root in roots(cluster.findings())] == ["crd_missing"]


@pytest.mark.parametrize("session_waits", [True, False])
def test_a_template_is_explained_by_its_session(session_waits: bool) -> None:
    cluster = UNEXPLAINED_FAULTS.broken("image_that_no_node_can_pull_in_advance")
    if session_waits:
        cluster.waits("ErrImagePull", "manifest unknown")
    assert cluster.roots() == ["image_unavailable" if session_waits else "unexplained_condition"]
