"""The check of the cluster's DNS, for the doctor and for Kasm's chains of causes."""

from collections.abc import Iterator

from vdi.findings.model import Finding, Remedy
from vdi.snapshot.check import Code, check, make_finding
from vdi.snapshot.model import Snapshot

DNS_LOG = "kubectl --namespace kube-system logs --selector k8s-app=kube-dns --tail 50"
DNS_DOWN = Code(
    code="dns_down",
    layer="infrastructure",
    means="No replica of the cluster's DNS responds: no Service can be found by its name.",
    proof="Ready replicas of the Deployment with the label k8s-app=kube-dns.",
    remedy="Read the Events of its pods.",
    follows=("node_not_ready",),
    cluster_wide=True,
)


@check("deployments", reads=("nodes", "pods"))
def dns_down(snapshot: Snapshot) -> Iterator[Finding]:
    """CoreDNS, as K3s and kubeadm install it, without a ready replica."""
    for deployment in snapshot.objects.deployments:
        meta, replicas = deployment.metadata, deployment.spec.replicas
        if meta.labels.get("k8s-app") != "kube-dns" or deployment.status.ready_replicas:
            continue
        if replicas:
            command = "describe pods -l k8s-app=kube-dns"
        else:
            command = f"scale deployment {meta.name} --replicas 1"
        yield make_finding(
            {DNS_DOWN.code: DNS_DOWN},
            DNS_DOWN.code,
            f"deployment/{meta.namespace}/{meta.name}",
            f"No replica of the cluster's DNS is ready, of {replicas}: no Service can be found by"
            " its name.",
            evidence=["status.readyReplicas: 0"],
            related_objects=snapshot.nodes_of(deployment),
            remedy=Remedy.run(f"kubectl --namespace {meta.namespace} {command}"),
        )
