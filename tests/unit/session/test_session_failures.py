"""Lost desktops: what counts, how often, when again, and when no more."""

import copy
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import CREATED, a_claim, a_pod, a_session, a_template
from vdi.api.session import FailureStatus, VDISession
from vdi.cluster.objects import PersistentVolumeClaim, PersistentVolumeClaimSource, Pod, PodVolume
from vdi.cluster.units import format_time, parse_time
from vdi.session.failures import (
    MOST_RESTARTS,
    SCHEDULER_TIMEOUT,
    STABLE,
    START_TIMEOUT,
    Loss,
    count_loss,
    current_failures,
    find_failure,
    find_failure_block,
    find_loss,
    find_vanished,
    home_bound_at,
    is_given_up,
    reset_failures,
    retry_at,
)
from vdi.session.lifetime import run_annotations

START = parse_time(CREATED)
NOW = START + timedelta(seconds=5)
CRASH = Loss("CrashLoop", "It crashed.")
KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
NO_SECRET = {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "odd"}}}
PULLING = {
    "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
}


def crashed(
    restarts: int, waiting: str = "CrashLoopBackOff", ended: dict[str, Any] = KILLED
) -> Pod:
    return a_pod(
        container={
            "restartCount": restarts,
            "lastState": ended,
            "state": {"waiting": {"reason": waiting}},
        }
    )


def unscheduled(message: str) -> Pod:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "message": message,
        "lastTransitionTime": CREATED,
    }
    return a_pod(node="", status={"conditions": [condition]})


NO_ROOM = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
NO_HOME = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."
SCHEDULED = {
    "conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-20T08:15:00Z"}
    ]
}
CRASHED = {"lastState": {"terminated": {"exitCode": 137, "finishedAt": "2026-11-20T08:20:00Z"}}}
UNKNOWN = {
    "lastState": {
        "terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "finishedAt": None}
    }
}
GATED = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
LOSSES: list[tuple[str, Pod, PersistentVolumeClaim | None, timedelta, str | None]] = [
    ("starting", a_pod(), None, timedelta(hours=1), None),
    ("ready", a_pod(ready=True), None, timedelta(hours=1), None),
    (
        "evicted",
        a_pod(status={"phase": "Failed", "reason": "Evicted"}),
        None,
        timedelta(),
        "Evicted",
    ),
    (
        "refused",
        a_pod(status={"phase": "Failed", "reason": "OutOfcpu"}),
        None,
        timedelta(),
        "NodeRefused",
    ),
    ("ended", a_pod(status={"phase": "Succeeded"}), None, timedelta(), "PodFailed"),
    (
        "ended but said to be ready",
        a_pod(ready=True, status={"phase": "Failed"}),
        None,
        timedelta(),
        "PodFailed",
    ),
    ("out of memory once", crashed(0, "ContainerCreating"), None, timedelta(), None),
    ("out of memory again", crashed(1), None, timedelta(), "OutOfMemory"),
    ("crashed twice", crashed(2, ended=CRASHED["lastState"]), None, timedelta(), None),
    ("crashed thrice", crashed(3, ended=CRASHED["lastState"]), None, timedelta(), "CrashLoop"),
    ("crashed, but trying", crashed(3, "ContainerCreating"), None, timedelta(), None),
    ("no image", a_pod(container=PULLING), None, START_TIMEOUT - timedelta(seconds=1), None),
    ("no image for long", a_pod(container=PULLING), None, START_TIMEOUT, "ImagePull"),
    (
        "no image, after hours without a node",
        a_pod(container=PULLING, status=SCHEDULED),
        None,
        2 * START_TIMEOUT,
        None,
    ),
    ("no image after a crash", a_pod(container=PULLING | CRASHED), None, 2 * START_TIMEOUT, None),
    (
        "no image after an end that no one saw",
        a_pod(container=PULLING | UNKNOWN),
        None,
        START_TIMEOUT,
        "ImagePull",
    ),
    (
        "no image after a crash, for long",
        a_pod(container=PULLING | CRASHED),
        None,
        3 * START_TIMEOUT,
        "ImagePull",
    ),
    ("no Secret", a_pod(container=NO_SECRET), None, START_TIMEOUT - timedelta(seconds=1), None),
    ("no Secret for long", a_pod(container=NO_SECRET), None, START_TIMEOUT, "BadPodConfig"),
    ("no node", unscheduled(NO_ROOM), None, SCHEDULER_TIMEOUT - timedelta(seconds=1), None),
    ("no node for long", unscheduled(NO_ROOM), None, SCHEDULER_TIMEOUT, "NoGPUFree"),
    ("no volume yet", unscheduled(NO_HOME), None, timedelta(hours=1), None),
    ("volume lost", a_pod(home="home"), a_claim("Lost"), timedelta(), "HomeLost"),
    (
        "gated by another controller",
        a_pod(node="", status={"conditions": [GATED]}),
        None,
        timedelta(days=1),
        None,
    ),
    (
        "leaving",
        a_pod(deletionTimestamp=CREATED, status={"phase": "Failed"}),
        None,
        timedelta(),
        None,
    ),
]


