"""`vdi home export` and `import` against a real API server; the test is the kubelet, and tar runs
on this machine.
"""

import asyncio
import gzip
import json
import os
import signal
import stat
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster.home_pods import ALICE, BOB, Homes, contents, fill, open_homes
from cluster.operator_stage import Stage
from support.waiting import eventually
from vdi.kinds import SESSIONS, TEMPLATES
from vdi.kube.resource import CLAIMS, PODS
from vdi.session.naming import user_home_claim_name

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
async def homes(stage: Stage, kubeconfig: Path, tmp_path: Path) -> AsyncIterator[Homes]:
    async with open_homes(stage, kubeconfig, tmp_path) as homes:
        yield homes


async def test_exported_home_is_imported_unchanged(homes: Homes) -> None:
    """For another user; the archive is for its owner alone, and the new home is marked by
    nothing.
    """
    old = await homes.make(ALICE)
    fill(old)
    archive = homes.folder / "alice.tar.gz"
    exported = await homes.vdi("export", homes.claim(ALICE), archive, "-o", "json")
    assert exported.code == 0, exported.err
    report = exported.json()
    assert (report["home"], report["user"], report["warnings"]) == (homes.claim(ALICE), ALICE, [])
    assert (
        report["archiveBytes"] == archive.stat().st_size
        and stat.S_IMODE(archive.stat().st_mode) == 0o600
    )

    imported = await homes.vdi(*homes.import_words(archive))
    assert imported.code == 0, imported.err
    assert imported.out.decode().startswith(f"{homes.claim(BOB)} of {BOB}: ")
    new = await homes.pods.home(homes.claim(BOB))
    assert new != old and contents(new) == contents(old)
    assert (new / "sparse").stat().st_blocks < 1000
    claim = await homes.stage.until(CLAIMS, homes.claim(BOB))
    assert claim["metadata"]["annotations"] == {
        "vdi.kasm.io/user": BOB,
        "vdi.kasm.io/template": homes.template,
    }
    assert claim["spec"]["resources"]["requests"]["storage"] == "2Gi"
    assert await homes.stage.all(PODS) == []
    for pod in homes.pods.seen:  # the API server holds them to Pod Security `restricted`
        assert (
            pod["spec"]["securityContext"]["fsGroup"]
            == 1234
            == pod["spec"]["securityContext"]["runAsUser"]
        )
        assert pod["spec"]["containers"][0]["image"] == "registry.example.com/desktop:1"
        assert pod["spec"]["nodeSelector"] == homes.stage.here


async def test_archive_is_exported_and_imported_through_pipes(homes: Homes) -> None:
    fill(await homes.make(ALICE))
    exported = await homes.vdi("export", homes.claim(ALICE), "-", "-o", "json")
    assert exported.code == 0, exported.err
    assert json.loads(exported.err.splitlines()[-1])["archiveBytes"] == len(exported.out)
    plain = gzip.decompress(exported.out)
    imported = await homes.vdi(*homes.import_words("-"), "--size", "3Gi", "-o", "json", stdin=plain)
    assert imported.code == 0, imported.err
    assert imported.json()["contentBytes"] == len(plain)
    old, new = await homes.pods.home(homes.claim(ALICE)), await homes.pods.home(homes.claim(BOB))
    assert contents(new) == contents(old)
    claim = await homes.stage.until(CLAIMS, homes.claim(BOB))
    assert claim["spec"]["resources"]["requests"]["storage"] == "3Gi"


@pytest.mark.long
async def test_an_empty_home_is_an_archive_too(homes: Homes) -> None:
    await homes.make(ALICE)
    archive = homes.folder / "empty.tar.gz"
    assert (await homes.vdi("export", homes.claim(ALICE), archive)).code == 0
    assert (await homes.vdi(*homes.import_words(archive))).code == 0
    assert contents(await homes.pods.home(homes.claim(BOB))) == {}


async def test_interrupted_export_leaves_no_archive(homes: Homes) -> None:
    fill(await homes.make(ALICE))
    archive = homes.folder / "alice.tar.gz"
    cut = homes.pods.kubectl("cut", 'script = f"({script}) | head -c 20000"')
    ended = await homes.vdi("export", homes.claim(ALICE), archive, kubectl=cut)
    assert ended.code == 1
    assert "truncated: the end of its compressed data is missing" in ended.err
    assert ended.err.endswith("No file was kept.\n"), ended.err
    fails = homes.pods.kubectl(
        "fails", 'script = "echo error: unable to upgrade connection >&2; exit 1"'
    )
    ended = await homes.vdi("export", homes.claim(ALICE), archive, kubectl=fails)
    assert (ended.code, "unable to upgrade connection" in ended.err) == (1, True), ended.err
    assert not [path for path in homes.folder.iterdir() if "tar.gz" in path.name]
    assert await homes.stage.all(PODS) == []


@pytest.mark.long
async def test_damaged_archive_creates_no_home(homes: Homes) -> None:
    fill(await homes.make(ALICE))
    archive = homes.folder / "alice.tar.gz"
    await homes.vdi("export", homes.claim(ALICE), archive)
    cut = gzip.decompress(archive.read_bytes())[:20480]
    for data, words in (
        (cut, "truncated: the end of the tar archive is missing"),
        (b"text" * 999, "not a tar archive"),
    ):
        archive.write_bytes(data)
        ended = await homes.vdi(*homes.import_words(archive))
        assert (ended.code, words in ended.err) == (1, True), ended.err
        await homes.nothing_left(homes.claim(BOB))


