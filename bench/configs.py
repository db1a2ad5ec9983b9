"""Configuration files of the control plane's programs, as objects. Pure."""

from __future__ import annotations

import base64
from typing import Any

from bench.objects import NAMESPACE, Object

UNLIMITED = 5000
"""Requests per second of the control plane's own clients: none of them is to be the bottleneck."""

VOLUME_PLUGINS = ("VolumeBinding", "VolumeZone", "NodeVolumeLimits", "VolumeRestrictions")


def kubeconfig(url: str, ca: bytes, user: str, token: str) -> Object:
    """One user of one cluster."""
    cluster = {"server": url, "certificate-authority-data": base64.b64encode(ca).decode()}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": user, "namespace": NAMESPACE}}],
    }


def audit_policy(user: str) -> Object:
    """Every request of one user, without bodies."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "users": [user]}, {"level": "None"}],
    }


def scheduler(admin_kubeconfig: str) -> Object:
    """The scheduler without its volume plugins: homes stay Pending here, and pods mount them all the same."""
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"kubeconfig": admin_kubeconfig, "qps": UNLIMITED, "burst": UNLIMITED},
        "profiles": [{"plugins": {"multiPoint": {"disabled": [{"name": name} for name in VOLUME_PLUGINS]}}}],
    }


HEARTBEAT_SECONDS = 300
"""A kubelet reports so often that nothing has changed (nodeStatusReportFrequency); kwok by itself every 20."""

_CONDITIONS = """\
conditions:
{{ range NodeConditions }}
- lastHeartbeatTime: {{ Now | Quote }}
  lastTransitionTime: {{ or $.metadata.creationTimestamp Now | Quote }}
  message: {{ .message | Quote }}
  reason: {{ .reason | Quote }}
  status: {{ .status | Quote }}
  type: {{ .type | Quote }}
{{ end }}
"""


def kwok() -> list[Object]:
    """kwok plays 16 pods at a time; it must not be what the sessions wait for. Its nodes report like kubelets.

    Its pods have addresses of this machine: the operator asks each desktop's agent, which must not be a stranger's.
    """
    options = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {"podPlayStageParallelism": 16, "nodePlayStageParallelism": 4, "cidr": "127.128.0.1/9"},
    }
    beat = HEARTBEAT_SECONDS * 1000
    delay = {"durationMilliseconds": beat, "jitterDurationMilliseconds": beat + 60_000}
    return [
        options,
        _node_stage("node-initialize", "NotIn", {"statusTemplate": f"{_CONDITIONS}phase: Running\n"}),
        _node_stage("node-heartbeat", "In", {"statusTemplate": _CONDITIONS}, delay=delay, immediateNextStage=True),
    ]


def _node_stage(name: str, operator: str, then: Object, **more: Any) -> Object:
    """What kwok does with a node whose condition Ready is, or is not, True."""
    ready = {"key": '.status.conditions.[] | select( .type == "Ready" ) | .status', "operator": operator}
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Node"},
            "selector": {"matchExpressions": [{**ready, "values": ["True"]}]},
            "next": then,
            **more,
        },
    }
