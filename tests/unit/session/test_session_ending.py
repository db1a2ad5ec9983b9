"""What ends a run, what makes a pod yield, what is said before, and when to look again."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import (
    CREATED,
    a_claim,
    a_node,
    a_pod,
    a_route,
    a_service,
    a_session,
    a_template,
)
from vdi.api.meta import Condition
from vdi.cluster.objects import NodeInfo, RuntimeHandler
from vdi.cluster.units import format_time, parse_time
from vdi.session.alerts import (
    AnnouncedEnd,
    Notice,
    announced_end,
    clock_time,
    evictable_at,
    find_alerts,
    find_notices,
)
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import CLOSING, DRAINING, EXPIRING, IDLE, PLANNED_END
from vdi.session.decide import Observed, decide, host_taken
from vdi.session.effective import Blocked
from vdi.session.ending import find_ending, find_removal, next_requeue
from vdi.session.lifetime import Activity
from vdi.session.status import ConditionState, derive, derive_ending, derive_suspended, with_times

START = parse_time(CREATED)
NOW = START + timedelta(seconds=5)
SETTINGS = ClusterSettings()
URL = "https://alice-desktop.vdi.localhost"


def running(
    *, status: dict[str, Any] | None = None, template: dict[str, Any] | None = None, **spec: Any
) -> Observed:
    observed = Observed(
        a_session(status=status, **spec), a_template(lifecycle=template or {}), a_pod(ready=True)
    )
    return replace(
        observed,
        home=a_claim(),
        service=a_service(),
        route=a_route(),
        node=a_node(),
        host="alice-desktop",
    )


def idle_since(moment: datetime, seen: datetime) -> Activity:
    return Activity(last_input=moment, seen=seen)


def up(kind: str, since: str) -> dict[str, Any]:
    return {
        "conditions": [
            {"type": kind, "status": "True", "reason": kind, "lastTransitionTime": since}
        ]
    }


@pytest.mark.parametrize(
    ("status", "planned", "expected"),
    [
        ({"expiresAt": "2026-11-20T09:15:00Z"}, "", (75, EXPIRING)),
        ({"expiresAt": "2026-11-20T09:15:01Z"}, "", None),
        ({"expiresAt": "2026-11-20T09:10:00Z"}, "2026-11-20T09:10:00Z", (70, PLANNED_END)),
        ({"expiresAt": "2026-11-20T09:10:00Z"}, "2026-11-20T10:00:00Z", (70, EXPIRING)),
        (up(IDLE, "2026-11-20T08:59:00Z"), "", (63, IDLE)),
        (up(CLOSING, "2026-11-20T08:59:00Z"), "", (64, CLOSING)),
        (up(CLOSING, "2026-11-20T08:02:00Z"), "", (4, CLOSING)),
        (
            {**up(IDLE, "2026-11-20T08:59:00Z"), "expiresAt": "2026-11-20T09:02:00Z"},
            "",
            (62, EXPIRING),
        ),
        ({"expiresAt": "soon"}, "", None),
    ],
)
def test_programs_learn_of_the_first_end(
    status: dict[str, Any], planned: str, expected: tuple[int, str] | None
) -> None:
    end: dict[str, Any] = {"plannedEnd": {"time": planned, "action": "Suspend"}} if planned else {}
    session = a_session(status={"startTime": CREATED, **status}, idleTimeout="8m", **end)
    found = announced_end(session, a_template(), START + timedelta(hours=1))
    if expected is None:
        assert found is None
    else:
        minutes, kind = expected
        assert found == AnnouncedEnd(START + timedelta(minutes=minutes), kind)


def test_time_limit_deletes_or_suspends_by_template() -> None:
    over = START + timedelta(hours=1)
    assert find_ending(running(timeout="1h"), SETTINGS, over - timedelta(seconds=1)) is None
    ending = find_ending(running(timeout="1h"), SETTINGS, over)
    assert ending and (ending.reason, ending.suspends) == ("TimedOut", False)
    assert "spec.timeout: 1h" in ending.message
    ending = find_ending(
        running(timeout="8h", template={"maxTimeout": "1h", "onTimeout": "Suspend"}), SETTINGS, over
    )
    assert ending and ending.suspends
    assert "the template's lifecycle.maxTimeout: 1h" in ending.message
    ending = find_ending(running(timeout="8h"), ClusterSettings(max_timeout="1h"), over)
    assert ending and "the cluster's sessions.maxTimeout: 1h" in ending.message


PLAN = {
    "time": "2026-11-20T09:00:00Z",
    "action": "Suspend",
    "message": "Maintenance of node gpu-2.",
}


def test_planned_end_is_announced_until_it_comes() -> None:
    observed, end = running(plannedEnd=PLAN), START + timedelta(hours=1)
    (alert,) = find_alerts(observed, SETTINGS, NOW)
    assert (alert.type, alert.reason, alert.until) == (
        "PlannedEnd",
        "EndPlanned",
        "2026-11-20T09:00:00Z",
    )
    assert "is suspended at 09:00 UTC. Maintenance of node gpu-2." in alert.message
    assert find_notices(observed.session, [alert], NOW)[0].text == alert.message
    assert find_ending(observed, SETTINGS, end - timedelta(seconds=1)) is None
    assert next_requeue(observed, SETTINGS, NOW) == end
    ending = find_ending(observed, SETTINGS, end)
    assert ending and (ending.reason, ending.suspends) == ("EndedAsPlanned", True)
    assert "for 09:00 UTC: Maintenance of node gpu-2; it is suspended." in ending.message
    assert derive(observed, None, SETTINGS, NOW).expires_at == "2026-11-20T09:00:00Z"


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"timeout": "50m"}, "TimedOut"),
        ({"timeout": "70m"}, "EndedAsPlanned"),
        ({"suspended": True}, "EndedAsPlanned"),
        ({"suspended": True, "plannedEnd": None}, None),
    ],
)
def test_earliest_end_that_is_due_wins(spec: dict[str, Any], reason: str | None) -> None:
    late = find_ending(
        running(**({"plannedEnd": PLAN | {"action": "Terminate"}} | spec)),
        SETTINGS,
        START + timedelta(hours=2),
    )
    assert (late.reason if late else None) == reason
    assert reason != "EndedAsPlanned" or (late and not late.suspends)


def test_time_limit_message_says_whether_files_are_kept() -> None:
    over = START + timedelta(hours=1)
    home = a_pod(ready=True, home="home")
    kept = find_ending(replace(running(timeout="1h"), pod=home), SETTINGS, over)
    gone = find_ending(
        replace(running(timeout="1h", persistence={"retain": False}), pod=home), SETTINGS, over
    )
    assert kept and "files in its home are kept" in kept.message
    assert gone and "kept" not in gone.message


def test_idle_desktop_ends_only_after_its_warning_has_been_up() -> None:
    observed = running(idleTimeout="30m")
    over = START + timedelta(minutes=30)
    known = replace(observed, activity=idle_since(START, over))
    assert find_ending(observed, SETTINGS, over) is None, "it cannot be asked"
    assert find_ending(known, SETTINGS, over) is None, "nobody was warned"
    (warning,) = find_alerts(known, SETTINGS, over)
    assert warning.type == IDLE
    warned = replace(
        known, session=a_session(idleTimeout="30m", status=up(IDLE, "2026-11-20T08:25:00Z"))
    )
    ending = find_ending(warned, SETTINGS, over)
    assert ending and (ending.reason, ending.suspends) == ("IdleTooLong", True)
    terminate = replace(warned, template=a_template(lifecycle={"onIdle": "Terminate"}))
    ending = find_ending(terminate, SETTINGS, over)
    assert ending and not ending.suspends


@pytest.mark.parametrize("last_input", ["2026-11-20T08:06:00Z", "2026-11-20T08:05:00.400Z"])
def test_idle_warning_older_than_the_last_input_begins_again(last_input: str) -> None:
    """Someone used the desktop for a moment while the operator was away. Seen: a warning that moved
    on for ever.
    """
    back, over = parse_time("2026-11-20T08:12:00Z"), parse_time("2026-11-20T08:17:00Z")
    stale = running(idleTimeout="10m", status=up(IDLE, "2026-11-20T08:05:00Z"))
    stale = replace(stale, activity=idle_since(parse_time(last_input), back))
    status = derive(stale, None, SETTINGS, back, find_alerts(stale, SETTINGS, back))
    (warning,) = [condition for condition in status.conditions if condition.type == IDLE]
    assert warning.last_transition_time == "2026-11-20T08:12:00Z"
    session = msgspec.structs.replace(stale.session, status=status)
    warned = replace(stale, session=session, activity=idle_since(parse_time(last_input), over))
    assert find_ending(warned, SETTINGS, over - timedelta(seconds=1)) is None
    ending = find_ending(warned, SETTINGS, over)
    assert ending and ending.reason == "IdleTooLong"


def test_end_is_announced_and_says_whether_it_can_be_moved() -> None:
    soon = START + timedelta(minutes=55)
    assert find_alerts(running(timeout="1h"), SETTINGS, soon - timedelta(seconds=1)) == ()
    (alert,) = find_alerts(running(timeout="1h"), SETTINGS, soon)
    assert (alert.type, alert.until) == (EXPIRING, "2026-11-20T09:00:00Z")
    assert (
        alert.message
        == "After 1h this desktop ends at 09:00 UTC; a longer spec.timeout extends it."
    )
    (alert,) = find_alerts(
        running(template={"maxTimeout": "1h", "onTimeout": "Suspend"}), SETTINGS, soon
    )
    assert alert.message == "After 1h this desktop is suspended at 09:00 UTC."


def test_cordon_allows_eviction_after_the_published_notice() -> None:
    cordoned = replace(running(), node=a_node(unschedulable=True))
    (alert,) = find_alerts(cordoned, SETTINGS, NOW)
    assert (alert.type, alert.until) == (DRAINING, "2026-11-20T08:01:05Z")
    assert evictable_at(running(), SETTINGS) is evictable_at(cordoned, SETTINGS) is None
    reported = replace(cordoned, session=a_session(status=up(DRAINING, "2026-11-20T08:00:07Z")))
    assert evictable_at(reported, SETTINGS) == START + timedelta(seconds=67)
    assert evictable_at(replace(reported, node=a_node()), SETTINGS) is None


def test_terminating_desktop_has_no_alerts() -> None:
    cordoned = replace(running(timeout="6s"), node=a_node(unschedulable=True))
    for pod in (None, a_pod(ready=True, deletionTimestamp=CREATED)):
        assert find_alerts(replace(cordoned, pod=pod), SETTINGS, NOW) == ()


def test_notices_follow_the_warnings_and_go_with_them() -> None:
    alerts = find_alerts(running(timeout="1m"), SETTINGS, START + timedelta(seconds=40))
    (notice,) = find_notices(a_session(), alerts, NOW)
    assert (notice.id, notice.title) == (EXPIRING, "The time limit is near")
    assert notice.text == alerts[0].message
    assert find_notices(a_session(status=up(EXPIRING, CREATED)), (), NOW) == [Notice(EXPIRING)]


WAITS = {
    "type": "ResizePending",
    "status": "True",
    "reason": "InUse",
    "lastTransitionTime": CREATED,
}


@pytest.mark.parametrize(
    ("observed_generation", "reason", "texts"),
    [
        (1, "InUse", ["This desktop has 2Gi of memory now."]),
        (0, "InUse", [""]),
        (1, "Infeasible", [""]),
    ],
    ids=["applied", "the spec was edited", "taken back"],
)
def test_size_that_waited_is_announced_when_it_is_applied(
    observed_generation: int, reason: str, texts: list[str]
) -> None:
    status = {"conditions": [WAITS | {"reason": reason}], "observedGeneration": observed_generation}
    notices = find_notices(a_session(status=status, resources={"memory": "2Gi"}), (), NOW)
    assert [notice.text for notice in notices] == texts


KILL = NOW - timedelta(minutes=10)


def out_of_memory(at: datetime) -> dict[str, Any]:
    ended = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": format_time(at)}
    return {"name": "desktop", "restartCount": 1, "ready": True, "lastState": {"terminated": ended}}


def test_desktop_that_was_killed_for_memory_says_so_for_an_hour() -> None:
    killed = replace(running(), pod=a_pod(ready=True, container=out_of_memory(KILL)))
    (alert,) = find_alerts(killed, SETTINGS, NOW)
    assert (alert.type, alert.reason) == ("OutOfMemory", "DesktopKilled")
    assert (
        f"used up its memory at {clock_time(KILL)}: it was stopped and started again"
        in alert.message
    )
    (notice,) = find_notices(a_session(), [alert], NOW)
    assert (notice.id, notice.text) == ("OutOfMemory", alert.message)
    over = KILL + timedelta(hours=1)
    assert next_requeue(killed, SETTINGS, NOW) == over
    assert find_alerts(killed, SETTINGS, over) == ()


def test_program_that_was_killed_is_said_once_an_hour_whatever_the_agent_says() -> None:
    def reported(kill: datetime, *conditions: Condition) -> Observed:
        activity = Activity(last_input=NOW, seen=NOW, memory_kill=kill)
        session = a_session()
        status = msgspec.structs.replace(session.status, conditions=conditions)
        return replace(
            running(), session=msgspec.structs.replace(session, status=status), activity=activity
        )

    (alert,) = find_alerts(reported(KILL), SETTINGS, NOW)
    assert (alert.type, alert.reason) == ("OutOfMemory", "ProgramKilled")
    assert f"used up its memory at {clock_time(KILL)}: a program in it was ended" in alert.message
    assert find_notices(a_session(), [alert], NOW) == [], "the agent has shown it at once"
    state = ConditionState(alert.type, True, alert.reason, alert.message, alert.begins)
    shown = with_times(state, a_session(), NOW)
    for minutes in (1, 30, 59):
        now = NOW + timedelta(minutes=minutes)
        (again,) = find_alerts(reported(now, shown), SETTINGS, now)
        assert (again.message, again.until, again.begins) == (alert.message, alert.until, None)
    without_report = replace(reported(KILL, shown), activity=None)
    assert find_alerts(without_report, SETTINGS, NOW)[0].message == alert.message, (
        "a new operator has no report yet"
    )
    over = NOW + timedelta(hours=1)
    assert find_alerts(reported(KILL, shown), SETTINGS, over) == ()
    (next_one,) = find_alerts(reported(over, shown), SETTINGS, over)
    assert next_one.message != alert.message
    assert next_one.begins == over, "it is another one, for the next hour"


RESTART = "vdi.kasm.io/restartedAt"


@pytest.mark.parametrize(
    ("desired", "made_with", "expected"),
    [("", "", False), ("t1", "", True), ("t1", "t1", False), ("t2", "t1", True), ("", "t1", False)],
)
def test_restart_is_desired_once_per_annotation(
    desired: str, made_with: str, expected: bool
) -> None:
    observed = running()
    observed.session.metadata.annotations = {RESTART: desired} if desired else {}
    pod = a_pod(ready=True, annotations={RESTART: made_with} if made_with else {})
    removal = find_removal(replace(observed, pod=pod), NOW)
    assert (removal is not None) == expected
    if removal:
        assert removal.blocked.reason == "Restarting"
        assert removal.session.status.failures is None, "no failure"
        assert removal.session.status.start_time == CREATED, "the run goes on"


REFUSED: dict[str, Any] = {
    "exitCode": 128,
    "reason": "StartError",
    "message": "failed to set MOUNT_ATTR_IDMAP on /volumes/pvc-1: invalid argument",
}


def test_pod_whose_volume_refuses_its_namespace_goes_at_once_and_is_no_loss() -> None:
    """However often it was tried: the first report is enough, and a later one counts no failure
    either.
    """
    for restarts in (0, 5):
        container = {"restartCount": restarts, "lastState": {"terminated": REFUSED}}
        pod = a_pod(container={"state": {"waiting": {"reason": "CrashLoopBackOff"}}} | container)
        pod.spec.host_users = False
        removal = find_removal(replace(running(), pod=pod, node=None), NOW)
        assert removal and removal.session.status.failures is None
        assert removal.blocked.reason == "NoIdmappedMounts" and not removal.blocked.needs_change


@pytest.mark.parametrize(
    ("phase", "host_users", "able", "goes"),
    [
        ("Pending", False, "", True),
        ("Pending", False, "gvisor", False),
        ("Pending", True, "", False),
        ("Running", False, "", False),
    ],
)
def test_pod_leaves_a_node_that_refuses_its_namespace(
    phase: str, host_users: bool, able: str, goes: bool
) -> None:
    """A node that the operator did not know when it decided. The next pod is decided again."""
    node, pod = a_node(), a_pod(status={"phase": phase})
    node.status.node_info = NodeInfo("v1.36.0", "containerd://2.3.4", "6.8.0")
    node.status.runtime_handlers = (RuntimeHandler("gvisor", {"userNamespaces": True}),)
    pod.spec.host_users, pod.spec.runtime_class_name = host_users, able
    removal = find_removal(replace(running(), node=node, pod=pod), NOW)
    assert (removal is not None) == goes
    if removal:
        assert removal.blocked.message.startswith(
            "Node node-1 has containerd 2.3.4 without user namespaces: "
        )
        assert removal.session.status.failures is None


@pytest.mark.parametrize(
    ("phase", "mounts", "command", "goes"),
    [
        ("Pending", "home", "vdi home import", True),
        ("Running", "home", "vdi home import", False),
        ("Pending", "another", "vdi home import", False),
        ("Pending", "home", "", False),
    ],
)
def test_pending_pod_yields_a_home_that_a_command_fills(
    phase: str, mounts: str, command: str, goes: bool
) -> None:
    home = a_claim()
    home.metadata.annotations = {"vdi.kasm.io/copying": command} if command else {}
    observed = replace(running(), home=home, pod=a_pod(home=mounts, status={"phase": phase}))
    removal = find_removal(observed, NOW)
    assert (removal is not None) == goes
    if removal:
        assert (removal.blocked.reason, removal.session.status.failures) == ("HomeInUse", None)
        assert "is in use by `vdi home import`" in removal.blocked.message


def test_loss_is_counted_before_the_pod_goes_and_only_once() -> None:
    lost = replace(running(), pod=a_pod(status={"phase": "Failed", "reason": "OOM"}))
    removal = find_removal(lost, NOW)
    assert (
        removal and removal.session.status.failures and removal.session.status.failures.count == 1
    )
    again = find_removal(replace(lost, session=removal.session), NOW + timedelta(seconds=1))
    assert again and again.session.status.failures == removal.session.status.failures
    assert find_removal(replace(lost, pod=None), NOW) is None


def test_status_between_two_pods_keeps_the_run() -> None:
    lost = replace(running(), pod=a_pod(status={"phase": "Failed"}))
    removal = find_removal(lost, NOW)
    assert removal
    between = derive(
        replace(lost, session=removal.session, pod=None), removal.blocked, SETTINGS, NOW
    )
    assert (between.phase, between.start_time, between.pod_name) == ("Pending", CREATED, "")
    assert between.expires_at == "2026-11-20T16:00:00Z"
    assert "Admitted" in {
        condition.type for condition in between.conditions if condition.status == "True"
    }


def test_ending_and_suspension_have_a_status_of_their_own() -> None:
    observed = running(timeout="1s", template={"onTimeout": "Suspend"}, status={"url": URL})
    ending = find_ending(observed, SETTINGS, NOW)
    assert ending
    status = derive_ending(observed, ending, SETTINGS, NOW)
    assert (status.phase, status.url, status.start_time, status.pod_name) == (
        "Suspended",
        URL,
        "",
        "",
    )
    session = a_session(suspended=True)
    session.status = status
    later = derive_suspended(replace(observed, session=session, pod=None), SETTINGS, NOW)
    assert later == status, "why it was suspended stays"
    observed = running(timeout="1s")
    ending = find_ending(observed, SETTINGS, NOW)
    assert ending and derive_ending(observed, ending, SETTINGS, NOW).phase == "Terminating"


@pytest.mark.parametrize(
    ("host", "blocked", "url"),
    [("alice-desktop", None, URL), ("", None, ""), ("", host_taken("alice-desktop"), "")],
)
def test_url_is_known_without_a_route_once_host_is_certain(
    host: str, blocked: Blocked | None, url: str
) -> None:
    observed = replace(running(), pod=None, route=None, host=host, host_blocked=blocked)
    assert derive(observed, None, SETTINGS, NOW).url == url
    suspended = derive_suspended(observed, SETTINGS, NOW)
    assert suspended.url == url
    assert "HostTaken" not in {condition.reason for condition in suspended.conditions}


def test_lost_or_leaving_home_is_said_before_a_desktop_is_made() -> None:
    base = replace(running(), pod=None)
    lost = decide(replace(base, home=a_claim("Lost")), SETTINGS, NOW).blocked
    assert lost and lost.needs_change and "kubectl delete pvc home" in lost.message
    terminating = a_claim()
    terminating.metadata.deletion_timestamp = CREATED
    waits = decide(replace(base, home=terminating), SETTINGS, NOW).blocked
    assert waits and (waits.reason, waits.needs_change) == ("HomeLeaving", False)


def test_pod_that_we_have_deleted_is_waited_for() -> None:
    terminating = a_pod(deletionTimestamp=CREATED, home="home")
    base = replace(running(), pod=None, terminating=terminating)
    waits = decide(base, SETTINGS, NOW).blocked
    assert waits and "when node node-1 has stopped the previous one" in waits.message
    stuck = decide(replace(base, node=a_node(ready=False)), SETTINGS, NOW).blocked
    assert stuck and "out-of-service=nodeshutdown:NoExecute" in stuck.message
    assert "'home'" in stuck.message


def test_time_in_the_queue_begins_when_the_queue_is_entered() -> None:
    long_ago = {"type": "Admitted", "status": "False", "lastTransitionTime": "2026-11-01T08:00:00Z"}
    for before, expected in (
        ("Suspended", "2026-11-20T08:00:05Z"),
        ("CPUBusy", "2026-11-01T08:00:00Z"),
    ):
        session = a_session(status={"conditions": [long_ago | {"reason": before}]})
        condition = with_times(
            ConditionState("Admitted", False, "GPUsBusy", "None free."), session, NOW
        )
        assert condition.last_transition_time == expected


offsets = st.integers(min_value=0, max_value=30_000)


@given(
    timeout=st.integers(min_value=1, max_value=20_000),
    cap=st.none() | st.integers(min_value=1, max_value=20_000),
    pod=st.sampled_from(["ready", "pulling", "unscheduled", "none"]),
    failed=st.none() | st.integers(min_value=1, max_value=7),
    drained=st.none() | st.integers(min_value=0, max_value=100),
    now=offsets,
    later=st.floats(min_value=0, max_value=0.999),
)
def test_nothing_happens_between_two_looks(
    timeout: int,
    cap: int | None,
    pod: str,
    failed: int | None,
    drained: int | None,
    now: int,
    later: float,
) -> None:
    """What is decided now is decided until `next_requeue`: so no timer is missing."""
    status: dict[str, Any] = {"startTime": CREATED}
    note = {}
    if failed:
        status["failures"] = {
            "count": failed,
            "reason": "CrashLoop",
            "message": "C.",
            "time": CREATED,
            "generation": 1,
        }
        note = {"vdi.kasm.io/last-failure": CREATED}
    if drained is not None:
        status |= up(DRAINING, (START + timedelta(seconds=drained)).isoformat())
    unscheduled = {"type": "PodScheduled", "status": "False", "lastTransitionTime": CREATED}
    unscheduled |= {"message": "0/1 nodes are available: 1 Insufficient cpu."}
    pods = {
        "ready": a_pod(ready=True, annotations=note),
        "pulling": a_pod(
            annotations=note, container={"state": {"waiting": {"reason": "ErrImagePull"}}}
        ),
        "unscheduled": a_pod(annotations=note, node="", status={"conditions": [unscheduled]}),
        "none": None,
    }
    lifecycle = {"maxTimeout": f"{cap}s"} if cap else {}
    observed = replace(
        running(timeout=f"{timeout}s", status=status, template=lifecycle), pod=pods[pod]
    )
    bound = observed.pod is not None and bool(observed.pod.spec.node_name)
    observed = replace(observed, node=a_node(unschedulable=drained is not None) if bound else None)
    moment = START + timedelta(seconds=now)
    look = next_requeue(observed, SETTINGS, moment)
    end = look or moment + timedelta(days=365)
    assert end > moment
    assert _decided(observed, moment) == _decided(observed, moment + (end - moment) * later)


def _decided(observed: Observed, now: datetime) -> list[object]:
    removal = find_removal(observed, now)
    free_from = evictable_at(observed, SETTINGS)
    verdict = decide(observed, SETTINGS, now)
    status = derive(observed, None, SETTINGS, now)
    return [
        find_ending(observed, SETTINGS, now),
        removal is not None,
        [alert.type for alert in find_alerts(observed, SETTINGS, now)],
        free_from is not None and now >= free_from,
        verdict,
        status.failures,
    ]
