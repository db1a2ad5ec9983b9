"""The doctor on request, with the gateway's own rights: what those do not let it read is UNKNOWN, and shown as such."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from vdi.diagnosis.snapshot import Scope
from vdi.doctor.checks.run import CHECKS, run_checks
from vdi.doctor.collect.collector import collect
from vdi.doctor.report.summary import summarize
from vdi.findings.model import Finding, Severity
from vdi.gateway.context import GatewayContext
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.errors import KubeError

_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Group:
    """A finding with what follows from it."""

    cause: Finding
    follows: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What one run has found."""

    at: datetime
    summary: str
    groups: tuple[Group, ...] = ()
    failed: str = ""
    """Why nothing could be looked at."""
    unknown: int = 0
    """Findings that say that something could not be looked at."""

    @property
    def well(self) -> bool:
        """Whether everything was looked at and nothing is wrong."""
        return not self.groups and not self.failed


class DoctorRunner:
    """The last report of this process; one run at a time, since each costs the API server some thirty requests."""

    def __init__(self, context: GatewayContext) -> None:
        self._context = context
        self.last: Report | None = None
        self._turn = asyncio.Lock()

    async def run(self) -> Report:
        """Run the checks now; a caller who comes while another run is on gets the report of that run."""
        if self._turn.locked():
            async with self._turn:
                if self.last is not None:
                    return self.last
        async with self._turn:
            self.last = await _run_checks(self._context)
            return self.last


async def _run_checks(context: GatewayContext) -> Report:
    now = context.clock()
    namespaces = context.settings.namespaces
    scope = Scope(namespaces[0] if len(namespaces) == 1 else "", "")
    try:
        async with asyncio.timeout(_SECONDS):
            snapshot = await collect(context.client, scope, SYSTEM_CLOCK)
    except TimeoutError:
        why = f"The API server did not respond to all requests within {_SECONDS:.0f} s. Run the checks again."
        return Report(now, "Nothing could be checked.", failed=why)
    except (KubeError, OSError) as error:
        return Report(now, "Nothing could be checked.", failed=f"The API server does not respond: {error}")
    # Thousands of objects take a while to judge; live pages are not to wait for that.
    findings = await asyncio.to_thread(run_checks, snapshot)
    unknown = sum(finding.severity is Severity.UNKNOWN for finding in findings)
    return Report(now, summarize(findings, snapshot), group(findings), unknown=unknown)


def group(findings: Sequence[Finding]) -> tuple[Group, ...]:
    """Causes in their order, each with all that follows from it, directly or by way of others."""
    known = {finding.key: finding for finding in findings}

    def root(finding: Finding) -> str:
        seen = set()
        while finding.caused_by in known and finding.key not in seen:
            seen.add(finding.key)
            finding = known[finding.caused_by]
        return finding.key

    by_root: dict[str, list[Finding]] = {}
    for finding in findings:
        by_root.setdefault(root(finding), []).append(finding)
    return tuple(
        Group(known[key], tuple(member for member in members if member.key != key)) for key, members in by_root.items()
    )


CHECK_COUNT = len(CHECKS)
