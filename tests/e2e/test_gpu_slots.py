"""One GPU in 8 shares on a real kubelet: eight desktops run, the ninth waits in line, says so, and
starts by itself.

The node pretends to have the shares: there is no GPU here. Eight whole desktops want more than the
node's two CPUs, so in the place of each is a small program that answers `/api/health`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from e2e.desktops import create, pod_of, reach, template
from e2e.world import World
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

GPU = "nvidia.com/gpu"
SLOTS = 8
# Run in the place of the image's own first process: that is in Python, looks for no modules but its
# own, and finds this in the place of its `json`.
ANSWERS = """\
import http.server
import os
import signal


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words):
        pass


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
http.server.ThreadingHTTPServer(("", 8080), Answers).serve_forever()
"""


@contextmanager
def small_desktops(world: World, name: str) -> Iterator[str]:
    """A template of desktops that need next to nothing."""
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"__init__.py": ANSWERS},
    }
    world.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    spec: dict[str, Any] = {
        "resources": {"defaultGPU": 1, "defaultCPU": "100m", "defaultMemory": "64Mi"},
        "shmSize": "1Mi",
        "persistence": {"enabled": False},
        "volumes": [
            {"name": "small", "mountPath": "/usr/lib/python3.13/json", "configMap": {"name": name}}
        ],
    }
    try:
        with template(world, name, **spec) as made:
            yield made
    finally:
        world.kubectl("delete", "configmap", name, "--ignore-not-found")


@pytest.mark.ci
def test_ninth_desktop_of_a_shared_gpu_is_queued(sessions: World) -> None:
    (node,) = sessions.items("node")
    assert node["status"]["allocatable"][GPU] == str(SLOTS)
    name = node["metadata"]["name"]
    eight = [f"slot-{number}" for number in range(SLOTS)]
    with small_desktops(sessions, "slots") as slots:
        create(sessions, slots, dict.fromkeys(eight, ()))
        for each in eight:
            reach(sessions, each, "Running")

        create(sessions, slots, {"ninth": ()})
        waits = reach(sessions, "ninth", "Pending", f"all {SLOTS} {GPU} on node {name} are in use")
        assert "number 1 in line" in waits["status"]["message"]
        assert (waits["status"]["queue"]["position"], waits["status"]["queue"]["reason"]) == (
            1,
            "GPUsBusy",
        )
        assert pod_of(sessions, "ninth") is None, "nothing of it is on the cluster while it waits"
        taken = [
            session for session in sessions.items("pod") if session["status"]["phase"] == "Running"
        ]
        assert {one["spec"]["nodeName"] for one in taken} == {name}
        assert [one["spec"]["containers"][0]["resources"]["limits"][GPU] for one in taken] == [
            "1"
        ] * SLOTS

        sessions.kubectl("delete", "vdi", "slot-3", "--wait=false")
        begun = reach(sessions, "ninth", "Running")
        assert "queue" not in begun["status"]
        for each in set(eight) - {"slot-3"}:
            reach(sessions, each, "Running")
        sessions.kubectl("delete", "vdi", "--all", "--wait=true", "--timeout=60s")
        wait_until("all slots are free", lambda: not sessions.items("pod", "vdi.kasm.io/session"))
