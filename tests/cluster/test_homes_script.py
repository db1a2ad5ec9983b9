"""docs/examples/homes.sh against a real API server; the test is the kubelet, and tar runs on this
machine.
"""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.home_pods import ALICE, Ended, Homes, open_homes
from cluster.operator_stage import Object, Stage
from vdi.api.meta import ObjectMeta
from vdi.api.template import TemplateSpec, VDITemplate
from vdi.home_copy.pod import build_copy_pod
from vdi.kinds import TEMPLATES
from vdi.kube.resource import CLAIMS, PODS

pytestmark = pytest.mark.timeout(150)
SCRIPT = Path(__file__).parents[2] / "docs/examples/homes.sh"
NOTES = "vdi.kasm.io/"
_KUBECTL = """#!{python}
import os, sys
words, real = sys.argv[1:], {real!r}
if "exec" not in words:
    os.execv(real[0], [*real, *words])
pod, command = words[words.index("--") - 1], words[words.index("--") + 1:]
folder = os.path.realpath(os.path.join({pods!r}, pod))
if os.environ.get("BREAKS"):
    open(folder + "/home/half", "w").close()
    sys.exit("error: unable to upgrade connection")
os.execvp(command[0], [word.replace("/home/user", folder + "/home") for word in command])
"""


@dataclass(frozen=True)
class Script:
    """The script, typed in a namespace with a home of alice's."""

    homes: Homes
    programs: Path
    backup: Path
    # Its files.
    home: Path

    @property
    def claim(self) -> str:
        return self.homes.claim(ALICE)

    @property
    def stage(self) -> Stage:
        return self.homes.stage

    async def __call__(self, *words: str, **variables: str) -> Ended:
        environment = {
            **os.environ,
            "NAMESPACE": self.stage.namespace,
            "TIMEOUT": "60s",
            **variables,
        }
        environment["PATH"] = f"{self.programs}:{os.environ['PATH']}"
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            SCRIPT, *words, env=environment, stdout=pipe, stderr=pipe
        )
        out, err = await asyncio.wait_for(process.communicate(), 100)
        assert process.returncode is not None
        return Ended(process.returncode, out, err.decode())

    async def save(self, *claims: str) -> Ended:
        return await self("save", str(self.backup), *claims)

    async def load(self) -> Ended:
        return await self("load", str(self.backup))

    async def annotate(self, **notes: str) -> None:
        """Annotations of ours; `_` stands for `-`."""
        keys = {f"{NOTES}{key.replace('_', '-')}": value for key, value in notes.items()}
        await self.stage.patch(CLAIMS, self.claim, {"metadata": {"annotations": keys}})

    async def notes(self) -> dict[str, str]:
        """The annotations of ours."""
        notes = (await self.stage.until(CLAIMS, self.claim))["metadata"]["annotations"]
        return {
            key.removeprefix(NOTES): value for key, value in notes.items() if key.startswith(NOTES)
        }

    async def lose(self) -> None:
        """Delete the home."""
        await self.stage.delete(CLAIMS, self.claim)
        await self.stage.gone(CLAIMS, self.claim)


@pytest.fixture
async def script(
    stage: Stage, kubeconfig: Path, kubectl: list[str], tmp_path: Path
) -> AsyncIterator[Script]:
    (programs := tmp_path / "programs").mkdir()
    async with open_homes(stage, kubeconfig, tmp_path) as homes:
        text = _KUBECTL.format(
            python=sys.executable, real=kubectl, pods=str(homes.pods.folder / "pods")
        )
        (programs / "kubectl").write_text(text)
        (programs / "kubectl").chmod(0o755)
        yield Script(homes, programs, tmp_path / "backup", await homes.make(ALICE))
        assert not [
            pod for pod in await stage.all(PODS) if pod["metadata"]["name"].startswith("copy-")
        ]


@pytest.mark.long
async def test_restored_home_has_its_annotations(script: Script) -> None:
    home, claim = script.home, script.claim
    (home / "paper.txt").write_text("precious")
    (home / "paper.txt").chmod(0o664)
    await script.annotate(last_used="2026-11-20T08:30:00Z")
    before = await script.notes()
    saved = await script.save()
    assert (saved.code, saved.out.decode().startswith(f"{claim} of {ALICE}: ")) == (
        0,
        True,
    ), saved.err
    assert {path.name for path in script.backup.iterdir()} == {f"{claim}.yaml", f"{claim}.tar.gz"}

    await script.lose()
    loaded = await script.load()
    assert (loaded.code, loaded.out.decode()) == (0, f"{claim} of {ALICE}: loaded\n"), loaded.err
    assert await script.notes() == before
    paper = (await script.homes.pods.home(claim)) / "paper.txt"
    assert (paper.read_text(), stat.S_IMODE(paper.stat().st_mode)) == ("precious", 0o664)


async def test_a_home_that_a_command_fills_is_not_saved(script: Script) -> None:
    await script.annotate(copying="vdi home import")
    saved = await script.save()
    assert (
        saved.code,
        f"{script.claim}: not saved, `vdi home import` is filling it" in saved.err,
    ) == (1, True)
    assert list(script.backup.iterdir()) == []
    assert script.homes.pods.seen == []


