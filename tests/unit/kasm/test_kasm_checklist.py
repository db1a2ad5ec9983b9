"""Items of the checklists: what they need is read, and what cannot be read is said."""

import pytest

from unit.doctor.doctor_builders import Cluster
from unit.doctor.doctor_server import ApiServer
from unit.kasm.preflight_site import DENIED, a_plan, changed, k3s_with_traefik, lines_of, without
from unit.kasm.validate_site import a_kasm, an_installation
from vdi.findings.model import Severity
from vdi.kasm.collect import collect_preflight
from vdi.kasm.preflight import checks
from vdi.kasm.validate import NEEDS, Validation
from vdi.kasm.validate import checklist as validation
from vdi.kasm.values.render import Ingress


@pytest.mark.parametrize("ingress", Ingress)
async def test_preflight_reads_what_its_items_need(ingress: Ingress) -> None:
    cluster = Cluster()
    server = ApiServer(cluster)
    planned = a_plan(ingress=ingress)
    async with server.client() as client:
        preflight = await collect_preflight(client, planned)
    needs = {plural for item in checks.checklist(preflight) for plural in item.needs}
    assert server.kinds == needs
    assert preflight.snapshot.unread == ()


@pytest.mark.parametrize("letter", ["A", "B", "C"])
def test_validation_reads_what_its_items_need(letter: str) -> None:
    kasm = an_installation(a_kasm(letter))
    assert kasm.installed
    items = validation(Validation(kasm), kasm.installed)
    assert {plural for item in items for plural in item.needs} - {"secrets"} == NEEDS


def test_every_item_about_unreadable_nodes_names_the_missing_right() -> None:
    findings = lines_of(without(k3s_with_traefik(), "nodes"))
    unknown = {one.code: one for one in findings if one.severity is Severity.UNKNOWN}
    assert {"kubernetes", "nodes", "cpu", "memory", "disk", "room", "port-443"} <= unknown.keys()
    assert {one.message for one in unknown.values()} == {DENIED.words}
    assert {one.remedy for one in unknown.values()} == {DENIED.remedy}


def test_a_token_in_k3s_arguments_is_not_kept() -> None:
    node = k3s_with_traefik().objects["nodes"][0]
    node["metadata"]["annotations"]["k3s.io/node-args"] = (
        '["server", "--token", "hidden", "--disable", "traefik,servicelb", "--disable=metrics"]'
    )
    snapshot = changed(k3s_with_traefik(), nodes=[node]).preflight(a_plan()).snapshot
    assert snapshot.objects.nodes[0].metadata.disabled == ("traefik", "servicelb", "metrics")
    assert "hidden" not in repr(snapshot.objects.nodes[0])
