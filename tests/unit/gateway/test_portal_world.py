"""What the pictures show fits together: a reader adds up what two of them say."""

import re
from collections import Counter

from portal.portal_world import LIMITS, START, furnish
from unit.gateway.portal_stage import ADMIN, PortalStage, text_of
from vdi.gateway.doctor_runs import Report
from vdi.gateway.portal.admin.tables import limit_rows


def furnished() -> PortalStage:
    stage = PortalStage(now=START, limits=LIMITS)
    furnish(stage, crowd=60)
    return stage


async def test_all_gpu_slots_are_in_use_where_sessions_wait_for_one() -> None:
    stage = furnished()
    page = text_of((await stage.browser(ADMIN).get("/admin")).text)
    slots = [(int(used), int(total)) for used, total in re.findall(r"(\d+) of (\d+)", page)]
    assert slots, page
    assert all(used == total for used, total in slots), slots
    said = {int(number) for number in re.findall(r"All (\d+) GPU slots are in use", page)}
    assert said == {max(total for _, total in slots)}


def test_the_queue_has_every_place_once_and_the_first_has_waited_longest() -> None:
    waiting = [session for session in furnished().world.sessions.values() if session.status.queue]
    places = {one.status.queue.position: one.metadata.creation_timestamp for one in waiting if one.status.queue}
    assert sorted(places) == list(range(1, len(waiting) + 1))
    created = [places[place] for place in sorted(places)]
    assert created == sorted(created)


def test_no_one_has_more_than_their_limit() -> None:
    stage = furnished()
    used = {usage.name: usage for usage in stage.history.report}
    for row in limit_rows(stage.services, used):
        assert row.sessions <= (row.limit.sessions or 0), row
        assert row.gpus <= (row.limit.gpus or 0), row
        assert row.hours > 0 or row.sessions == 0, row


def test_the_doctor_counts_what_there_is() -> None:
    stage = furnished()
    report = stage.services.doctor.last
    assert isinstance(report, Report)
    nodes = Counter(node["metadata"]["name"] for node in stage.client.nodes)
    assert report.summary.startswith(f"Checked {len(stage.world.sessions.values())} sessions and {len(nodes)} nodes")
