"""The gateways of a cluster, as their Deployments, pods and logs show them. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.objects.deployments import Deployment, find_deployments

_TROUBLE = re.compile(r"(?:trouble: |waiting for the )(?P<what>[a-z0-9 .-]+): (?P<why>.+)")
_OVER = re.compile(r"no trouble any more: (?P<what>.+)")
_HISTORY = re.compile(r"history(?: is not written\b.*?|: .+? is put off for \d+ s): (?P<why>.+)")
_HISTORY_AGAIN = "history is written again"
_BEGUN = re.compile(r"serving https://")
_END = re.compile(r"VDI_[A-Z_]+: .+|Error: .+|ended by a fault of its own.*")


@dataclass(frozen=True)
class Gateway(Deployment):
    """One Deployment of the gateway."""


@lru_cache(maxsize=2)
def find_gateways(snapshot: Snapshot) -> tuple[Gateway, ...]:
    """Deployments with a gateway's container, found by a variable of ours."""
    found = find_deployments(snapshot, "gateway", "VDI_GATEWAY_NAMESPACE")
    return tuple(
        Gateway("deployment", raw, tuple(environment.get("VDI_NAMESPACE", "").split(","))) for raw, environment in found
    )


def gateways_in_scope(snapshot: Snapshot) -> list[Gateway]:
    """Those for the sessions that were asked about."""
    return [
        gateway
        for gateway in find_gateways(snapshot)
        if snapshot.scope.namespace in ("", *gateway.watches, gateway.namespace)
    ]


def troubles(lines: list[str]) -> Iterator[tuple[str, str]]:
    """What a gateway lacks, and why, as the end of its log says: each once, as it was said last.

    It says so again every minute while it lasts, and that it is over.
    """
    said: dict[str, str] = {}
    for line in lines:
        words = _message_of(line)
        if _BEGUN.search(words):
            said.clear()
        elif over := _OVER.search(words):
            said.pop(over["what"], None)
        elif _HISTORY_AGAIN in words:
            said.pop("history", None)
        elif match := _HISTORY.search(words):
            said["history"] = match["why"]
        elif match := _TROUBLE.search(words):
            said[match["what"]] = match["why"]
    yield from said.items()


def last_words(lines: list[str]) -> str:
    """Why it has ended, as its log says; empty: it does not."""
    return next((match[0] for line in reversed(lines) if (match := _END.search(_message_of(line)))), "")


def _message_of(line: str) -> str:
    """A line's message: it ends with the quotation mark of `msg="..."`, or with that and the rest of a JSON object."""
    return re.sub(r'"(, "error": .*)?\}?$', "", line)
