import json

from bench.audit import Request, count_requests, read_requests

USER = "system:serviceaccount:vdi-system:vdi-operator"


def a_line(
    audit_id: str,
    verb: str,
    resource: str,
    *,
    subresource: str = "",
    user: str = USER,
    at: str = "00",
) -> str:
    event = {
        "auditID": audit_id,
        "user": {"username": user},
        "verb": verb,
        "requestReceivedTimestamp": f"1970-01-01T00:00:{at}.500000Z",
        "objectRef": {"resource": resource} | ({"subresource": subresource} if subresource else {}),
        "responseStatus": {"code": 200},
    }
    return json.dumps(event) + "\n"


def test_request_has_its_receive_time() -> None:
    [request] = read_requests(
        [a_line("a", "patch", "vdisessions", subresource="status", at="07")], USER
    )
    assert request == Request(7.5, "patch", "vdisessions/status", 200)


def test_watch_counts_once() -> None:
    lines = [a_line("w", "watch", "pods"), a_line("w", "watch", "pods")]
    assert len(read_requests(lines, USER)) == 1


def test_other_users_do_not_count() -> None:
    assert read_requests([a_line("a", "create", "pods", user="admin")], USER) == []


def test_a_half_written_last_line_is_left_out() -> None:
    whole = a_line("a", "create", "pods")
    assert len(read_requests([whole, whole[:30]], USER)) == 1


def test_counts_are_per_session_and_events_are_apart() -> None:
    requests = [
        Request(1, "create", "pods", 201),
        Request(1, "create", "services", 201),
        Request(2, "patch", "vdisessions/status", 409),
        Request(2, "patch", "events", 200),
        Request(2, "list", "pods", 200),
        Request(2, "watch", "pods", 200),
    ]
    counted = count_requests(requests, 0, 3, sessions=2)
    assert counted["writes_per_session"] == 1.5
    assert counted["events_per_session"] == 0.5
    assert counted["reads_per_session"] == 0.5
    assert counted["watches_opened"] == 1
    assert counted["errors"] == 1
    assert counted["errors_by_kind"] == {"patch vdisessions/status 409": 1}


def test_window_is_half_open() -> None:
    requests = [Request(at, "create", "pods", 201) for at in (0.9, 1.0, 1.9, 2.0)]
    assert count_requests(requests, 1, 2, sessions=1)["by_kind"] == {"create pods": 2}
