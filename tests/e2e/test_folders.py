"""Shared folders, files in the home and start-up scripts on a real node."""

from collections.abc import Iterator, Mapping, Sequence

import pytest
import yaml

from e2e.desktops import create, reach, run_in, template
from e2e.world import NAMESPACE, World
from support.waiting import wait_until
from vdi.demo.browser import DesktopBrowser

pytestmark = pytest.mark.timeout(300)

VOLUMES = yaml.safe_load("""
- {name: team, mountPath: /team, subPath: teams/library, persistentVolumeClaim: {claimName: folders},
   groups: [{name: cad, readOnly: false}, {name: staff}]}
- {name: own, mountPath: /own, subPath: "users/{user}", readOnly: false, persistentVolumeClaim: {claimName: folders}}
- {name: git, mountPath: /home/user/.config/git/config, subPath: config, configMap: {name: folders}}
- {name: licence, mountPath: /home/user/licence, secret: {secretName: folders}}
""")
OBJECTS = yaml.safe_load(r"""
- kind: PersistentVolumeClaim
  spec: {accessModes: [ReadWriteOnce], storageClassName: local-path, resources: {requests: {storage: 1Gi}}}
- kind: ConfigMap
  data: {config: "[user]\n\tname = Ada\n", startup.sh: "id -u; touch ~/template-was-here\n"}
- {kind: Secret, stringData: {key: "4711"}}
""")


@pytest.fixture
def cad(sessions: World) -> Iterator[World]:
    """A world with the template `cad` and what it mounts."""
    for made in OBJECTS:
        body = {"apiVersion": "v1", "metadata": {"name": "folders", "namespace": NAMESPACE}, **made}
        sessions.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))
    script = {"configMapKeyRef": {"name": "folders"}}
    with template(sessions, "cad", volumes=VOLUMES, startupScript=script):
        yield sessions
    for made in OBJECTS:
        sessions.kubectl("delete", made["kind"], "folders", "--wait=false")


def start(world: World, groups: Mapping[str, Sequence[str]]) -> None:
    create(world, "cad", groups)
    for name in groups:
        reach(world, name, "Running", seconds=120)


@pytest.mark.long
def test_team_folder_access_follows_groups(cad: World) -> None:
    start(cad, {"ada": ("cad",), "bob": ("staff",), "eve": ()})
    assert (
        run_in(
            cad,
            "ada",
            "echo plan > /team/plan && echo mine > /own/note && cat /team/plan /own/note",
        )
        == "plan\nmine\n"
    )
    assert (
        run_in(cad, "bob", "cat /team/plan; touch /team/x || echo refused; ls -A /own")
        == "plan\nrefused\n"
    )
    assert run_in(cad, "eve", "ls -d /team 2>/dev/null || echo absent; ls -A /own") == "absent\n"


@pytest.mark.ci
def test_parents_of_mounted_files_belong_to_the_user(cad: World) -> None:
    start(cad, {"ada": ()})
    seen = run_in(
        cad,
        "ada",
        "cd ~ && stat -c %u .config .config/git && touch .config/git/x && cat .config/git/config"
        " licence/key",
    )
    assert seen == "1000\n1000\n[user]\n\tname = Ada\n4711"
    assert run_in(cad, "ada", "echo x > ~/licence/key || echo refused") == "refused\n"


@pytest.mark.long
def test_startup_scripts_run_as_the_user_and_are_logged(cad: World) -> None:
    start(cad, {"ada": ()})
    run_in(
        cad,
        "ada",
        "test -e ~/template-was-here && mkdir -p ~/.config/vdi && echo 'echo hello of ada' >"
        " ~/.config/vdi/startup.sh",
    )
    cad.vdi("session", "restart", "ada")
    reach(cad, "ada", "Running")

    def logged() -> bool:
        # The pod may just be replaced.
        log = cad.vdi("session", "logs", "ada", "--tail", "200", check=False)
        return "hello of ada" in log and "the template's start-up script ended with status 0" in log

    wait_until("both scripts are in the log", logged)

    with DesktopBrowser(cad.portal, cad.login("ada@example.com")) as browser:
        browser.log_in()
        browser.page.goto(f"{cad.portal}/desktops/ada")
        section = browser.page.locator(
            "section", has=browser.page.get_by_role("heading", name="Start-up scripts")
        )
        shown = " ".join(section.inner_text().split())
        assert shown.startswith(
            "Start-up scripts Of the template Completed 1000 Your own Completed"
        ), shown
        assert shown.endswith("hello of ada")
        with browser.beside(cad.login("eve@example.com")) as other:
            other.log_in()
            refused = other.page.goto(f"{cad.portal}/desktops/ada")
            assert refused and refused.status == 404
