"""No options that are accepted make values that the preflight refuses, on the machine that they are
cut for.
"""

import msgspec
import pytest
from hypothesis import given

from unit.kasm.install_options import good_options, values_of
from unit.kasm.preflight_site import Site, a_node, a_pod, changed, k3s_with_traefik, lines_of
from vdi.findings.model import Severity
from vdi.kasm.generations.c import C
from vdi.kasm.preflight.model import Probe, Resolution
from vdi.kasm.preflight.needs import plan_of_values
from vdi.kasm.values.render import CHART, NODE_4GB, NODE_8GB, Ingress, InstallOptions, Profile

MACHINES = {
    NODE_4GB.name: ("2", "3900Mi"),  # what Linux leaves of 4 GB
    NODE_8GB.name: ("4", "7800Mi"),
    CHART.name: ("64", "256Gi"),
}


def machine(profile: Profile, *, ingress: Ingress, hostname: str) -> Site:
    """K3s on such a machine, as it is after installation: CoreDNS and metrics-server have their
    requests.
    """
    facts = k3s_with_traefik()
    cpu, memory = MACHINES[profile.name]
    system = [
        a_pod("coredns-1", cpu="100m", memory="70Mi"),
        a_pod("metrics-server-1", cpu="100m", memory="70Mi"),
    ]
    facts = changed(
        facts, nodes=[a_node(cpu=cpu, memory=memory)], pods=[*facts.objects["pods"][1:], *system]
    )
    if ingress is Ingress.LOADBALANCER:  # K3s set up with --disable=traefik
        facts = changed(
            facts,
            pods=[facts.objects["pods"][1], *system],
            services=facts.objects["services"][:1],
            daemonsets=[],
            ingressclasses=[],
        )
        facts = msgspec.structs.replace(facts, probes=(Probe("192.0.2.10", 443, "refused"),))
    return msgspec.structs.replace(facts, resolution=Resolution(hostname, ("192.0.2.10",)))


@given(good_options())
def test_rendered_values_pass_the_preflight(given_options: InstallOptions) -> None:
    facts = machine(
        given_options.profile, ingress=given_options.ingress, hostname=given_options.hostname
    )
    planned = plan_of_values(
        given_options.generation,
        given_options.chart_version,
        values_of(given_options),
        "kasm",
        given_options.release,
    )
    assert planned.hostname == given_options.hostname
    assert planned.ingress == given_options.ingress
    refused = [
        (line.code, line.message, line.evidence)
        for line in lines_of(facts, planned)
        if line.severity is Severity.ERROR
    ]
    assert refused == []


@pytest.mark.parametrize("profile", [NODE_4GB, NODE_8GB])
def test_the_chart_s_own_presets_do_not_fit_that_machine(profile: Profile) -> None:
    """So the test above can fail: without the profile the same machine is too small."""
    facts = machine(profile, ingress=Ingress.TRAEFIK, hostname="kasm.example.com")
    values = values_of(InstallOptions(C, "kasm.example.com"))
    lines = lines_of(facts, plan_of_values(C, C.newest, values, "kasm", "kasm"))
    assert [line.code for line in lines if line.severity is Severity.ERROR] == ["room"]
