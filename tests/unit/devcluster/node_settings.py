"""What a full node's cluster was made with, and on which machine, for tests that need one on
paper.
"""

from msgspec.structs import replace

from vdi.devcluster.layout import ClusterSettings
from vdi.devcluster.machine import Machine
from vdi.devcluster.networks import choose_networks

FULL_NODE = ClusterSettings(
    name="demo",
    control_plane_only=False,
    fake_gpus=0,
    api_host="10.213.32.2",
    api_port=6443,
    etcd_port=2379,
    etcd_peer_port=2380,
    websecure_port=8443,
    networks=choose_networks([]),
)

THREE_NODES = replace(FULL_NODE, nodes=3)

DEBIAN_12 = Machine(
    containerd=(1, 6),
    may_lower_oom_score=True,
    state_filesystem="ext4",
    nameservers={"/etc/resolv.conf": ("192.0.2.53",)},
    mtu=1500,
)
