"""Whether a cluster can take a Kasm: facts and a planned release in, findings out, in the order of repair. Pure."""

from vdi.findings.model import Finding
from vdi.kasm.preflight.capacity import room_line, storage_lines
from vdi.kasm.preflight.entry import dns_line, entry_lines
from vdi.kasm.preflight.facts import Facts
from vdi.kasm.preflight.installed import find_installed, namespace_line, own_pods, own_services, secret_lines
from vdi.kasm.preflight.nodes import node_lines
from vdi.kasm.preflight.request import PlannedRelease
from vdi.kasm.preflight.tools import tool_lines


def run_checks(facts: Facts, planned: PlannedRelease) -> list[Finding]:
    """Each line, measured."""
    installed = find_installed(facts, planned.namespace)
    pods = own_pods(facts, installed, planned.namespace)
    services = own_services(facts, installed, planned.namespace)
    return [
        *node_lines(facts, planned.needs),
        room_line(facts, planned.needs, pods),
        *storage_lines(facts, planned.needs),
        *entry_lines(facts, planned.ingress, rdp=planned.rdp, own=services),
        dns_line(facts),
        namespace_line(facts, planned.generation, planned.namespace, installed),
        *secret_lines(facts, planned, installed),
        *tool_lines(facts, planned.generation.minimum_helm),
    ]
