"""README's tour, each command in the order of the page, on the demo's scene."""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from e2e.world import NAMESPACE, World
from vdi.api.meta import API_VERSION
from vdi.demo import run, scene
from vdi.demo.browser import Login
from vdi.devcluster.progress import Progress

README = (Path(__file__).parents[2] / "README.md").read_text()
TOUR = README.partition("\n## A tour in 60 seconds\n")[2].partition("\n## ")[0]
# A command with its here document, and the output that README shows below it.
_COMMAND = re.compile(
    r"^\$ ([^\n]*<<END\n.*?\nEND|[^\n]*)\n((?:(?!\$ |```)[^\n]*\n)*)", re.DOTALL | re.MULTILINE
)
_REFUSED = ("Error: ", " is invalid: ")


@pytest.fixture
def seeded(sessions: World) -> Iterator[World]:
    """The scene on an empty cluster; the cluster is empty again afterwards."""
    claims = set(sessions.kubectl("get", "pvc", "-o", "name").split())
    templates = {
        name: spec for name, spec in scene.TEMPLATES.items() if not sessions.get("vdit", name)
    }
    for name, spec in templates.items():
        made = {
            "apiVersion": API_VERSION,
            "kind": "VDITemplate",
            "metadata": {"name": name},
            "spec": spec,
        }
        sessions.kubectl("create", "-f", "-", stdin=json.dumps(made))
    try:
        kubectl = shutil.which("kubectl")
        assert kubectl
        demo = run.Demo(
            sessions.kubeconfig, Path(kubectl).parent, Login(sessions.portal, run.USER, "")
        )
        with Progress(Path(tempfile.mkdtemp(prefix="vdi-scene-"))) as progress:
            run.start_session(demo, progress=progress)
        scene.create_objects(
            partial(run.kubectl, demo.kubeconfig, Path(kubectl)),
            pool=False,
            seconds=run.SESSION_SECONDS,
        )
        yield sessions
    finally:
        sessions.kubectl("delete", "vdi", "--all", "--timeout=60s")
        if templates:
            sessions.kubectl("delete", "vdit", *templates)
        if left := set(sessions.kubectl("get", "pvc", "-o", "name").split()) - claims:
            sessions.kubectl("delete", *left, "--wait=false")


@pytest.mark.ci
@pytest.mark.timeout(180)
def test_readme_tour_runs_line_by_line(seeded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "KUBECONFIG": str(seeded.kubeconfig),
        "NO_COLOR": "1",
        "BROWSER": "true",
    }.items():
        monkeypatch.setenv(name, value)
    seeded.kubectl(
        "wait", "vdi/alice-cad", "--for=jsonpath={.status.queue.position}=1", "--timeout=30s"
    )
    commands = _COMMAND.findall(TOUR)
    assert len(commands) > 10
    for command, shown in commands:
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=120
        )
        said = done.stdout + done.stderr
        refused = any(words in shown for words in _REFUSED)
        # The doctor's example is of another cluster, and its exit status is 1 when it finds an
        # error.
        assert command == "vdi doctor" or (done.returncode != 0) == refused, f"{command}: {said}"
        header, *_ = shown.splitlines() or [""]
        if header.startswith("NAME "):
            assert said.splitlines()[0].split() == header.split(), command
        if command.startswith("vdi session suspend bob-cad"):
            seeded.kubectl("wait", "vdi/alice-cad", "--for=condition=Ready", "--timeout=60s")
    assert not seeded.items("pod", "vdi.kasm.io/session=bob-cad"), (
        f"bob-cad waits for GPUs in {NAMESPACE}"
    )
