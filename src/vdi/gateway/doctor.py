"""The doctor in the gateway: runs on request for administrators, and the CronJob's last record as
metrics.

A run has the gateway's own permissions; a check that needs more is reported as UNKNOWN.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge

from vdi.cluster.units import parse_time
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
from vdi.snapshot.model import Scope

log = logging.getLogger(__name__)
# Seconds between two reads of the record: the CronJob runs every few minutes.
_RECORD_SECONDS = 30.0
_RUN_SECONDS = 30.0
CHECK_COUNT = len(CHECKS)


class DoctorMetrics(Component):
    """The CronJob's last record as metrics of this replica."""

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
        """Read the record. After an error the metrics stay as they are: their timestamp shows their
        age.
        """
        name, namespace = self._settings.doctor_record, self._settings.gateway_namespace
        said = ""
        try:
            config_map = await self._client.get(CONFIG_MAPS, name, namespace=namespace, into=dict)
            if record := read_record(config_map):
                self._show(record)
        except (KubeError, BadRecordError) as error:
            said = f"ConfigMap {namespace}/{name}: {error}"
        if said and said != self._said:
            log.warning("the doctor's record cannot be read: %s", said)
        self._said = said

    def _show(self, record: Record) -> None:
        # Registered with the first record: without one there are no findings to report, not even 0.
        if self._gauges is None:
            self._gauges = (
                Gauge(
                    "vdi_doctor_findings",
                    "Findings of the last run of vdi doctor, causes only, by code, severity and"
                    " layer.",
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


@dataclass(frozen=True, slots=True)
class Report:
    """Result of one run."""

    at: datetime
    summary: str
    # Each cause comes before the findings that follow from it.
    findings: Sequence[Finding] = ()
    # The reason why no check ran.
    failed: str = ""
    # Number of checks that could not run.
    unknown: int = 0

    @property
    def well(self) -> bool:
        """Whether all checks ran and found nothing."""
        return not self.findings and not self.failed

    @property
    def groups(self) -> list[list[Finding]]:
        """Each cause with the findings that follow from it, directly or by way of others."""
        groups: list[list[Finding]] = []
        for finding in self.findings:
            if finding.caused_by and groups:
                groups[-1].append(finding)
            else:
                groups.append([finding])
        return groups


class DoctorRunner:
    """The last report of this process; one run at a time, since each costs the API server some
    thirty requests.
    """

    def __init__(self, context: GatewayContext) -> None:
        self._context = context
        self.last: Report | None = None
        self._turn = asyncio.Lock()

    async def run(self) -> Report:
        """Run the checks now; a caller who comes while another run is on gets the report of that
        run.
        """
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
        why = (
            f"The API server did not respond to all requests within {_RUN_SECONDS:.0f} s. Run the"
            " checks again."
        )
        return Report(now, "Nothing could be checked.", failed=why)
    except (KubeError, OSError) as error:
        return Report(
            now, "Nothing could be checked.", failed=f"The API server does not respond: {error}"
        )
    # In a thread: checks of thousands of objects take a while, and live pages must not wait for
    # them.
    findings = await asyncio.to_thread(run_checks, snapshot)
    unknown = sum(finding.severity is Severity.UNKNOWN for finding in findings)
    summary = summarize(findings, snapshot)
    snapshot.release()
    return Report(now, summary, findings, unknown=unknown)
