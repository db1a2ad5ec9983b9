"""The doctor in the gateway: runs on request for administrators, and the CronJob's last record as metrics.

A run has the gateway's own permissions; a check that needs more is reported as UNKNOWN.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge

from vdi.cluster.units import parse_time
from vdi.diagnosis.snapshot import Scope
from vdi.doctor.checks.run import CHECKS, run_checks
from vdi.doctor.collect import collect
from vdi.doctor.report import BadRecordError, Record, read_record, summarize
from vdi.findings.model import Finding, Severity
from vdi.gateway.component import Component, GatewayContext
from vdi.gateway.settings import Settings
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.errors import KubeError
from vdi.kube.resource import CONFIG_MAPS
from vdi.kube.transport import Client

log = logging.getLogger(__name__)
# Seconds between two looks: the doctor comes every few minutes.
_RECORD_SECONDS = 30.0


class DoctorMetrics(Component):
    """Shows the last record to Prometheus; each replica reads it for itself."""

    def __init__(self, settings: Settings, client: Client, registry: CollectorRegistry) -> None:
        self._settings, self._client = settings, client
        self._registry = registry
        self._gauges: tuple[Gauge, Gauge] | None = None
        self._said = ""

    async def run(self) -> None:
        while self._settings.doctor_record:
            await self.look()
            await asyncio.sleep(_RECORD_SECONDS)

    async def look(self) -> None:
        """Read the record. What cannot be read leaves the metrics as they are: their age tells."""
        name, namespace = self._settings.doctor_record, self._settings.gateway_namespace
        said = ""
        try:
            found = await self._client.get(CONFIG_MAPS, name, namespace=namespace, into=dict)
            if record := read_record(found):
                self._show(record)
        except (KubeError, BadRecordError) as error:
            said = f"ConfigMap {namespace}/{name}: {error}"
        if said and said != self._said:
            log.warning("the doctor's record cannot be read: %s", said)
        self._said = said

    def _show(self, record: Record) -> None:
        if self._gauges is None:  # before the first record there is nothing that could be said, not even 0
            self._gauges = (
                Gauge(
                    "vdi_doctor_findings",
                    "Findings of the last run of vdi doctor, causes only, by code, severity and layer.",
                    ["code", "severity", "layer"],
                    registry=self._registry,
                ),
                Gauge(
                    "vdi_doctor_last_run_timestamp_seconds",
                    "When vdi doctor last ran, in seconds since 1970.",
                    registry=self._registry,
                ),
            )
        findings, last_run = self._gauges
        findings.clear()
        for count in record.counts:
            findings.labels(count.code, count.severity.value, count.layer).set(count.number)
        last_run.set(parse_time(record.taken_at).timestamp())


_RUN_SECONDS = 30.0


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
    # Why nothing could be looked at.
    failed: str = ""
    # Findings that say that something could not be looked at.
    unknown: int = 0

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
        async with asyncio.timeout(_RUN_SECONDS):
            snapshot = await collect(context.client, scope, SYSTEM_CLOCK)
    except TimeoutError:
        why = f"The API server did not respond to all requests within {_RUN_SECONDS:.0f} s. Run the checks again."
        return Report(now, "Nothing could be checked.", failed=why)
    except (KubeError, OSError) as error:
        return Report(now, "Nothing could be checked.", failed=f"The API server does not respond: {error}")
    # Thousands of objects take a while to judge; live pages are not to wait for that.
    findings = await asyncio.to_thread(run_checks, snapshot)
    unknown = sum(finding.severity is Severity.UNKNOWN for finding in findings)
    return Report(now, summarize(findings, snapshot), group_findings(findings), unknown=unknown)


def group_findings(findings: Sequence[Finding]) -> tuple[Group, ...]:
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
