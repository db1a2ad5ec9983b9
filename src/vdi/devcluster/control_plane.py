"""The control plane's command lines: pure functions from the cluster's settings to supervised
components.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from vdi.devcluster.layout import ClusterSettings, Layout
from vdi.devcluster.networks import CONTROL_PLANE_SERVICES
from vdi.devcluster.supervisor import Component

CONTROL_PLANE_BINARIES = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
)


def control_plane(
    layout: Layout, settings: ClusterSettings, binaries: Mapping[str, Path], *, needs_file: str = ""
) -> list[Component]:
    """etcd, API server, controller manager and scheduler, all on one address; they start once
    `needs_file` exists.
    """
    return [
        _etcd(layout, settings, binaries["etcd"], needs_file),
        _apiserver(layout, settings, binaries["kube-apiserver"]),
        _controller_manager(layout, settings, binaries["kube-controller-manager"]),
        Component(
            name="kube-scheduler",
            argv=[
                str(binaries["kube-scheduler"]),
                f"--kubeconfig={layout.component_kubeconfig('kube-scheduler')}",
                "--leader-elect=false",
                "--secure-port=0",
            ],
            after=["kube-apiserver"],
        ),
    ]


def write_control_plane_config(layout: Layout) -> None:
    """Anonymous requests may ask for the API server's health and for nothing else.

    logs/audit.log has the requests of service accounts, except Kubernetes' own, without bodies:
    account, verb, resource, and the decision of RBAC.
    """
    health = [{"path": path} for path in ("/livez", "/readyz", "/healthz")]
    content = {
        "apiVersion": "apiserver.config.k8s.io/v1beta1",
        "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": True, "conditions": health},
    }
    (layout.config / "authentication.json").write_text(json.dumps(content, indent=1))
    audit = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
            {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
            {"level": "None"},
        ],
    }
    _audit_policy(layout).write_text(json.dumps(audit, indent=1))


def _audit_policy(layout: Layout) -> Path:
    return layout.config / "audit.json"


def _etcd(layout: Layout, settings: ClusterSettings, binary: Path, needs_file: str) -> Component:
    client = f"https://127.0.0.1:{settings.etcd_port}"
    peer = f"https://127.0.0.1:{settings.etcd_peer_port}"
    certificate = layout.pki / "etcd.crt"
    key = layout.pki / "etcd.key"
    ca = layout.pki / "etcd-ca.crt"
    argv = [
        str(binary),
        "--name=default",
        f"--data-dir={layout.etcd}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--client-cert-auth",
        f"--cert-file={certificate}",
        f"--key-file={key}",
        f"--trusted-ca-file={ca}",
        "--peer-client-cert-auth",
        f"--peer-cert-file={certificate}",
        f"--peer-key-file={key}",
        f"--peer-trusted-ca-file={ca}",
        "--log-level=warn",
    ]
    if settings.control_plane_only:
        # A test's cluster: a power cut may cost it its data, waiting for the disk not.
        argv.append("--unsafe-no-fsync")
    ready = {"tcp": f"127.0.0.1:{settings.etcd_port}"}
    return Component(name="etcd", argv=argv, ready=ready, needs_file=needs_file)


def _apiserver(layout: Layout, settings: ClusterSettings, binary: Path) -> Component:
    pki = layout.pki
    argv = [
        str(binary),
        f"--bind-address={settings.api_host}",
        f"--advertise-address={settings.api_host}",
        f"--secure-port={settings.api_port}",
        f"--etcd-servers=https://127.0.0.1:{settings.etcd_port}",
        f"--etcd-cafile={pki / 'etcd-ca.crt'}",
        f"--etcd-certfile={pki / 'apiserver-etcd.crt'}",
        f"--etcd-keyfile={pki / 'apiserver-etcd.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--cert-dir={layout.config}",
        f"--authentication-config={layout.config / 'authentication.json'}",
        "--authorization-mode=Node,RBAC",
        f"--audit-policy-file={_audit_policy(layout)}",
        f"--audit-log-path={layout.logs / 'audit.log'}",
        "--audit-log-maxsize=50",  # megabytes; one older file is kept
        "--audit-log-maxbackup=1",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--profiling=false",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-signing-key-file={pki / 'service-account.key'}",
        f"--service-account-key-file={pki / 'service-account.pub'}",
        (
            f"--service-cluster-ip-range={settings.networks.services if settings.networks else CONTROL_PLANE_SERVICES}"
        ),
    ]
    if settings.control_plane_only:
        # A loopback address is refused as the endpoint of the Service `kubernetes`, which is
        # unreachable anyway.
        argv.append("--endpoint-reconciler-type=none")
    else:
        argv += [
            f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
            f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            "--kubelet-preferred-address-types=InternalIP",  # the node's name resolves nowhere
        ]
    ready = {"https": f"{settings.api_host}:{settings.api_port}/readyz", "ca": str(pki / "ca.crt")}
    return Component(name="kube-apiserver", argv=argv, after=["etcd"], ready=ready)


def _controller_manager(layout: Layout, settings: ClusterSettings, binary: Path) -> Component:
    pki = layout.pki
    argv = [
        str(binary),
        f"--kubeconfig={layout.component_kubeconfig('kube-controller-manager')}",
        "--leader-elect=false",
        "--secure-port=0",
        "--use-service-account-credentials",
        "--kube-api-qps=500",  # each controller asks for an account first; at the usual 20 a second that takes 5 s
        "--kube-api-burst=500",
        f"--service-account-private-key-file={pki / 'service-account.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        f"--cluster-name={settings.name}",
        f"--flex-volume-plugin-dir={layout.config / 'volume-plugins'}",  # else it makes one below /usr/libexec
    ]
    return Component(name="kube-controller-manager", argv=argv, after=["kube-apiserver"])
