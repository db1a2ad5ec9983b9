"""Sessions under `kubectl` and `vdi` on a real node: objects as users write them, deletion, a
missing image.
"""

from pathlib import Path

import yaml

from e2e.desktops import home_claim_of, live_pod_of, message_of, reach, run_in, start, started
from e2e.world import World
from support.waiting import wait_until

CHILDREN = "pods,services,secrets,ingressroutes.traefik.io"


def test_the_missions_own_objects(sessions: World) -> None:
    """Unchanged, they say what is wrong with the image; with one that has a desktop they run."""
    documents = list(
        yaml.safe_load_all((Path(__file__).parent / "mission-objects.yaml").read_text())
    )
    made, session = (
        next(d for d in documents if d["kind"] == kind) for kind in ("VDITemplate", "VDISession")
    )
    for document in (made, session):
        sessions.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(document))
    reach(sessions, "alice-desktop", "Failed", "gst-web:latest' contains no desktop")
    made["spec"]["image"] = "localhost/vdi/desktop:dev"
    sessions.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(made))
    running = reach(sessions, "alice-desktop", "Running", seconds=90)
    header, row = sessions.kubectl("get", "vdi", "alice-desktop").splitlines()
    assert {"USER", "PHASE", "URL"} <= set(header.split())
    for shown in ("alice@example.com", "Running", running["status"]["url"]):
        assert shown in row
    limits = live_pod_of(sessions, "alice-desktop")["spec"]["containers"][0]["resources"]["limits"]
    assert (limits["nvidia.com/gpu"], limits["memory"]) == ("1", "4Gi")
    sessions.kubectl("delete", "vdi", "alice-desktop", "--wait=true", "--timeout=30s")
    sessions.kubectl("delete", "vditemplate", "ubuntu-desktop")


def test_deleted_session_leaves_only_its_home(sessions: World) -> None:
    start(sessions, "dora", "small")
    home, pod = home_claim_of(sessions, "dora"), live_pod_of(sessions, "dora")
    run_in(sessions, "dora", "echo kept > ~/kept.txt")
    assert pod["spec"]["terminationGracePeriodSeconds"] < 10, "it would not be gone within 10 s"
    sessions.kubectl("delete", "vdi", "dora", "--wait=false")
    left = (
        "get",
        f"vdi,{CHILDREN}",
        "-l",
        "vdi.kasm.io/session=dora",
        "-o",
        "name",
        "--ignore-not-found",
    )
    wait_until("everything gone", lambda: not sessions.kubectl(*left))
    assert sessions.get("pvc", home), "the home outlives the session"
    start(sessions, "dora", "small")
    assert run_in(sessions, "dora", "cat ~/kept.txt") == "kept\n"


def test_missing_image_is_explained(sessions: World) -> None:
    image = "registry.invalid/no/such:image"
    with started(sessions, "fritz", wait=False, image=image):
        wait_until("the message names the image", lambda: image in message_of(sessions, "fritz"))