@pytest.mark.parametrize(
    ("name", "pod", "home", "after", "reason"), LOSSES, ids=[row[0] for row in LOSSES]
)
def test_what_counts_as_lost(
    name: str, pod: Pod, home: PersistentVolumeClaim | None, after: timedelta, reason: str | None
) -> None:
    loss = find_loss(pod, home, (), START + after)
    assert (loss.reason if loss else None) == reason


def test_last_lines_of_a_lost_pod_stay_in_the_status() -> None:
    message = "".join(f"line {number}\n\n" for number in range(99))
    ended = {"terminated": {"exitCode": 1, "message": message}}
    container = {
        "restartCount": 3,
        "lastState": ended,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    }
    loss = find_loss(a_pod(container=container), None, (), START)
    assert loss is not None
    failures = count_loss(a_session(), loss, NOW)
    assert failures.log.splitlines() == [f"line {number}" for number in range(89, 99)]
    assert count_loss(a_session(), Loss("PodDeleted", "It is gone."), NOW).log == ""


def homely(message: str, *more: str) -> Pod:
    """Not scheduled; mounts the home, and other claims."""
    pod = unscheduled(message)
    pod.spec.volumes = tuple(
        PodVolume(name, PersistentVolumeClaimSource(name)) for name in ("home", *more)
    )
    return pod


def test_pod_forgotten_when_its_home_was_bound_is_lost() -> None:
    """Seen in the chaos suite: bound in the moment in which the scheduler looked. It would come
    back after 5 min.
    """
    condition = {
        "type": "HomeBound",
        "status": "True",
        "reason": "Bound",
        "lastTransitionTime": "2026-11-20T08:01:00Z",
    }
    bound_at = home_bound_at(a_session(status={"conditions": [condition]}))
    assert bound_at == parse_time("2026-11-20T08:01:00Z") > START
    pod, home = homely(NO_HOME), a_claim()

    assert (
        find_loss(
            pod, home, (), bound_at + SCHEDULER_TIMEOUT - timedelta(seconds=1), bound_at=bound_at
        )
        is None
    )
    loss = find_loss(pod, home, (), bound_at + SCHEDULER_TIMEOUT, bound_at=bound_at)

    assert loss is not None
    assert loss.message == "The home volume is bound; the scheduler has not retried yet."
    counted = losing(a_session(), loss)
    assert counted.status.failures is not None
    assert pause(counted.status.failures) == timedelta(), "the desktop has no part in it"


@pytest.mark.parametrize(
    ("pod", "home", "bound_at"),
    [
        (homely(NO_HOME), a_claim("Pending"), START),
        (homely(NO_HOME), a_claim(), None),
        (homely(NO_HOME, "shared-files"), a_claim(), START),
    ],
    ids=[
        "not bound yet",
        "the status does not say so yet",
        "another volume of the template is not bound",
    ],
)
def test_a_pod_that_waits_for_a_volume_is_not_lost(
    pod: Pod, home: PersistentVolumeClaim, bound_at: datetime | None
) -> None:
    assert find_loss(pod, home, (), START + timedelta(hours=1), bound_at=bound_at) is None


