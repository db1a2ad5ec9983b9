"""What the pictures show fits together: a reader adds up what two of them say."""

import re
from collections import Counter
from datetime import timedelta
from itertools import chain

import pytest

from portal import scene
from portal.portal_world import furnish, usage_report
from unit.gateway.portal_stage import PortalStage, text_of
from vdi.gateway.history.usage import Month
from vdi.gateway.portal.admin.tables import limit_rows
from vdi.session.alerts import describe_end
from vdi.session.lifetime import lifecycle_of

SLOTS = sum(scene.GPU_SLOTS.values())
RUNS = [past.run for past in scene.past_desktops()]
RUNNING = [desktop for desktop in scene.DESKTOPS if desktop.has_pod]
WAITING = sorted(
    (desktop for desktop in scene.DESKTOPS if desktop.queue), key=lambda one: one.queue.position if one.queue else 0
)


def furnished() -> PortalStage:
    stage = PortalStage(now=scene.START, limits=scene.LIMITS)
    furnish(stage)
    return stage


async def test_all_gpu_slots_are_in_use_where_sessions_wait_for_one() -> None:
    page = text_of((await furnished().browser(scene.USERS["grace"]).get("/admin")).text)
    slots = [(int(used), int(total)) for used, total in re.findall(r"(\d+) of (\d+)", page)]
    assert slots == [(SLOTS, SLOTS), *((number, number) for number in scene.GPU_SLOTS.values())]
    assert set(re.findall(r"all (\d+) nvidia.com/gpu on nodes ([\w ,-]+) are", page)) == {
        (str(SLOTS), "gpu-node-1, gpu-node-2 and gpu-node-3"),
        ("8", "gpu-node-1 and gpu-node-2"),
    }


def test_each_node_has_the_desktops_that_fit_on_it() -> None:
    used: Counter[str] = Counter()
    for desktop in RUNNING:
        used[desktop.node] += desktop.gpu_count
        assert desktop.node in scene.NODES
        assert (desktop.node in scene.GPU_SLOTS) == (desktop.gpu_count > 0), desktop.name
    assert +used == scene.GPU_SLOTS


def test_only_desktops_with_a_gpu_wait_and_in_the_order_of_their_requests() -> None:
    assert [desktop.queue.position for desktop in WAITING if desktop.queue] == [*range(1, len(WAITING) + 1)]
    assert [desktop.created for desktop in WAITING] == sorted(desktop.created for desktop in WAITING)
    assert all(desktop.gpu_count for desktop in WAITING)


@pytest.mark.parametrize("waiting", WAITING, ids=lambda desktop: desktop.name)
def test_capacity_is_expected_when_enough_desktops_of_one_node_have_ended(waiting: scene.Desktop) -> None:
    assert waiting.queue
    same = [other for other in WAITING if other.template == waiting.template and other.created <= waiting.created]
    free: Counter[str] = Counter()
    places = []
    for ending in sorted((desktop for desktop in RUNNING if desktop.gpu_count), key=lambda desktop: desktop.expires):
        before = free[ending.node] // waiting.gpu_count
        free[ending.node] += ending.gpu_count
        places += [ending.expires] * (free[ending.node] // waiting.gpu_count - before)
    assert abs(places[len(same) - 1] - waiting.queue.earliest) < timedelta(minutes=1)
    assert f"by {waiting.queue.earliest:%H:%M} UTC" in waiting.message


def test_no_one_has_more_than_their_limit_or_a_template_that_they_may_not_use() -> None:
    stage = furnished()
    used = {usage.name: usage for usage in stage.history.report}
    for row in limit_rows(stage.services, used):
        limit = scene.LIMITS.of(scene.USERS[row.user.partition("@")[0]])
        assert row.sessions <= (limit.sessions or 0), row
        assert row.gpus <= (limit.gpus or 0), row
        assert row.hours <= (limit.hours or 0), row
        assert row.gpu_hours <= (limit.gpu_hours or 1000), row
        assert row.home_gib <= (limit.home_gib or 0), row
        assert row.hours > 0 or row.sessions == 0, row
    had = {(desktop.owner.email, desktop.template) for desktop in scene.DESKTOPS}
    had |= {(past.owner.email, past.template) for past in scene.past_desktops()}
    for email, template in had:
        access = scene.TEMPLATES[template].spec.get("access", {"users": [email]})
        groups = scene.USERS[email.partition("@")[0]].groups
        assert email in access["users"] or groups & set(access.get("groups", ())), (email, template)


def test_at_no_time_of_the_past_was_more_in_use_than_there_is_or_a_person_may_have() -> None:
    for run in RUNS:
        assert scene.slots_used(RUNS, run.start) <= SLOTS, run
    for past in scene.past_desktops():
        mine = [other.run for other in scene.past_desktops() if other.owner == past.owner]
        assert scene.slots_used(mine, past.run.start) <= (scene.LIMITS.of(past.owner).gpus or 0), past


def test_who_waited_in_the_past_waited_for_a_gpu_that_was_not_there() -> None:
    waited = [run for run in RUNS if run.queue_seconds]
    assert waited
    for run in waited:
        requested = run.start - timedelta(seconds=run.queue_seconds or 0)
        assert run.gpus and scene.slots_used(RUNS, requested) + run.gpus > SLOTS, run


def test_reports_by_user_and_template_have_the_same_sum() -> None:
    report = usage_report(Month.of(scene.START), scene.START, None)
    by_user, by_template = (sum(row.hours for row in rows) for rows in (report.users, report.templates))
    assert by_user == pytest.approx(by_template, abs=0.1)
    assert by_user > 100
    alice = usage_report(Month.of(scene.START), scene.START, "alice@example.com")
    assert [row for row in report.users if row.name == "alice@example.com"] == list(alice.users)


def test_the_notice_says_what_the_operator_says() -> None:
    session = furnished().world.session(scene.EXPIRING)
    assert session is not None
    end = describe_end(lifecycle_of(furnished().world.template(session.spec.template)).on_timeout)
    at = session.status.expires_at[11:16]
    assert f"After {session.spec.timeout} this desktop {end} at {at} UTC." == scene.EXPIRING_MESSAGE


def test_the_doctor_and_the_audit_speak_of_what_is_there() -> None:
    names = {desktop.name for desktop in scene.DESKTOPS}
    objects = [finding.object for finding in scene.FINDINGS]
    assert {each.rpartition("/")[2] for each in objects if each.startswith("vdisession/")} == {
        desktop.name for desktop in WAITING
    }
    assert scene.DOCTOR_SUMMARY.startswith(f"Checked {len(names)} sessions and {len(scene.NODES)} nodes")
    created = {desktop.name: desktop.created for desktop in scene.DESKTOPS}
    for entry in scene.AUDIT:
        if entry.action == "session.start" and entry.outcome == "done":
            moment = scene.START - timedelta(minutes=entry.minutes_ago)
            assert abs(moment - created[entry.target]) < timedelta(minutes=1), entry
    guests = chain.from_iterable(desktop.guests for desktop in scene.DESKTOPS)
    assert {user for user, *_ in guests} <= {*scene.USERS}
