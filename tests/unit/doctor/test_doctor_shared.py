"""What desktops share: the memory of a GPU, and whom the TURN server relays to."""

import base64
import ipaddress
from typing import Any, cast

import pytest

from unit.doctor.doctor_builders import Cluster, Object, deployment
from vdi.doctor.probe.run import is_allowed, judge_memory, probe_peers
from vdi.gpu.sharing.dcgm import Gpu, GpuMeasurements
from vdi.kube.transport import Client

CONFIG = """\
realm=turn.example.com
# allowed-peer-ip=192.168.0.0-192.168.255.255
allowed-peer-ip=10.42.0.0-10.42.255.255
allowed-peer-ip=fd00:42::-fd00:42::ffff
allowed-peer-ip=192.0.2.7
denied-peer-ip=0.0.0.0-255.255.255.255
"""


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.42.3.7", True),
        ("10.43.0.1", False),
        ("192.168.1.1", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("fd00:42::9", True),
        ("fd00:43::9", False),
    ],
)
def test_whom_a_configuration_lets_be_relayed_to(address: str, allowed: bool) -> None:
    assert is_allowed(CONFIG, ipaddress.ip_address(address)) is allowed


class Api:
    """In the place of the API server's client."""

    def __init__(self, address: str) -> None:
        config = base64.b64encode(CONFIG.encode()).decode()
        self.objects: dict[str, Object] = {
            "turn-config": {"data": {"turnserver.conf": config}},
            "alice-0": {"status": {"podIPs": [{"ip": address}]}},
        }

    async def get(self, _kind: object, name: str, **_: Any) -> Object:
        return self.objects[name]


@pytest.mark.parametrize(("address", "denied"), [("10.42.3.7", False), ("10.244.0.9", True)])
async def test_desktops_outside_the_turn_ranges_are_reported(address: str, denied: bool) -> None:
    cluster = Cluster()
    volumes = [{"name": "config", "secret": {"secretName": "turn-config"}}]
    server = deployment(
        "coturn", "kasm", {}, {"containers": [{"name": "coturn"}], "volumes": volumes}
    )
    server["metadata"]["labels"] = {"app.kubernetes.io/name": "coturn"}
    cluster.objects["deployments"].append(server)
    pods = {"vdisession/vdi-sessions/alice-0": ("vdi-sessions", "alice-0")}
    found = await probe_peers(cast(Client, Api(address)), cluster.snapshot(), pods)
    assert [one.code for one in found] == (["turn_peers_denied"] if denied else [])
    if denied:
        assert address in found[0].message
        assert "allowed-peer-ip=10.42.0.0-10.42.255.255" in found[0].evidence


def test_a_gpu_with_full_memory_is_reported() -> None:
    gpus = (
        Gpu("0", "NVIDIA L40S", 0.5, 46_000, 46_068),
        Gpu("1", "NVIDIA L40S", 0.5, 20_000, 46_068),
        Gpu("2", "NVIDIA L40S", None, None, None),
    )
    (finding,) = judge_memory(
        GpuMeasurements(nodes={"node-1": gpus}, problems={"node-2": "no exporter"})
    )
    assert (finding.code, finding.object) == ("gpu_memory_full", "node/node-1")
    assert "46000 of 46068 MiB" in finding.message
