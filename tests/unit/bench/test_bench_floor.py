from datetime import UTC, datetime
from typing import Any

import msgspec

from bench import objects
from bench.floor import children_of, event_of, status_of
from vdi.api.session import SessionStatus


def a_session(name: str = "s1") -> dict[str, Any]:
    session = objects.session(name)
    session["metadata"] |= {"uid": "u-1", "resourceVersion": "5"}
    return session


def test_the_floor_writes_the_children_that_the_operator_writes_the_pod_first() -> None:
    children = children_of(a_session())
    kinds = [child["kind"] for child in children.values()]
    assert kinds == ["Pod", "Secret", "PersistentVolumeClaim", "Service", "IngressRoute"]
    assert all(path.endswith(("pods", "secrets", "claims", "services", "routes")) for path in children)


def test_children_belong_to_the_session() -> None:
    owners = children_of(a_session())[objects.PODS]["metadata"]["ownerReferences"]
    assert [(owner["kind"], owner["name"], owner["uid"]) for owner in owners] == [("VDISession", "s1", "u-1")]


def test_every_session_has_a_home_of_its_own() -> None:
    homes = {children_of(a_session(name))[objects.CLAIMS]["metadata"]["name"] for name in ("s1", "s2")}
    assert len(homes) == 2


def test_the_status_has_every_field_that_the_operator_writes_when_all_is_well() -> None:
    running = status_of("s1", now="2026-01-01T00:00:00Z")
    status = msgspec.convert(running, SessionStatus)
    only_sometimes = {"message", "queue", "failures", "lastActivityTime", "graphics", "nextStart"}
    assert set(running) == set(SessionStatus.__struct_encode_fields__) - only_sometimes
    assert [condition.status for condition in status.conditions] == ["True"] * 6


def test_the_event_regards_the_session() -> None:
    event = event_of("s1", "u-1", datetime(2026, 1, 1, tzinfo=UTC))
    assert event["regarding"]["uid"] == "u-1"
    assert event["eventTime"] == "2026-01-01T00:00:00.000000Z"
