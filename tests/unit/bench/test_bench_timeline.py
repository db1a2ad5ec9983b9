import json
from pathlib import Path
from typing import Any

import pytest

from bench.timeline import Timeline, sighting


def a_line(*, phase: str | None = None, owner: str | None = None, name: str = "p") -> bytes:
    metadata: dict[str, Any] = {"name": name, "resourceVersion": "41"}
    if owner:
        metadata["ownerReferences"] = [
            {"kind": "Other", "name": "x"},
            {"kind": "VDISession", "name": owner},
        ]
    return json.dumps(
        {"type": "ADDED", "object": {"metadata": metadata, "status": {"phase": phase}}}
    ).encode()


def test_a_pod_counts_for_the_session_that_owns_it() -> None:
    assert sighting("pod", a_line(owner="s1", phase="Running"), 1.5) == (
        ("pod", "ADDED", "s1", "Running", 1.5),
        "41",
    )


def test_an_object_without_an_owner_counts_for_its_own_name() -> None:
    assert sighting("session", a_line(name="s1"), 1.5)[0] == ("session", "ADDED", "s1", None, 1.5)


def test_a_watch_that_the_server_gave_up_starts_again() -> None:
    line = json.dumps(
        {"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "code": 410}}
    ).encode()
    assert sighting("pod", line, 1.5) == (("pod", "ERROR", "", None, 1.5), "0")


@pytest.fixture
def timeline() -> Timeline:
    return Timeline("https://127.0.0.1:1", Path("ca.crt"), "token")


def test_only_the_first_sighting_counts(timeline: Timeline) -> None:
    for seen in (
        ("pod", "ADDED", "s1", "Pending", 1.0),
        ("pod", "MODIFIED", "s1", "Running", 2.0),
        ("pod", "MODIFIED", "s1", "Running", 3.0),
        ("session", "MODIFIED", "s1", "Running", 4.0),
        ("pod", "DELETED", "s1", "Running", 5.0),
        ("session", "DELETED", "s1", "Running", 6.0),
    ):
        timeline.record(seen)
    assert timeline.pod_added == {"s1": 1.0}
    assert timeline.pod_running == {"s1": 2.0}
    assert timeline.session_running == {"s1": 4.0}
    assert timeline.pod_gone == {"s1": 5.0}
    assert timeline.session_gone == {"s1": 6.0}
