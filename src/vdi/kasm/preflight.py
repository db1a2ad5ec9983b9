"""Whether a cluster can take a Kasm: facts and a wish in, lines out, in the order in which one mends them. Pure."""

from vdi.findings.model import Finding
from vdi.kasm.preflight_entry import dns_line, entry_lines
from vdi.kasm.preflight_facts import Facts
from vdi.kasm.preflight_nodes import node_lines
from vdi.kasm.preflight_release import find_installed, namespace_line, own_pods, own_services
from vdi.kasm.preflight_room import room_line, storage_lines
from vdi.kasm.preflight_tools import tool_lines
from vdi.kasm.preflight_wish import Wish


def examine(facts: Facts, wish: Wish) -> list[Finding]:
    """Each line, measured."""
    installed = find_installed(facts, wish.namespace)
    pods = own_pods(facts, installed, wish.namespace)
    services = own_services(facts, installed, wish.namespace)
    return [
        *node_lines(facts, wish.needs),
        room_line(facts, wish.needs, pods),
        *storage_lines(facts, wish.needs),
        *entry_lines(facts, wish.ingress, rdp=wish.rdp, own=services),
        dns_line(facts),
        namespace_line(facts, wish.generation, wish.namespace, installed),
        *tool_lines(facts, wish.generation.minimum_helm),
    ]
