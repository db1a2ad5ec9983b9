"""Configuration files of the control plane's programs, as objects. Pure."""

from __future__ import annotations

import base64
from typing import Any

from bench.objects import NAMESPACE, Object

# Requests per second of the control plane's own clients: none of them is to be the bottleneck.
UNLIMITED = 5000

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
        "contexts": [
            {"name": "bench", "context": {"cluster": "bench", "user": user, "namespace": NAMESPACE}}
        ],
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
    """The scheduler without its volume plugins: homes stay Pending here, and pods mount them all
    the same.
    """
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"kubeconfig": admin_kubeconfig, "qps": UNLIMITED, "burst": UNLIMITED},
        "profiles": [
            {"plugins": {"multiPoint": {"disabled": [{"name": name} for name in VOLUME_PLUGINS]}}}
        ],
    }


# A kubelet reports so often that nothing has changed (nodeStatusReportFrequency); kwok by itself
# every 20.
HEARTBEAT_SECONDS = 300

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


# A running pod: the same each time, since kwok plays a pod again whose status it has not seen yet.
#
# Its address is this machine's: the operator asks each desktop's agent, which must not be a
# stranger's.
_RUNNING = """\
{{ $since := .metadata.creationTimestamp }}
{{ $sum := atoi (adler32sum .metadata.uid) }}
conditions:
{{ range list "Initialized" "ContainersReady" "Ready" }}
- lastTransitionTime: {{ $since | Quote }}
  status: "True"
  type: {{ . }}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- image: {{ .image | Quote }}
  name: {{ .name | Quote }}
  ready: true
  restartCount: 0
  state:
    running:
      startedAt: {{ $since | Quote }}
{{ end }}
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
podIP: {{ printf "127.%d.%d.%d" (add 128 (mod $sum 120)) (div $sum 16777216) (mod (div $sum 65536) 256) | Quote }}
phase: Running
startTime: {{ $since | Quote }}
"""


def kwok() -> list[Object]:
    """kwok plays 16 pods at a time; it must not be what the sessions wait for. Its nodes report
    like kubelets.
    """
    options = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {"podPlayStageParallelism": 16, "nodePlayStageParallelism": 4},
    }
    beat = HEARTBEAT_SECONDS * 1000
    delay = {"durationMilliseconds": beat, "jitterDurationMilliseconds": beat + 60_000}
    ready = {
        "key": '.status.conditions.[] | select( .type == "Ready" ) | .status',
        "values": ["True"],
    }
    not_ready, is_ready = {**ready, "operator": "NotIn"}, {**ready, "operator": "In"}
    deleted = {"key": ".metadata.deletionTimestamp", "operator": "Exists"}
    new = [
        {**deleted, "operator": "DoesNotExist"},
        {"key": ".status.podIP", "operator": "DoesNotExist"},
    ]
    return [
        options,
        _stage(
            "Node",
            "node-initialize",
            [not_ready],
            {"statusTemplate": f"{_CONDITIONS}phase: Running\n"},
        ),
        _stage(
            "Node",
            "node-heartbeat",
            [is_ready],
            {"statusTemplate": _CONDITIONS},
            delay=delay,
            immediateNextStage=True,
        ),
        _stage("Pod", "pod-run", new, {"statusTemplate": _RUNNING}),
        _stage("Pod", "pod-delete", [deleted], {"finalizers": {"empty": True}, "delete": True}),
    ]


def _stage(kind: str, name: str, matches: list[Object], then: Object, **more: Any) -> Object:
    """What kwok does with the objects of this kind that match."""
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": matches},
            "next": then,
            **more,
        },
    }