def pause(failures: FailureStatus) -> timedelta:
    return retry_at(failures) - parse_time(failures.time)


def losing(session: VDISession, loss: Loss = CRASH, seconds: int = 0) -> VDISession:
    session = copy.deepcopy(session)
    session.status.failures = count_loss(session, loss, NOW + timedelta(seconds=seconds))
    return session


def test_vanished_pod_is_explained_by_its_last_reason() -> None:
    assert find_vanished(a_session()) is None
    loss = find_vanished(a_session(status={"podName": "a"}))
    assert loss and loss.reason == "PodDeleted"
    for reason, expected in (
        ("Evicted", "Evicted"),
        ("NodeLost", "NodeLost"),
        ("Starting", "PodDeleted"),
    ):
        last = {"type": "PodReady", "status": "False", "reason": reason, "message": "Last words."}
        loss = find_vanished(a_session(status={"podName": "a", "conditions": [last]}))
        assert loss and loss.reason == expected


def test_only_the_pod_of_a_counted_loss_is_given_up() -> None:
    session, pod = a_session(), a_pod()
    assert not is_given_up(session, pod)
    lost = losing(session)
    assert is_given_up(lost, pod)
    assert not is_given_up(lost, a_pod(annotations=run_annotations(lost, None)))


def test_first_loss_that_is_nobodys_fault_costs_no_pause() -> None:
    for reason in ("PodDeleted", "NodeLost", "Evicted"):
        first = losing(a_session(), Loss(reason, "Gone."))
        assert find_failure_block(first, a_template(), NOW) is None
        assert find_failure_block(losing(first, Loss(reason, "Gone.")), a_template(), NOW)


def test_pause_is_reported_and_ends() -> None:
    lost = losing(a_session())
    problem = find_failure_block(lost, a_template(), NOW)
    assert problem and not problem.needs_change
    assert problem.message == "It crashed. It is restarted at 08:00:15 UTC (failure 1 in a row)."
    assert find_failure_block(lost, a_template(), NOW + timedelta(seconds=10)) is None


def test_last_loss_says_what_a_person_can_do() -> None:
    session = a_session()
    for _ in range(MOST_RESTARTS + 1):
        session = losing(session)
    problem = find_failure_block(session, a_template(), NOW + timedelta(days=1))
    assert problem and problem.needs_change
    assert "restarted 5 times without success" in problem.message
    assert problem.message.endswith("vdi session restart alice-desktop")


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(Loss("Evicted", "Evicted."), timedelta()), (CRASH, timedelta(seconds=10))],
)
def test_lack_of_capacity_does_not_count_towards_giving_up(loss: Loss, expected: timedelta) -> None:
    session = a_session()
    for _ in range(MOST_RESTARTS + 1):
        session = losing(session, Loss("NoGPUFree", "No room."))
    assert find_failure_block(session, a_template(), NOW + timedelta(minutes=5)) is None, (
        "and is never given up"
    )
    failures = losing(session, loss).status.failures
    assert failures is not None
    assert (failures.count, pause(failures)) == (1, expected)


@pytest.mark.parametrize(
    ("generation", "created", "hopeless"),
    [
        (1, "2026-11-20T08:00:05Z", True),
        (2, "2026-11-20T08:00:05Z", False),
        (1, "2026-11-20T08:00:06Z", False),
    ],
    ids=["the same", "changed", "recreated"],
)
def test_image_is_given_up_until_the_template_changes(
    generation: int, created: str, hopeless: bool
) -> None:
    lost = losing(
        a_session(status={"templateRevision": "1"}), Loss("ImageNotFound", "No such image.")
    )
    template = a_template(generation=generation)
    template.metadata.creation_timestamp = created
    problem = find_failure_block(lost, template, NOW + timedelta(hours=1))
    assert bool(problem and problem.needs_change) == (problem is not None) == hopeless


