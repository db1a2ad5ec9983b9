"""Desktops that Kueue admits: what their pods carry, what is said of them, and when their run begins."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from support.builders import a_pod, a_session, a_template
from vdi.session.children.pod import build_pod
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import Reason
from vdi.session.effective import Desktop, resolve
from vdi.session.explain import StartState, explain
from vdi.session.failures import find_loss, unscheduled_since
from vdi.session.identity import Identity
from vdi.session.lifetime import expires_at, started_at
from vdi.session.observed import KUEUE_QUEUE, RUN_STARTED, Pod, Workload
from vdi.session.times import parse_time

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
SETTINGS = ClusterSettings(kueue_local_queue="desktops")
GATED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "SchedulingGated",
    "message": "Scheduling is blocked due to non-empty scheduling gates",
    "lastTransitionTime": "2026-11-20T08:00:00Z",
}
NO_QUOTA = (
    "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor default, "
    "1 more needed"
)


def gated(labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None) -> Pod:
    return a_pod(node="", labels=labels or {}, annotations=annotations or {}, status={"conditions": [GATED]})


def a_workload(*conditions: dict[str, Any]) -> Workload:
    return msgspec.convert({"metadata": {"name": "pod-x"}, "status": {"conditions": conditions}}, Workload)


def test_a_desktop_carries_the_local_queue_and_without_the_setting_it_does_not() -> None:
    session, template = a_session(), a_template()
    for settings, expected in ((SETTINGS, "desktops"), (ClusterSettings(), None)):
        desktop = resolve(session, template, settings)
        assert isinstance(desktop, Desktop)
        labels = build_pod(identity=Identity.of(session), desktop=desktop)["metadata"]["labels"]
        assert labels.get(KUEUE_QUEUE) == expected


def test_a_gated_pod_is_not_taken_back_however_long_it_waits() -> None:
    pod = gated()
    assert unscheduled_since(pod) is None
    assert find_loss(pod, None, (), NOW + timedelta(hours=5)) is None


@pytest.mark.parametrize(
    ("pod", "workload", "message"),
    [
        (gated(), None, "The desktop waits until another controller removes its scheduling gate."),
        (gated({KUEUE_QUEUE: "desktops"}), None, "The desktop waits in Kueue's queue 'desktops'."),
        (
            gated({KUEUE_QUEUE: "desktops"}),
            a_workload({"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": NO_QUOTA}),
            f"The desktop waits in Kueue's queue 'desktops': {NO_QUOTA}.",
        ),
        (
            gated({KUEUE_QUEUE: "desktops"}),
            a_workload(
                {"type": "QuotaReserved", "status": "True", "message": "Quota reserved in ClusterQueue all"},
                {"type": "Admitted", "status": "False", "message": "The workload has failed admission checks"},
            ),
            "The desktop waits in Kueue's queue 'desktops': The workload has failed admission checks.",
        ),
    ],
)
def test_the_session_says_what_kueue_says(pod: Pod, workload: Workload | None, message: str) -> None:
    explanation = explain(StartState(pod, workload=workload))
    assert (explanation.reason, explanation.sentence, explanation.stuck) == (Reason.SCHEDULING_GATED, message, False)


def test_waiting_in_kueues_queue_uses_no_time_of_the_run() -> None:
    session, template, labels = a_session(timeout="8h"), a_template(), {KUEUE_QUEUE: "desktops"}
    assert started_at(session, gated(labels)) is None
    assert expires_at(session, template, gated(labels), SETTINGS) is None
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-20T09:00:00Z"}
    bound = a_pod(labels=labels, status={"conditions": [scheduled]})
    assert started_at(session, bound) == NOW
    assert expires_at(session, template, bound, SETTINGS) == NOW + timedelta(hours=8)
    assert started_at(session, a_pod(status={"conditions": [scheduled]})) == NOW - timedelta(hours=1), "our own queue"


def test_a_preempted_desktop_waits_outside_of_its_run_too() -> None:
    """Begun at 6:00, the pod made again at 8:00, and scheduled at 9:00: an hour of waiting is left out."""
    session, template, labels = a_session(timeout="8h"), a_template(), {KUEUE_QUEUE: "desktops"}
    begun = {RUN_STARTED: "2026-11-20T06:00:00Z"}
    waiting = gated(labels, annotations=begun)
    assert expires_at(session, template, waiting, SETTINGS) is None
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-20T09:00:00Z"}
    bound = a_pod(labels=labels, annotations=begun, status={"conditions": [scheduled]})
    assert expires_at(session, template, bound, SETTINGS) == parse_time("2026-11-20T15:00:00Z")
    for pod in (waiting, bound):
        assert started_at(session, pod) == parse_time("2026-11-20T06:00:00Z"), "it is the same run for the history"
    from_a_pool = {RUN_STARTED: "2026-11-20T10:00:00Z"}
    claimed = a_pod(labels=labels, annotations=from_a_pool, status={"conditions": [scheduled]})
    assert expires_at(session, template, claimed, SETTINGS) == parse_time("2026-11-20T18:00:00Z")
