"""The kinds that checks declare are those that a run reads, and those that checks look at."""

from typing import Any

import msgspec
import pytest
import yaml

from tools.generate import doctor_rules
from unit.doctor.doctor_builders import SPACE, Cluster
from unit.doctor.doctor_findings import ALL, snapshot_of
from unit.doctor.doctor_gateways import with_gateway
from unit.doctor.doctor_server import ApiServer
from unit.doctor.kasm_builders import Kasm
from vdi.cli.kasm import CHECKS as KASM_CHECKS
from vdi.doctor.checks.run import CHECKS, UNPRIVILEGED, run_checks
from vdi.doctor.collect import collect, rights_for
from vdi.kasm.generations import ALL as GENERATIONS
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.snapshot import reader
from vdi.snapshot.check import Check, check
from vdi.snapshot.model import Scope, Snapshot
from vdi.snapshot.objects import KINDS, STRUCTS

# Of a plain run over a cluster without a gateway: 3 CRDs, 28 lists, the certificate of the routes.
_REQUESTS = 32


class Noted:
    """The objects of a snapshot; notes the kinds that are looked at."""

    def __init__(self, objects: Any) -> None:
        self.objects, self.kinds = objects, set[str]()

    def __getattr__(self, plural: str) -> Any:
        self.kinds.add(plural)
        return getattr(self.objects, plural)


def undeclared(one: Check, snapshot: Snapshot) -> set[str]:
    """Kinds that this check looks at, and does not name."""
    noted = Noted(snapshot.objects)
    seen = msgspec.structs.replace(snapshot, objects=noted)
    list(one.run(seen, run_checks(snapshot)) if one.last else one.run(seen))
    return noted.kinds - {kind.partition("@")[0] for kind in one.needs | one.reads}


# A part of all faults: each makes some checks look at more. With nonsense, a check ends early.
@pytest.mark.parametrize("name", sorted(ALL.keys() - {"nonsense_in_an_object"})[::8])
def test_checks_name_all_kinds_that_they_look_at(name: str) -> None:
    wrong = {one.name: kinds for one in CHECKS if (kinds := undeclared(one, snapshot_of(name)))}
    assert wrong == {}


def test_each_kind_has_a_resource_and_a_struct() -> None:
    assert KINDS.keys() == STRUCTS.keys()


async def test_a_plain_run_makes_no_more_requests_than_before() -> None:
    server = ApiServer(Cluster())
    async with server.client() as client:
        snapshot = await collect(client, Scope(SPACE), SYSTEM_CLOCK, CHECKS)
    assert snapshot.unread == ()
    lists = [path for path in server.requests if "/log" not in path]
    assert len(lists) == len({*lists}), "each kind is read once"
    assert len(lists) <= _REQUESTS, lists


async def test_a_run_reads_what_its_checks_name_and_nothing_else() -> None:
    @check("services", reads=["ingresses"])
    def of_services(_: Snapshot) -> list[Any]:
        return []

    server = ApiServer(Cluster())
    async with server.client() as client:
        await collect(client, Scope(SPACE), SYSTEM_CLOCK, [of_services])
    assert server.kinds == {"services", "ingresses"}


async def test_diagnosis_of_kasm_reads_no_sessions() -> None:
    cluster = Cluster()
    Kasm(cluster, GENERATIONS[0])
    server = ApiServer(cluster)
    async with server.client() as client:
        await collect(client, Scope("kasm", kasm=True), SYSTEM_CLOCK, KASM_CHECKS)
    named = {kind.partition("@")[0] for one in KASM_CHECKS for kind in one.needs | one.reads}
    assert server.kinds <= named
    assert "vdisessions" not in server.kinds and "jobs" in server.kinds


async def test_rights_of_the_chart_are_those_of_the_requests() -> None:
    cluster = Cluster()
    with_gateway(cluster)
    Kasm(cluster, GENERATIONS[0])
    server = ApiServer(cluster)
    async with server.client() as client:
        await collect(client, Scope(), SYSTEM_CLOCK, UNPRIVILEGED)
    allowed = {resource for _, _, resource in rights_for(UNPRIVILEGED)}
    # Certificates of routes have rights of their own, by name. No workload here names a ConfigMap.
    assert server.kinds - {"secrets"} == allowed - {"configmaps"}
    text = doctor_rules.FILE.read_text()
    rules = yaml.safe_load("\n".join(line for line in text.splitlines() if "{{" not in line))
    assert {resource for rule in rules for resource in rule["resources"]} == allowed


async def test_a_kind_is_read_in_pages_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_PAGE", 2)
    server = ApiServer(Cluster(5))
    async with server.client() as client:
        whole = await collect(client, Scope(SPACE), SYSTEM_CLOCK, CHECKS)
        monkeypatch.setattr(reader, "_MOST_OBJECTS", 4)
        cut = await collect(client, Scope(SPACE), SYSTEM_CLOCK, CHECKS)
    assert len(whole.objects.vdisessions) == 5 and whole.unread == ()
    assert cut.objects.vdisessions == []
    [words] = [one.words for one in cut.unread if one.kind == "vdisessions"]
    assert "there are more than 4" in words