@pytest.mark.parametrize(
    ("generation", "restarted"), [(2, ""), (1, "2026-11-20T09:00:00Z")], ids=["spec", "restart"]
)
def test_somebody_who_changes_something_begins_a_new_count(generation: int, restarted: str) -> None:
    session = a_session()
    for _ in range(MOST_RESTARTS + 1):
        session = losing(session)
    session.metadata.generation = generation
    session.metadata.annotations = {"vdi.kasm.io/restartedAt": restarted} if restarted else {}
    assert find_failure_block(session, a_template(), NOW) is None
    again = count_loss(session, CRASH, NOW)
    assert (again.count, again.generation, again.restarted_at) == (1, generation, restarted)
    forgiven = reset_failures(session, None, NOW)
    assert forgiven and forgiven.count == 0


def test_stable_desktop_resets_the_count() -> None:
    lost = losing(a_session())
    ready_since = parse_time("2026-11-20T08:00:03Z")
    for pod, after, count in (
        (a_pod(ready=True), STABLE - timedelta(seconds=1), 1),
        (a_pod(ready=True), STABLE, 0),
        (a_pod(), STABLE, 1),
        (None, STABLE, 1),
    ):
        forgiven = reset_failures(lost, pod, ready_since + after)
        assert forgiven and lost.status.failures
        assert (forgiven.count, forgiven.time) == (
            count,
            lost.status.failures.time,
        ), "its time still marks its pods"


reasons = st.sampled_from(
    ["CrashLoop", "OutOfMemory", "PodFailed", "NodeRefused", "PodDeleted", "NodeLost", "Evicted"]
)


@given(st.lists(reasons, min_size=1, max_size=12))
def test_pauses_grow_to_five_minutes_and_restarts_end(several: list[str]) -> None:
    """Whatever happens: without a person, no more than MOST_RESTARTS restarts, and each later than
    the one before.
    """
    session, now, restarts, pauses = a_session(), NOW, 0, [timedelta()]
    for reason in several:
        session.status.failures = failures = count_loss(session, Loss(reason, "Lost."), now)
        problem = find_failure_block(session, a_template(), now)
        if problem and problem.needs_change:
            assert restarts == MOST_RESTARTS
            return
        pauses.append(pause(failures))
        assert pauses[-2] <= pauses[-1] <= timedelta(minutes=5)
        now = retry_at(failures)
        assert find_failure_block(session, a_template(), now) is None
        restarts += 1
    assert restarts <= MOST_RESTARTS


@given(st.lists(st.sampled_from(["loss", "edit", "restart", "prove"]), max_size=20))
def test_count_is_that_of_losses_since_the_last_good_news(events: list[str]) -> None:
    session, expected = a_session(), 0
    for stamp, event in enumerate(events, 1):
        if event == "loss":
            session = losing(session, seconds=stamp)
        elif event == "prove":
            session.status.failures = reset_failures(session, a_pod(ready=True), NOW + STABLE)
        elif event == "edit":
            session.metadata.generation += 1
        else:
            session.metadata.annotations = {
                "vdi.kasm.io/restartedAt": format_time(NOW + timedelta(seconds=stamp))
            }
        expected = expected + 1 if event == "loss" else 0
        known: FailureStatus | None = current_failures(session)
        assert (known.count if known else 0) == expected


# ---- what people are told