async def test_import_does_not_change_an_existing_home(homes: Homes) -> None:
    home = await homes.make(BOB)
    (home / "paper.txt").write_text("precious")
    archive = homes.folder / "bob.tar.gz"
    await homes.vdi("export", homes.claim(BOB), archive)
    refused = await homes.vdi(*homes.import_words(archive))
    assert refused.code == 1
    assert f"vdi home rm {homes.claim(BOB)} -n {homes.stage.namespace}" in refused.err
    again = await homes.vdi("export", homes.claim(BOB), archive)
    assert (again.code, "already exists; name another file" in again.err) == (2, True)
    assert (home / "paper.txt").read_text() == "precious"
    assert await homes.stage.all(PODS) == []


@asynccontextmanager
async def half_imported(homes: Homes, archive: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """An import that has unpacked some files, and waits for the rest of its archive."""
    pipe = asyncio.subprocess.PIPE
    process = await homes.start(
        *homes.import_words("-"), "--kubectl", homes.pods.kubectl(), stdin=pipe
    )
    assert process.stdin
    process.stdin.write(await asyncio.to_thread(archive.read_bytes))
    try:
        claim = await homes.stage.until(CLAIMS, homes.claim(BOB))
        home = homes.pods.volume(claim["metadata"]["uid"])
        await eventually(lambda: any(home.iterdir()), "files are unpacked")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def large_archive(homes: Homes) -> tuple[Path, Path]:
    """An archive of several chunks whose end is missing, and the whole one."""
    home = await homes.make(ALICE)
    fill(home)
    for number in range(4):
        (home / f"data-{number}").write_bytes(os.urandom(1 << 20))
    whole, begin = homes.folder / "alice.tar.gz", homes.folder / "begin"
    assert (await homes.vdi("export", homes.claim(ALICE), whole)).code == 0
    begin.write_bytes(whole.read_bytes()[: 3 << 20])
    return begin, whole


async def test_an_interrupted_import_leaves_nothing(homes: Homes) -> None:
    begin, _ = await large_archive(homes)
    async with half_imported(homes, begin) as process:
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), 60)
    assert (
        process.returncode,
        "Interrupted; the pod is removed. No home was created." in err.decode(),
    ) == (130, True)
    assert "Traceback" not in err.decode()
    await homes.nothing_left(homes.claim(BOB))


@pytest.mark.long
async def test_killed_import_blocks_the_home_until_repeated(homes: Homes) -> None:
    begin, whole = await large_archive(homes)
    stage, claim = homes.stage, homes.claim(BOB)
    await stage.node("one")
    async with stage.operator():
        async with half_imported(homes, begin) as process:
            await stage.session("desk", homes.template, user=BOB)
            await stage.reach(
                "desk", "Pending", f"The home {claim!r} is in use by `vdi home import`"
            )
            second = await homes.vdi(*homes.import_words(whole))
            assert (
                second.code,
                f"kubectl -n {stage.namespace} delete pod copy-{claim}" in second.err,
            ) == (1, True)
            process.kill()

        await stage.until(
            PODS,
            f"copy-{claim}",
            lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"),
            "it has ended",
        )
        assert any((await homes.pods.home(claim)).iterdir())
        await stage.reach("desk", "Pending", "is in use by `vdi home import`")
        again = await homes.vdi(*homes.import_words(whole))
        assert again.code == 0, again.err
        old, new = await homes.pods.home(homes.claim(ALICE)), await homes.pods.home(claim)
        assert contents(new) == contents(old)
        await stage.run("desk")


@pytest.mark.long
async def test_a_home_is_created_only_where_its_desktops_have_a_gpu(homes: Homes) -> None:
    """The pod is the first consumer of its volume, and requests no GPU itself."""
    stage, archive = homes.stage, homes.folder / "alice.tar.gz"
    await homes.make(ALICE)
    assert (await homes.vdi("export", homes.claim(ALICE), archive)).code == 0
    await stage.patch(TEMPLATES, homes.template, {"spec": {"resources": {"defaultGPU": 1}}})
    await stage.node("cpu", gpu="0")
    refused = await homes.vdi(*homes.import_words(archive))
    assert (
        refused.code,
        f"no node can run desktops of the template '{homes.template}'" in refused.err,
    ) == (1, True)
    await homes.nothing_left(homes.claim(BOB))
    names = [await stage.node("a"), await stage.node("b")]
    imported = await homes.vdi(*homes.import_words(archive))
    assert imported.code == 0, imported.err
    affinity = homes.pods.seen[-1]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [term["matchFields"][0]["values"] for term in terms] == [[name] for name in names]


async def test_import_follows_the_scope_of_the_template(homes: Homes) -> None:
    archive = homes.folder / "archive.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(homes.pods.folder / "pods", "folder")
    shared = await homes.stage.template_named(
        f"{homes.stage.namespace}-shared", persistence={"scope": "User"}
    )
    words: list[str | Path] = ["import", archive, "--user", BOB, "--template"]
    imported = await homes.vdi(*words, shared, "-o", "json")
    assert (imported.code, imported.json()["home"]) == (0, user_home_claim_name(BOB)), imported.err
    claim = await homes.stage.until(CLAIMS, user_home_claim_name(BOB))
    assert claim["metadata"]["annotations"] == {"vdi.kasm.io/user": BOB}
    own = await homes.stage.template_named(
        f"{homes.stage.namespace}-own", persistence={"scope": "Session"}
    )
    refused = await homes.vdi(*words, own)
    assert (refused.code, "no home that stays (persistence.scope: Session)" in refused.err) == (
        2,
        True,
    )
    assert await homes.stage.all(SESSIONS) == []
