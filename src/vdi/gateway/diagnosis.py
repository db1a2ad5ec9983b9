"""The record that the doctor's CronJob leaves in a ConfigMap, as metrics. Without such a ConfigMap they are absent."""

import asyncio
import logging

from prometheus_client import CollectorRegistry, Gauge

from vdi.doctor.report.record import BadRecordError, Record, read_record
from vdi.gateway.component import Component
from vdi.gateway.settings import Settings
from vdi.kube.errors import KubeError
from vdi.kube.resource import CONFIG_MAPS
from vdi.kube.transport import Client
from vdi.session.times import parse_time

log = logging.getLogger(__name__)
_EVERY = 30.0
"""Seconds between two looks: the doctor comes every few minutes."""


class Diagnosis(Component):
    """Shows the last record to Prometheus; each replica reads it for itself."""

    def __init__(self, settings: Settings, client: Client, registry: CollectorRegistry) -> None:
        self._settings, self._client = settings, client
        self._registry = registry
        self._gauges: tuple[Gauge, Gauge] | None = None
        self._said = ""

    async def run(self) -> None:
        """See Component."""
        while self._settings.doctor_record:
            await self.look()
            await asyncio.sleep(_EVERY)

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