IN_RUN = {"readyTime": "2026-11-20T08:01:00Z"}
IN_LINE = {"queue": {"reason": "TooLarge"}}
AUTOSCALED = {"queue": {"reason": "TooLarge", "nodeRequestTime": CREATED}}
TOLD: list[tuple[str, str, str, dict[str, Any], str | None]] = [
    # phase, condition that is False, reason, more of the status, title of the failure
    ("Creating", "PodReady", "NotResponding", IN_RUN, "Not responding"),
    ("Creating", "PodReady", "NodeLost", IN_RUN, "Not responding"),
    ("Creating", "PodReady", "Starting", {}, None),
    ("Creating", "PodReady", "Preparing", {}, None),
    ("Creating", "PodReady", "ImageNotFound", {}, "Cannot start"),
    ("Creating", "PodReady", "RegistryUnreachable", {}, "Cannot start"),
    ("Pending", "PodReady", "ImageNotFound", {}, "Cannot start"),
    ("Creating", "PodReady", "CrashLoop", {}, "Cannot start"),
    ("Creating", "PodReady", "CrashLoop", IN_RUN, None),
    ("Failed", "PodReady", "CrashLoop", IN_RUN, "Cannot start"),
    ("Failed", "PodReady", "Evicted", IN_RUN, "Cannot start"),
    ("Failed", "PodReady", "NodeLost", IN_RUN, "Not responding"),
    ("Pending", "TemplateFound", "TemplateNotFound", {}, "Cannot start"),
    ("Pending", "Admitted", "QuotaExceeded", {}, "Cannot start"),
    ("Pending", "HomeBound", "QuotaExceeded", {}, "Cannot start"),
    ("Pending", "Admitted", "HomeInUse", {}, None),
    ("Pending", "Admitted", "GPUsBusy", {"queue": {"position": 1, "reason": "GPUsBusy"}}, None),
    ("Pending", "Admitted", "NodesUnavailable", {"queue": {"reason": "NodesUnavailable"}}, None),
    ("Pending", "Admitted", "TooLarge", IN_LINE, "Cannot start"),
    ("Pending", "Admitted", "TooLarge", AUTOSCALED, None),
    ("Running", "PodReady", "NotResponding", IN_RUN, None),
    ("Terminating", "PodReady", "ImageNotFound", {}, None),
    ("Suspended", "Admitted", "TemplateNotFound", {}, None),
    ("Failed", "", "", {}, "Cannot start"),
    ("Unheard", "PodReady", "ImageNotFound", {}, None),
]


def told_of(phase: str, kind: str, reason: str, more: dict[str, Any], **spec: Any) -> VDISession:
    condition = {
        "type": kind,
        "status": "False",
        "reason": reason,
        "message": "Why.",
        "lastTransitionTime": CREATED,
    }
    conditions = [condition] if kind else []
    return a_session(
        status={"phase": phase, "message": "Why.", "conditions": conditions, **more}, **spec
    )


@pytest.mark.parametrize(("phase", "kind", "reason", "more", "title"), TOLD)
def test_people_are_told_of_a_failure(
    phase: str, kind: str, reason: str, more: dict[str, Any], title: str | None
) -> None:
    failure = find_failure(told_of(phase, kind, reason, more))
    assert (failure.title if failure else None) == title
    assert find_failure(told_of(phase, kind, reason, more, suspended=True)) is None


def test_a_failure_has_the_details_for_the_administrator() -> None:
    failure = find_failure(told_of("Creating", "PodReady", "ImageNotFound", {}))
    assert failure is not None
    assert (failure.what, failure.since) == ("Its image cannot be loaded.", CREATED)
    assert failure.details.splitlines() == [
        "Desktop alice-desktop of alice@example.com, template ubuntu-desktop",
        f"Cannot start since {CREATED}: ImageNotFound",
        "Why.",
    ]


@pytest.mark.parametrize(
    ("phase", "reason", "advice"),
    [
        ("Creating", "NotResponding", "Restart it: unsaved work is lost."),
        ("Failed", "ImageNotFound", "It starts by itself when the cause is fixed."),
        ("Failed", "CrashLoop", "When the cause is fixed, restart it."),
        ("Pending", "NodeLost", "It moves to another machine when that is safe."),
    ],
)
def test_a_failure_says_what_its_user_can_do(phase: str, reason: str, advice: str) -> None:
    failure = find_failure(told_of(phase, "PodReady", reason, {}))
    assert failure is not None
    assert advice in failure.advice
