"""The numbers that the CronJob keeps, and what the gateway shows of them."""

from dataclasses import replace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from unit.doctor.doctor_builders import Cluster
from unit.doctor.doctor_faults import FAULTS
from vdi.cli.main import main
from vdi.doctor.report import KEY, BadRecordError, Record, read_record, record_of, to_patch
from vdi.gateway.doctor import DoctorMetrics
from vdi.gateway.settings import Settings
from vdi.kube.errors import Forbidden
from vdi.kube.transport import Client

AT = "2026-11-20T12:00:00Z"


def record(fault: str = "") -> Record:
    cluster = Cluster(3)
    if fault:
        FAULTS[fault][1](cluster)
    return record_of(cluster.findings(), AT)


def test_causes_are_counted_by_code_and_what_follows_is_not() -> None:
    (only,) = record("operator_scaled_away").counts
    assert (only.code, only.severity, only.layer, only.number) == (
        "operator_down",
        "error",
        "control plane",
        1,
    )


def test_a_record_is_read_as_it_was_kept_and_names_no_one() -> None:
    made = record("encoder_of_selkies_1")
    kept = to_patch(made)
    assert read_record(kept) == made
    assert "alice" not in str(kept)
    assert read_record({"metadata": {}}) is None


@pytest.mark.parametrize("text", ["", "{}", '{"takenAt": "yesterday"}', '{"takenAt": 1}'])
def test_something_else_in_the_config_map_is_refused(text: str) -> None:
    with pytest.raises(BadRecordError, match=r"findings\.json is not a record of vdi doctor"):
        read_record({"data": {KEY: text}})


class OneConfigMap:
    """In the place of the API server's client."""

    def __init__(self) -> None:
        self.holds: dict[str, Any] | Exception = {}

    async def get(self, *_: Any, **__: Any) -> dict[str, Any]:
        if isinstance(self.holds, Exception):
            raise self.holds
        return self.holds


async def test_the_metrics_are_those_of_the_last_record(caplog: pytest.LogCaptureFixture) -> None:
    registry, api = CollectorRegistry(), OneConfigMap()
    settings = replace(Settings(), doctor_record="vdi-doctor")
    diagnosis = DoctorMetrics(settings, cast(Client, api), registry)
    await diagnosis.look()
    assert generate_latest(registry) == b"", (
        "before the first run there is nothing to be said, not even 0"
    )
    api.holds = to_patch(record("operator_scaled_away"))
    await diagnosis.look()
    labels = {"code": "operator_down", "severity": "error", "layer": "control plane"}
    assert registry.get_sample_value("vdi_doctor_findings", labels) == 1
    at = registry.get_sample_value("vdi_doctor_last_run_timestamp_seconds")
    api.holds = Forbidden(403, "Forbidden", "configmaps is forbidden")
    for _ in range(2):
        await diagnosis.look()
    assert registry.get_sample_value("vdi_doctor_last_run_timestamp_seconds") == at, (
        "its age tells that it is old"
    )
    assert sum("cannot be read" in one.message for one in caplog.records) == 1
    api.holds = to_patch(record())
    await diagnosis.look()
    assert registry.get_sample_value("vdi_doctor_findings", labels) is None, "mended"


@pytest.mark.parametrize("where", ["vdi-doctor", "kasm/", "a/b/c"])
def test_where_it_is_kept_needs_namespace_and_name(
    where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--record", where]) == 2
    assert f"--record {where}: allowed: NAMESPACE/NAME" in capsys.readouterr().err
