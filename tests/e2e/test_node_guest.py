"""A full node is a good guest: it does a cluster's work, and when it goes nothing on the machine
tells it was there.
"""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vdi.devcluster import binaries, cluster, probe
from vdi.devcluster.build_cache import default_cache
from vdi.devcluster.processes import wait_until
from vdi.devcluster.progress import Progress
from vdi.devcluster.status import ComponentStatus

NAME = "guesttest"
KERNEL_SETTINGS = (
    "net/ipv4/ip_forward",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
FOLDERS = (
    "/run", "/var/lib", "/var/log", "/opt", "/usr/libexec", "/etc", "/run/containerd", "/run/netns",
    "/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers", "/usr/libexec/kubernetes",
)  # fmt: skip
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="a full node needs root, and this is not root"),
]
POD = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: home}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: guest}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: main
      image: docker.io/library/debian:13-slim
      imagePullPolicy: IfNotPresent
      command: [sh, -c, "trap 'exit 0' TERM; echo written > /home/file; echo started; sleep 3600 & wait"]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      resources: {limits: {nvidia.com/gpu: 1}}
      volumeMounts: [{name: home, mountPath: /home}]
  volumes: [{name: home, persistentVolumeClaim: {claimName: home}}]
"""
WEB = """
apiVersion: v1
kind: Service
metadata: {name: health, namespace: kube-system}
spec: {selector: {k8s-app: kube-dns}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: traefik.io/v1alpha1
kind: IngressRoute
metadata: {name: health, namespace: kube-system}
spec:
  entryPoints: [websecure]
  routes: [{match: "Host(`health.vdi.localhost`)", kind: Rule, services: [{name: health, port: 80}]}]
  tls: {}
"""
# Those of the control plane: tests/cluster/test_devcluster.py.
_OTHERS = ("containerd", "kube-proxy", "traefik")


# What a guest could leave on the machine, by the kind of trace.
Machine = dict[str, frozenset[str] | tuple[str, ...]]


def our_programs() -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
                if NAME in words or NAME in (entry / "cgroup").read_text():
                    yield f"{entry.name} {words}"


def look_at_machine() -> Machine:
    saved = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    listening = subprocess.run(["ss", "-Hlntu"], capture_output=True, text=True, check=True).stdout
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    ports = [line.split()[4] for line in listening.splitlines()]
    return {
        # Only those that are known by the cluster's name: other programs come and go.
        "programs": frozenset(our_programs()),
        # Of images that are built meanwhile there may be some below the cache.
        "mounts": tuple(
            path for path in mounts if not path.startswith(str(default_cache(os.environ)))
        ),
        "links": frozenset(path.name for path in Path("/sys/class/net").iterdir()),
        # Counters and dates change by themselves.
        "rules": tuple(
            line.split(" [")[0] for line in saved.splitlines() if not line.startswith("#")
        ),
        "cgroups": frozenset(
            str(path)
            for mount in probe.cgroup_mounts()
            for path in Path(mount.path).iterdir()
            if path.is_dir()
        ),
        "folders": frozenset(
            str(path) for name in FOLDERS if Path(name).is_dir() for path in Path(name).iterdir()
        ),
        "ports beyond loopback": frozenset(
            port for port in ports if not port.startswith(("127.", "[::1]"))
        ),
        "kernel settings": tuple(Path(f"/proc/sys/{name}").read_text() for name in KERNEL_SETTINGS),
    }


@dataclass(frozen=True)
class Node:
    """A running node, and the machine as it was before."""

    made: cluster.Cluster
    before: Machine
    kubectl_words: list[str]
    progress: Progress

    def kubectl(self, *words: str, stdin: str = "", check: bool = True) -> str:
        done = subprocess.run(
            [*self.kubectl_words, *words], input=stdin, capture_output=True, text=True, timeout=120
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def run_pod(self) -> None:
        self.kubectl("apply", "-f", "-", stdin=POD)
        self.kubectl("wait", "--for=condition=Ready", "pod/guest", "--timeout=90s")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("guest")
    with pytest.MonkeyPatch.context() as patch, Progress(folder) as progress:
        patch.setenv("VDI_STATE", str(folder))
        kubectl = binaries.ensure(["kubectl"], progress=progress)["kubectl"]
        cluster.down(NAME)  # a run that was killed leaves its own behind, and `up` takes it away
        before = look_at_machine()
        try:
            made = cluster.up(NAME, fake_gpus=2, install_packages=True, progress=progress)
            yield Node(made, before, [str(kubectl), "--kubeconfig", str(made.kubeconfig)], progress)
        finally:
            cluster.down(NAME)


def eventually(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    assert wait_until(condition, seconds), f"not within {seconds:.0f} s: {what}"


def is_served(made: cluster.Cluster) -> bool:
    """Whether the DNS server's health comes through Service, Traefik and TLS by the cluster's own
    authority.

    Not while a kubelet that started again calls its pods unready, or Traefik has no certificate
    yet.
    """
    context = ssl.create_default_context(cafile=str(made.web_ca))
    answer = b""
    try:
        with (
            socket.create_connection(("127.0.0.1", made.websecure_port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="health.vdi.localhost") as secure,
        ):
            secure.sendall(
                b"GET /health HTTP/1.1\r\nHost: health.vdi.localhost\r\nConnection: close\r\n\r\n"
            )
            while part := secure.recv(4096):
                answer += part
    except ssl.SSLEOFError:
        return False
    return answer.startswith(b"HTTP/1.1 200")


def test_restricted_pod_has_volume_dns_and_fake_gpu(node: Node) -> None:
    node.run_pod()
    assert node.kubectl("logs", "guest") == "started\n"
    assert node.kubectl("exec", "guest", "--", "cat", "/home/file") == "written\n"
    # A name that resolves went pod -> Service address -> kube-proxy's rules -> CoreDNS -> API
    # server and back.
    resolved = node.kubectl("exec", "guest", "--", "getent", "hosts", "kubernetes.default")
    assert "kubernetes.default.svc.cluster.local" in resolved
    claim = json.loads(node.kubectl("get", "pvc", "home", "-o", "json"))
    assert (claim["status"]["phase"], claim["spec"]["storageClassName"]) == ("Bound", "local-path")


def test_a_route_is_served_over_tls_on_loopback(node: Node) -> None:
    node.kubectl("apply", "-f", "-", stdin=WEB)
    eventually(lambda: is_served(node.made), "an answer through Traefik", 20)


def test_nothing_listens_beyond_loopback(node: Node) -> None:
    assert look_at_machine()["ports beyond loopback"] == node.before["ports beyond loopback"]


@pytest.mark.parametrize(
    "component", ["kubelet", *(pytest.param(name, marks=pytest.mark.long) for name in _OTHERS)]
)
def test_killed_process_is_restarted_and_reported(node: Node, component: str) -> None:
    def find() -> ComponentStatus:
        return next(one for one in cluster.status(NAME).components if one.name == component)

    before = find()
    os.kill(before.pid, signal.SIGKILL)
    eventually(
        lambda: find().restarts > before.restarts and find().state == "running",
        f"{component} runs again",
    )
    assert "SIGKILL" in find().last_exit
    eventually(lambda: cluster.status(NAME).state == "running", "the whole cluster is right again")
    eventually(lambda: is_served(node.made), "an answer through Traefik")


def test_up_restores_the_cluster_of_a_killed_supervisor(node: Node) -> None:
    supervised = json.loads((node.made.state_dir / "supervisor.json").read_text())
    uid = node.kubectl("get", "pod", "guest", "-o", "jsonpath={.metadata.uid}")
    os.kill(supervised["main"]["pid"], signal.SIGKILL)
    eventually(lambda: not look_at_machine()["programs"], "every process of the node is gone", 15)
    assert cluster.status(NAME).state == "dead"
    assert not cluster.up(NAME, fake_gpus=2, progress=node.progress).was_running
    node.kubectl("wait", "--for=condition=Ready", "pod/guest", "--timeout=90s")
    assert node.kubectl("get", "pod", "guest", "-o", "jsonpath={.metadata.uid}") == uid
    read = ["exec", "guest", "--", "cat", "/home/file"]  # refused until its container runs again
    eventually(lambda: node.kubectl(*read, check=False) == "written\n", "the volume is there")


@pytest.mark.long
def test_second_cluster_runs_beside_the_first(node: Node) -> None:
    try:
        second = cluster.up("guest2", progress=node.progress)
        assert (second.server, second.websecure_port) != (
            node.made.server,
            node.made.websecure_port,
        )
        assert cluster.status("guest2").state == "running"
    finally:
        cluster.down("guest2")
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
    # The kubelet's folder is a mount on a folder of the host's: taken away, no pod could start any
    # more.
    node.kubectl("delete", "pod", "guest", "--wait=true")
    node.run_pod()
    assert node.kubectl("exec", "guest", "--", "cat", "/home/file") == "written\n"
    assert cluster.status(NAME).state == "running"


def test_down_leaves_nothing(node: Node) -> None:
    during = look_at_machine()
    assert during != node.before, "the comparison sees nothing: it could not fail"
    cluster.down(NAME)
    wait_until(lambda: look_at_machine() == node.before, 5)
    now, before = look_at_machine(), node.before
    for what in now:  # one by one: a difference is then short enough to read
        came, went = set(now[what]) - set(before[what]), set(before[what]) - set(now[what])
        assert (came, went) == (set(), set()), what
    assert now == before
    assert not node.made.state_dir.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", node.made.websecure_port), timeout=5)
    assert cluster.status(NAME).state == "absent"
