"""Sessions under `kubectl` and `vdi` on a real node: objects as users write them, deletion, homes, failures."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.world import World
from support.waiting import wait_until

CHILDREN = "pods,services,secrets,ingressroutes.traefik.io"


def phase_is(world: World, name: str, phase: str) -> dict[str, Any] | None:
    session = world.get("vdi", name)
    return session if session and session.get("status", {}).get("phase") == phase else None


def create(world: World, name: str, *words: str) -> None:
    world.vdi("session", "create", name, "--user", f"{name}@example.com", "--template", "small", "--wait", *words)


def everything_of(world: World, name: str) -> list[str]:
    out = world.kubectl(
        "get", f"vdi,{CHILDREN}", "-l", f"vdi.kasm.io/session={name}", "-o", "name", "--ignore-not-found"
    )
    return out.split()


def test_the_missions_own_objects(sessions: World) -> None:
    """Unchanged, they say what is wrong with the image; with one that has a desktop they run."""
    documents = list(yaml.safe_load_all((Path(__file__).parent / "mission-objects.yaml").read_text()))
    template, session = (next(d for d in documents if d["kind"] == kind) for kind in ("VDITemplate", "VDISession"))
    for document in (template, session):
        sessions.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(document))
    refused = wait_until("alice-desktop Failed", lambda: phase_is(sessions, "alice-desktop", "Failed"))
    assert "gst-web:latest' contains no desktop" in refused["status"]["message"]
    template["spec"]["image"] = "localhost/vdi/desktop:dev"
    sessions.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(template))
    running = wait_until("alice-desktop Running", lambda: phase_is(sessions, "alice-desktop", "Running"), 90)
    header, row = sessions.kubectl("get", "vdi", "alice-desktop").splitlines()
    assert {"USER", "PHASE", "URL"} <= set(header.split())
    for shown in ("alice@example.com", "Running", running["status"]["url"]):
        assert shown in row
    (pod,) = sessions.items("pod", "vdi.kasm.io/session=alice-desktop")
    limits = pod["spec"]["containers"][0]["resources"]["limits"]
    assert (limits["nvidia.com/gpu"], limits["memory"]) == ("1", "4Gi")
    sessions.kubectl("delete", "vdi", "alice-desktop", "--wait=true", "--timeout=30s")
    sessions.kubectl("delete", "vditemplate", "ubuntu-desktop")


def test_deleted_session_leaves_only_its_home(sessions: World) -> None:
    create(sessions, "dora")
    (pod,) = sessions.items("pod", "vdi.kasm.io/session=dora")
    (claim,) = [v for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v]
    home = claim["persistentVolumeClaim"]["claimName"]
    sessions.kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", "echo kept > ~/kept.txt")
    assert pod["spec"]["terminationGracePeriodSeconds"] < 10, "it would not be gone within 10 s"
    sessions.kubectl("delete", "vdi", "dora", "--wait=false")
    wait_until("everything gone", lambda: not everything_of(sessions, "dora"))
    assert sessions.get("pvc", home), "the home outlives the session"
    create(sessions, "dora")
    (pod,) = sessions.items("pod", "vdi.kasm.io/session=dora")
    assert sessions.kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", "cat ~/kept.txt") == "kept\n"


@pytest.mark.long
def test_home_without_retain_is_deleted_with_its_session(sessions: World) -> None:
    create(sessions, "emil", "--delete-home")
    (pod,) = sessions.items("pod", "vdi.kasm.io/session=emil")
    (claim,) = [v for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v]
    home = claim["persistentVolumeClaim"]["claimName"]
    sessions.kubectl("delete", "vdi", "emil", "--wait=true", "--timeout=30s")
    wait_until("the home gone", lambda: sessions.get("pvc", home) is None)


def test_missing_image_is_explained(sessions: World) -> None:
    template = {
        "apiVersion": "vdi.kasm.io/v1alpha1",
        "kind": "VDITemplate",
        "metadata": {"name": "broken"},
        "spec": {"image": "registry.invalid/no/such:image", "resources": {"defaultGPU": 0}},
    }
    sessions.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(template))
    sessions.vdi("session", "create", "fritz", "--user", "fritz@example.com", "--template", "broken")

    def said() -> str:
        session = sessions.get("vdi", "fritz") or {}
        message: str = session.get("status", {}).get("message", "")
        return message if "registry.invalid/no/such:image" in message else ""

    wait_until("the message names the image", said)
    sessions.kubectl("delete", "vdi", "fritz", "--wait=true", "--timeout=30s")
    sessions.kubectl("delete", "vditemplate", "broken")
