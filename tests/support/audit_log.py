"""Requests of accounts by the API server's own audit log, beside the rights that RBAC grants
them.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Object = dict[str, Any]
# All objects of a plural, cluster-wide.
Get = Callable[[str], list[Object]]


@dataclass(frozen=True, order=True)
class Request:
    """One verb of one thing. `resource` has its subresource: `pods/status`."""

    namespace: str
    group: str
    resource: str
    verb: str
    name: str
    allowed: bool
    # The API server's own words on which role of whom allowed it.
    by: str = ""

    def __str__(self) -> str:
        refused = "" if self.allowed else " (refused)"
        return f"{self.verb} {self.resource}.{self.group} {self.namespace}/{self.name}{refused}"


@dataclass(frozen=True, order=True)
class Right:
    """One verb that a role grants. `namespace` empty: everywhere; `name` empty: every object."""

    role: str
    namespace: str
    group: str
    resource: str
    verb: str
    name: str

    def covers(self, request: Request) -> bool:
        return (
            (self.group, self.resource, self.verb)
            == (request.group, request.resource, request.verb)
            and self.namespace in ("", request.namespace)
            and self.name in ("", request.name)
        )

    def __str__(self) -> str:
        return f"{self.role}: {self.verb} {self.resource}{'/' + self.name if self.name else ''}"


def requests_of(log: Path, account: str, *, skip: int = 0) -> set[Request]:
    """Requests of `system:serviceaccount:NAMESPACE:NAME` after the first `skip` bytes, without
    discovery.
    """
    with log.open("rb") as lines:
        lines.seek(skip)
        events = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return {
        _request(event)
        for event in events
        if event["user"]["username"] == account and "objectRef" in event
    }


def _request(event: Object) -> Request:
    thing = event["objectRef"]
    resource = thing.get("resource", "") + (
        f"/{thing['subresource']}" if "subresource" in thing else ""
    )
    said = event.get("annotations", {})
    return Request(
        thing.get("namespace", ""),
        thing.get("apiGroup", ""),
        resource,
        event["verb"],
        thing.get("name", ""),
        said.get("authorization.k8s.io/decision") == "allow",
        said.get("authorization.k8s.io/reason", ""),
    )


def rights_of(get: Get, account: str) -> set[Right]:
    """The rights from all roles that are bound to this account itself, not to a group that it is
    in.
    """
    _, _, namespace, name = account.split(":")
    subject = ("ServiceAccount", namespace, name)
    roles = {
        (role["metadata"].get("namespace", ""), role["metadata"]["name"]): role
        for role in _roles(get)
    }
    rights: set[Right] = set()
    for binding in (*get("rolebindings"), *get("clusterrolebindings")):
        subjects = {
            (subject["kind"], subject.get("namespace", ""), subject["name"])
            for subject in binding.get("subjects") or ()
        }
        if subject not in subjects:
            continue
        where, ref = binding["metadata"].get("namespace", ""), binding["roleRef"]
        role = roles[where if ref["kind"] == "Role" else "", ref["name"]]
        rights |= {Right(f"{ref['kind']}/{ref['name']}", where, *rule) for rule in _rules(role)}
    return rights


def _roles(get: Get) -> Iterator[Object]:
    yield from get("roles")
    yield from get("clusterroles")


def _rules(role: Object) -> Iterator[tuple[str, str, str, str]]:
    for rule in role.get("rules") or ():
        for group in rule.get("apiGroups", ()):
            for resource in rule.get("resources", ()):
                for verb in rule["verbs"]:
                    for name in rule.get("resourceNames") or [""]:
                        yield group, resource, verb, name


def not_granted(requests: Iterable[Request], rights: Iterable[Right]) -> list[str]:
    """Requests that were refused, or that no role of the account's own covers."""
    given = list(rights)
    return sorted(
        str(request)
        for request in requests
        if not request.allowed or not any(right.covers(request) for right in given)
    )


def not_used(requests: Iterable[Request], rights: Iterable[Right]) -> list[str]:
    """Rights that no request made use of."""
    asked = list(requests)
    return sorted(str(right) for right in rights if not any(right.covers(one) for one in asked))
