"""`vdi home migrate` against a real API server; the test is the kubelet, and the copy runs on this machine."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.home_pods import ALICE, BOB, Homes, contents, fill, open_homes
from cluster.operator_stage import Stage
from support.waiting import eventually
from vdi.kube.resource import CLAIMS, PODS
from vdi.operator.kinds import SESSIONS
from vdi.session.naming import user_home_claim_name

pytestmark = pytest.mark.timeout(150)
STUCK = 'script = script.replace("python3 -", "while kill -0 $PPID; do sleep 0.1; done; :")'
"""A copy that ends with the command that began it."""


@pytest.fixture
async def homes(stage: Stage, kubeconfig: Path, tmp_path: Path) -> AsyncIterator[Homes]:
    async with open_homes(stage, kubeconfig, tmp_path) as homes:
        yield homes


def words(homes: Homes, *more: str) -> list[str | Path]:
    return ["migrate", "--template", homes.template, "--to", "User", "-o", "json", *more]


async def annotations(homes: Homes, claim: str) -> dict[str, str]:
    found = await homes.stage.get(CLAIMS, claim)
    assert found
    return {key.removeprefix("vdi.kasm.io/"): value for key, value in found["metadata"]["annotations"].items()}


async def test_the_home_of_a_person_moves_and_the_next_desktop_has_the_new_one(homes: Homes) -> None:
    stage, old, new = homes.stage, homes.claim(ALICE), user_home_claim_name(ALICE)
    await stage.node("one")
    files = await homes.make(ALICE)
    await homes.make(BOB)
    fill(files)
    async with stage.operator():
        await stage.session("desk", homes.template)
        await stage.run("desk")
        running = await homes.vdi(*words(homes, "--user", ALICE))
        assert running.code == 1
        (refused,) = running.json()["homes"]
        command = f"vdi session suspend desk -n {stage.namespace}"
        assert f"the session 'desk' uses the home; suspend it first: {command}" in refused["message"]
        assert "copying" not in await annotations(homes, old) and await stage.get(CLAIMS, new) is None
        await stage.patch(PODS, "desk", {"metadata": {"finalizers": ["example.com/ending"]}})
        await stage.patch(SESSIONS, "desk", {"spec": {"suspended": True}})
        await stage.reach("desk", "Suspended")

        process = await homes.start(*words(homes, "--user", ALICE), "--kubectl", homes.pods.kubectl())
        assert process.stderr
        async for line in process.stderr:
            if b"waiting for the end of the pod desk" in line:
                break
        assert "copying" not in await annotations(homes, old), "its desktop has not ended"
        await stage.patch(PODS, "desk", {"metadata": {"finalizers": None}})
        out, err = await process.communicate()
        assert process.returncode == 0, (out, err)
        (report,) = json.loads(out)["homes"]
        assert (report["from"], report["to"], report["migrated"]) == (old, new, True)
        assert contents(await homes.pods.home(new)) == contents(files)
        marks = await annotations(homes, old)
        assert (marks["migrated-to"], "copying" in marks) == (new, False)
        assert await annotations(homes, new) == {"user": ALICE}
        assert "migrated-to" not in await annotations(homes, homes.claim(BOB))

        await stage.patch(SESSIONS, "desk", {"spec": {"suspended": False}})
        assert (await stage.run("desk"))["status"]["homeClaim"] == new
        again = await homes.vdi(*words(homes, "--user", ALICE))
        assert (again.code, again.json()["homes"]) == (0, [])
        removed = await homes.stage.get(CLAIMS, old)
        assert removed, "kept until it is deleted"
        process = await homes.start("rm", old, "--yes")
        assert await process.wait() == 0
        await process.communicate()


@pytest.mark.long
async def test_files_that_differ_are_listed_and_a_folder_takes_them(homes: Homes) -> None:
    other = f"{homes.template}-office"
    await homes.stage.template_named(other, persistence={"scope": "User"})
    files = await homes.make(ALICE)
    fill(files)
    first = await homes.vdi(*words(homes))
    assert first.code == 0, first.err
    shared = await homes.pods.home(user_home_claim_name(ALICE))
    await homes.stage.patch(
        CLAIMS, homes.claim(ALICE), {"metadata": {"annotations": {"vdi.kasm.io/migrated-to": None}}}
    )
    (files / "paper.txt").write_text("another")
    refused = await homes.vdi(*words(homes))
    assert refused.code == 1
    (report,) = refused.json()["homes"]
    assert (report["paths"], report["pathCount"]) == (["a b/.c/same", "paper.txt"], 2)
    assert "copying" not in await annotations(homes, homes.claim(ALICE))
    assert "copying" not in await annotations(homes, user_home_claim_name(ALICE))
    assert (shared / "paper.txt").read_text() == "precious"
    beside = await homes.vdi(*words(homes, "--into", "from-cad"))
    assert beside.code == 0, beside.err
    assert contents(shared / "from-cad") == contents(files)


@pytest.mark.long
async def test_a_migration_that_was_killed_keeps_desktops_waiting_and_goes_on(homes: Homes) -> None:
    """Nothing is lost, a second one at the same time is refused, and the next one completes it."""
    stage, old, new = homes.stage, homes.claim(ALICE), user_home_claim_name(ALICE)
    await stage.node("one")
    files = await homes.make(ALICE)
    fill(files)
    before = contents(files)
    stuck = homes.pods.kubectl("stuck", STUCK)
    process = await homes.start(*words(homes), "--kubectl", stuck)

    async def is_marked() -> bool:
        target = await stage.get(CLAIMS, new)
        return target is not None and "copying" in await annotations(homes, old)

    await eventually(is_marked, "both homes are marked")
    async with stage.operator():
        await stage.session("desk", homes.template)
        await stage.reach("desk", "Pending", f"The home {old!r} is in use by `vdi home migrate`")
        second = await homes.vdi(*words(homes))
        assert (second.code, "is being copied by the pod" in second.json()["homes"][0]["message"]) == (1, True)
        process.kill()
        await process.communicate()

        async def ended() -> bool:
            pod = await stage.get(PODS, f"copy-{old}")
            return pod is not None and pod["status"]["phase"] in ("Succeeded", "Failed")

        await eventually(ended, "the pod ends with its command")
        await stage.reach("desk", "Pending", "is in use by `vdi home migrate`")
        again = await homes.vdi(*words(homes))
        assert again.code == 0, again.err
        assert contents(await homes.pods.home(new)) == before == contents(files)
        assert (await stage.run("desk"))["status"]["homeClaim"] == new


async def test_an_interrupted_migration_leaves_the_home_as_it_was(homes: Homes) -> None:
    stage, old, new = homes.stage, homes.claim(ALICE), user_home_claim_name(ALICE)
    files = await homes.make(ALICE)
    fill(files)
    stuck = homes.pods.kubectl("stuck", STUCK)
    process = await homes.start(*words(homes), "--kubectl", stuck)

    async def is_marked() -> bool:
        return await stage.get(CLAIMS, new) is not None

    await eventually(is_marked, "the new home is there")
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, "the home that was being copied is unchanged" in err.decode()) == (130, True)
    await stage.gone(CLAIMS, new)
    assert await stage.all(PODS) == []
    assert set(await annotations(homes, old)) == {"user", "template"}


@pytest.mark.long
async def test_back_to_a_home_of_the_template(homes: Homes) -> None:
    files = await homes.make(ALICE)
    fill(files)
    assert (await homes.vdi(*words(homes))).code == 0
    shared = await homes.pods.home(user_home_claim_name(ALICE))
    (shared / "new.txt").write_text("later")
    back = ["migrate", "--template", homes.template, "--to", "UserAndTemplate", "-o", "json"]
    done = await homes.vdi(*back)
    assert done.code == 0, done.err
    assert json.loads(done.out)["homes"][0]["to"] == homes.claim(ALICE)
    assert (files / "new.txt").read_text() == "later"
    assert set(await annotations(homes, homes.claim(ALICE))) == {"user", "template"}
    assert set(await annotations(homes, user_home_claim_name(ALICE))) == {"user"}
