"""What an operator asked of the API server, counted from the server's own audit log. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
READS = frozenset({"get", "list"})


@dataclass(frozen=True)
class Request:
    """One request of the operator: when the server received it (Unix seconds), what it was, how it
    ended.
    """

    at: float
    verb: str
    resource: str
    status: int


def read_requests(lines: Iterable[str], user: str) -> list[Request]:
    """The requests of `user`, each once: a watch is logged when it starts and again when it ends.

    The log's last line may be half written; it is left out.
    """
    seen: set[str] = set()
    requests = []
    for line in lines:
        if not line.endswith("\n"):
            continue
        event = json.loads(line)
        if event["user"]["username"] != user or event["auditID"] in seen:
            continue
        seen.add(event["auditID"])
        target = event.get("objectRef") or {}
        resource = "/".join(
            part for part in (target.get("resource"), target.get("subresource")) if part
        )
        requests.append(
            Request(
                at=datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp(),
                verb=event["verb"],
                resource=resource or "-",
                status=(event.get("responseStatus") or {}).get("code", 0),
            )
        )
    return requests


def count_requests(
    requests: Iterable[Request], since: float, until: float, sessions: int
) -> dict[str, Any]:
    """Writes, reads and watches received in `[since, until)`, per session where that says more.

    Writes of Event objects are counted apart: they tell people what happened and hold up no
    session. The Lease, which is renewed whatever happens, is left out.
    """
    by_kind: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for request in requests:
        if not since <= request.at < until or request.resource == "leases":
            continue
        by_kind[f"{request.verb} {request.resource}"] += 1
        if request.status >= 400:
            errors[f"{request.verb} {request.resource} {request.status}"] += 1
        if request.verb in WRITES:
            totals["events" if request.resource == "events" else "writes"] += 1
        elif request.verb in READS:
            totals["reads"] += 1
        elif request.verb == "watch":
            totals["watches"] += 1
    return {
        "writes_per_session": round(totals["writes"] / sessions, 2),
        "events_per_session": round(totals["events"] / sessions, 2),
        "reads_per_session": round(totals["reads"] / sessions, 2),
        "watches_opened": totals["watches"],
        "errors": errors.total(),
        "errors_by_kind": dict(errors.most_common()),
        "by_kind": dict(by_kind.most_common()),
    }