@pytest.mark.long
async def test_the_pod_has_the_user_and_the_placement_of_the_template(script: Script) -> None:
    """Or a restored home is on a node where its desktop cannot run, or belongs to another user."""
    stage, seen = script.stage, script.homes.pods.seen
    taint: Object = {"key": "desktops", "operator": "Exists"}
    spec: Object = {"placement": {"tolerations": [taint]}, "imagePullSecrets": [{"name": "pull"}]}
    await stage.patch(TEMPLATES, script.homes.template, {"spec": spec})
    await stage.patch(CLAIMS, script.claim, {"spec": {"volumeName": "on-another-node"}})
    assert (await script.save()).code == 0
    await script.lose()
    assert (await script.load()).code == 0
    reads, writes = (pod["spec"] for pod in seen)
    for pod in (reads, writes):
        assert taint.items() <= pod["tolerations"][0].items()
        assert pod["imagePullSecrets"] == [{"name": "pull"}]
        users = {key: pod["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")}
        assert set(users.values()) == {1234}
        assert pod["containers"][0]["image"] == "registry.example.com/desktop:1"
    assert "nodeSelector" not in reads, "the volume is where the template's desktops were before"
    assert writes["nodeSelector"] == stage.here, "the volume is yet to be made"


@pytest.mark.ci
async def test_interrupted_load_blocks_the_home_until_repeated(script: Script) -> None:
    stage, claim, home = script.stage, script.claim, script.home
    (home / "folder").mkdir()
    (home / "folder" / "paper.txt").write_text("precious")
    (home / "folder").chmod(0o555)
    assert (await script.save()).code == 0
    await script.lose()
    await stage.node("one")
    async with stage.operator():
        broken = await script("load", str(script.backup), BREAKS="1")
        assert (
            broken.code,
            f"{claim}: not complete, and no desktop starts on it" in broken.err,
        ) == (1, True)
        assert (await script.notes())["copying"] == "homes.sh load"
        await stage.session("desk", script.homes.template)
        await stage.reach("desk", "Pending", f"The home {claim!r} is in use by `homes.sh load`")
        refused = await script.save()
        assert (refused.code, "not saved, `homes.sh load` is filling it" in refused.err) == (
            1,
            True,
        )

        half = await script.homes.pods.home(claim)
        assert (half / "half").exists()
        loaded = await script.load()
        assert loaded.code == 0, loaded.err
        assert [str(path.relative_to(half)) for path in sorted(half.rglob("*"))] == [
            "folder",
            "folder/paper.txt",
        ]
        await stage.run("desk")
    again = await script.load()
    assert (again.code, "is there already and stays as it is" in again.err) == (1, True)


async def test_home_without_its_template_needs_an_image(script: Script) -> None:
    """And an archive that is cut is refused; both before a claim is created."""
    claim = script.claim
    await script.annotate(template="gone")
    refused = [await script.save()]
    saved = await script("save", str(script.backup), IMAGE="tools:1")
    assert saved.code == 0, saved.err
    assert script.homes.pods.seen[-1]["spec"]["containers"][0]["image"] == "tools:1"
    await script.lose()
    refused.append(await script.load())
    for ended in refused:
        assert (ended.code, f"{claim}: its template gone does not exist" in ended.err) == (
            1,
            True,
        ), ended.err
    (script.backup / f"{claim}.tar.gz").write_bytes(b"cut")
    assert (await script("load", str(script.backup), IMAGE="tools:1")).code == 1
    assert await script.stage.get(CLAIMS, claim) is None


@pytest.mark.long
async def test_failed_save_keeps_the_earlier_copy(script: Script) -> None:
    assert (await script.save()).code == 0
    before = {path.name: path.read_bytes() for path in script.backup.iterdir()}
    await script.annotate(last_used="2026-11-20T08:30:00Z")
    assert (await script("save", str(script.backup), BREAKS="1")).code == 1
    assert {name: (script.backup / name).read_bytes() for name in before} == before


async def test_the_pod_of_another_copy_is_left_alone(script: Script) -> None:
    claim = script.claim
    pod = build_copy_pod(claim, VDITemplate(ObjectMeta(name="cad"), TemplateSpec(image="tools:1")))
    made = await script.stage.api.create(PODS, pod, namespace=script.stage.namespace, into=dict)
    refused = await script.save()
    command = f"kubectl -n {script.stage.namespace} delete pod copy-{claim}"
    assert (refused.code, command in refused.err) == (1, True), refused.err
    assert (await script.stage.until(PODS, f"copy-{claim}"))["metadata"]["uid"] == made["metadata"][
        "uid"
    ]
    await script.stage.delete(PODS, f"copy-{claim}", grace_seconds=0)
    await script.stage.gone(PODS, f"copy-{claim}")


@pytest.mark.long
async def test_homes_of_session_scope_are_skipped_and_named(script: Script) -> None:
    stage, own = script.stage, "desk-home"
    template = await stage.template_named(
        f"{stage.namespace}-own", persistence={"scope": "Session"}
    )
    async with stage.operator():
        await stage.session("desk", template)
        await stage.until(CLAIMS, own)
    listed = await script("list")
    assert (
        own in listed.out.decode(),
        "left out, since they end with their sessions" in listed.err,
    ) == (False, True)
    saved = await script.save()
    assert (saved.code, f" {own}; to save the files of one: vdi home export" in saved.err) == (
        0,
        True,
    ), saved.err
    assert {path.stem for path in script.backup.glob("*.yaml")} == {script.claim}
    refused = await script.save(own)
    assert (refused.code, f"{own}: not saved, it ends with its session" in refused.err) == (
        1,
        True,
    ), refused.err
