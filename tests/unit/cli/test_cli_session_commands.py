"""The session commands against a fake cluster: what they send, print and return."""

import io
import json
import webbrowser

import pytest

from unit.cli.conftest import Vdi
from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import (
    CORE,
    EVENTS,
    SESSIONS,
    TEMPLATES,
    a_pod,
    a_session,
    a_template,
    conditions,
    running,
)
from vdi.cli.progress import ProgressView
from vdi.session.naming import home_claim_name

HOME = home_claim_name(
    session_name="", user="alice@example.com", template="ubuntu-desktop", retain=True
)

pytestmark = pytest.mark.usefixtures("five_past_eight")


# create


def test_create_sends_only_what_was_typed(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(TEMPLATES, a_template())
    ran = vdi("session", "create", "--template", "ubuntu-desktop", "--user", "alice@example.com")
    assert (ran.code, ran.err) == (0, "")
    assert (
        ran.out
        == "session alice-ubuntu-desktop created; see vdi session show alice-ubuntu-desktop\n"
    )
    assert fake.bodies[0]["spec"] == {"user": "alice@example.com", "template": "ubuntu-desktop"}


def test_create_of_an_unknown_template_is_refused(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(TEMPLATES, a_template("cad"))
    words = ("session", "create", "-t", "nope", "--user", "a@b.cd")
    refused = vdi(*words)
    said = "Error: there is no template nope; available on this cluster: cad\n"
    assert (refused.code, refused.err, fake.bodies) == (1, said, [])
    for path in (TEMPLATES, f"{TEMPLATES}/nope"):
        fake.refuse("GET", path, 403, reason="Forbidden", message="no", details={})
    assert vdi(*words).code == 0, "whoever may not read templates may still use them"


def test_create_sends_every_flag(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(TEMPLATES, a_template("cad"))
    words = (
        "session create big -t cad --user a@b.cd --gpu 2 --memory 16Gi --cpu 4 --timeout 4h"
        " --hostname alice"
    )
    words += " --idle-timeout 30m --time-zone Asia/Calcutta --priority -5 --ephemeral-storage 9Gi"
    assert vdi(*words.split(), "--home-size", "20Gi", "--delete-home", "-o", "json").code == 0
    assert fake.bodies[0]["metadata"] == {"name": "big", "namespace": "vdi-sessions"}
    assert fake.bodies[0]["spec"] == {
        "user": "a@b.cd",
        "template": "cad",
        "resources": {"gpu": 2, "memory": "16Gi", "cpu": "4", "ephemeralStorage": "9Gi"},
        "persistence": {"size": "20Gi", "retain": False},
        "hostname": "alice",
        "timeout": "4h",
        "idleTimeout": "30m",
        "timeZone": "Asia/Calcutta",
        "priority": -5,
    }


def test_create_adds_the_template_s_other_resources(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(TEMPLATES, a_template())
    vdi("session", "create", "-t", "ubuntu-desktop", "--user", "a@b.cd", "--cpu", "4")
    assert fake.bodies[0]["spec"]["resources"] == {"gpu": 1, "memory": "8Gi", "cpu": "4"}


def test_create_takes_the_user_from_the_environment(
    vdi: Vdi, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.put(TEMPLATES, a_template("x"))
    ran = vdi("session", "create", "-t", "x")
    assert ran.code == 2 and "--user alice@example.com, or set VDI_USER" in ran.err
    monkeypatch.setenv("VDI_USER", "bob@example.com")
    assert vdi("session", "create", "-t", "x").code == 0
    assert fake.bodies[0]["spec"]["user"] == "bob@example.com"


def test_a_taken_name_is_reported_with_its_owner(vdi: Vdi, alice: FakeCluster) -> None:
    alice.put(TEMPLATES, a_template("x"))
    ran = vdi("session", "create", "alice-desktop", "-t", "x", "--user", "bob@example.com")
    assert ran.code == 1
    assert "already exists" in ran.err
    assert "alice@example.com, template ubuntu-desktop, Running" in ran.err


# create --wait

URL_NO_ONE_ANSWERS = "https://alice-desktop.vdi.localhost:1"


def test_wait_shows_the_stages_and_the_total(
    vdi: Vdi, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.cli.session.wait._UNREACHABLE_AFTER_SECONDS", 0.0)
    texts, show = [""], ProgressView.waiting

    def waiting(view: ProgressView, text: str) -> None:
        show(view, text)
        texts.append(text)

    monkeypatch.setattr(ProgressView, "waiting", waiting)
    fake.put(TEMPLATES, a_template())
    found = conditions(TemplateFound=True)
    fake.after_write(
        {
            "phase": "Pending",
            "message": "Waiting for capacity, number 1 in line.",
            "conditions": found,
        },
        {"phase": "Creating", "message": "The image is being pulled.", "conditions": found},
        running(url=URL_NO_ONE_ANSWERS),
        noticed=lambda status: any(status.get("message", "") in text for text in texts),
    )
    ran = vdi(
        "session",
        "create",
        "alice-desktop",
        "-t",
        "ubuntu-desktop",
        "--user",
        "a@b.cd",
        "--wait",
        "-o",
        "json",
    )
    assert ran.code == 0, ran.err
    stages = [line.rpartition(" ")[0] for line in ran.err.splitlines() if line.startswith("✓")]
    assert (stages[0], stages[-1]) == ("✓ the operator is processing it", "✓ session Running")
    assert ran.err.index("number 1 in line") < ran.err.index("The image is being pulled.")
    assert "cannot be reached from this machine" in ran.err
    assert "Running after" in ran.err
    assert json.loads(ran.out)["status"]["phase"] == "Running"


def test_wait_names_the_missing_operator(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(TEMPLATES, a_template("x"))
    ran = vdi(
        "session", "create", "s", "-t", "x", "--user", "a@b.cd", "--wait", "--timeout-wait", "1s"
    )
    assert ran.code == 1
    assert "session s is not Running after 1s: no operator has processed the session yet" in ran.err


def test_wait_checks_its_time_limit_before_it_creates(vdi: Vdi, fake: FakeCluster) -> None:
    ran = vdi(
        "session",
        "create",
        "s",
        "-t",
        "x",
        "--user",
        "a@b.cd",
        "--wait",
        "--timeout-wait",
        "5 minutes",
    )
    assert ran.code == 2
    assert "--timeout-wait: '5 minutes'" in ran.err
    assert fake.bodies == []


# ls


def test_ls_lists_oldest_first(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session("b", status=running(url="https://b.example.com")))
    older = a_session("a")
    older["metadata"]["creationTimestamp"] = "2026-11-20T07:00:00Z"
    fake.put(SESSIONS, older)
    ran = vdi("session", "ls")
    assert ran.out.splitlines() == [
        "NAME   USER                TEMPLATE         PHASE     NOTE   AGE    URL",
        "a      alice@example.com   ubuntu-desktop   -         -      1h5m   -",
        "b      alice@example.com   ubuntu-desktop   Running   -      5m     https://b.example.com",
    ]


def test_ls_notes_warnings_queue_and_files_in_use(vdi: Vdi, fake: FakeCluster) -> None:
    warnings = conditions(Expiring=True, Idle=True, Draining=True)
    soon = running(conditions=warnings, expiresAt="2026-11-20T08:09:00Z", failures={"count": 2})
    fake.put(SESSIONS, a_session("a", status=soon))
    fake.put(
        SESSIONS,
        a_session("b", status={"phase": "Pending", "queue": {"position": 3, "reason": "GPUsBusy"}}),
    )
    fake.put(SESSIONS, a_session("c", status={"phase": "Suspended"}, suspended=True))
    held = conditions(Admitted="The files are in use.")[0] | {"reason": "HomeInUse"}
    fake.put(SESSIONS, a_session("d", status={"phase": "Pending", "conditions": [held]}))
    rows = [line.split("   ") for line in vdi("session", "ls").out.splitlines()[1:]]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert [row[3:5] for row in cells] == [
        ["Running", "ends in 4m, idle, node drains, lost 2x"],
        ["Pending", "number 3 in line"],
        ["Suspended", "-"],
        ["Pending", "files in use"],
    ]


def test_notice_plans_the_end_of_all_sessions_of_a_template(vdi: Vdi, fake: FakeCluster) -> None:
    for name, template in (("a", "cad"), ("b", "cad"), ("c", "other")):
        fake.put(SESSIONS, a_session(name, template=template))
    ran = vdi(
        "session", "suspend", "--template", "cad", "--notice", "15m", "--message", "Maintenance"
    )
    assert ran.out.splitlines() == [
        f"session {name} has a planned end: Suspend at 2026-11-20T08:20:00Z" for name in "ab"
    ], ran.err
    planned = {"time": "2026-11-20T08:20:00Z", "action": "Suspend", "message": "Maintenance"}
    assert [fake.objects[f"{SESSIONS}/{name}"]["spec"].get("plannedEnd") for name in "abc"] == [
        planned,
        planned,
        None,
    ]
    ended = vdi("session", "rm", "vdisession/c", "--notice", "1h")
    assert ended.out == "session c has a planned end: Terminate at 2026-11-20T09:05:00Z\n"
    partly = vdi("session", "suspend", "gone", "b", "--notice", "off")
    assert (partly.code, partly.out) == (1, "session b has no planned end\n")
    assert "there is no session gone" in partly.err
    assert "no session matches" in vdi("session", "rm", "--node", "n", "--notice", "1m").err
    wrong = [
        "suspend",
        "rm",
        "suspend --node n",
        "rm a --node n --notice 1m",
        "suspend a b",
        "suspend a --message m",
    ]
    for words in (
        *wrong,
        *(f"rm b --notice 1m {option}" for option in ("--wait", "-ojson", "--delete-home")),
    ):
        assert vdi("session", *words.split()).code == 2, words


def test_ls_wide_of_all_namespaces(vdi: Vdi, fake: FakeCluster) -> None:
    there = SESSIONS.replace("vdi-sessions", "elsewhere")
    fake.put(there, a_session(namespace="elsewhere", status=running(message="Soon over.")))
    header, row = vdi("session", "ls", "-A", "-o", "wide").out.splitlines()
    assert header.split("   ")[0] == "NAMESPACE"
    assert row.startswith("elsewhere")
    assert row.endswith("node-1   7h55m        Soon over.")


def test_ls_of_one_user_as_names(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session("a"))
    fake.put(SESSIONS, a_session("b", user="bob@example.com"))
    assert vdi("session", "ls", "--user", "bob@example.com", "-o", "name").out == "vdisession/b\n"


# show


def test_show_prints_state_objects_and_events(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(
        SESSIONS,
        a_session(status=running(conditions=conditions(PodReady="Pulling."), phase="Creating")),
    )
    fake.put(f"{CORE}/pods", a_pod(ready=False, restarts=2))
    note = (
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are"
        " available."
    )
    event = {
        "metadata": {"name": "e1"},
        "regarding": {"kind": "Pod", "name": "alice-desktop"},
        "note": note,
    }
    seen = {
        "reason": "FailedScheduling",
        "deprecatedLastTimestamp": "2026-11-20T08:04:00Z",
        "deprecatedCount": 3,
    }
    fake.put(EVENTS, event | seen)
    ran = vdi("session", "show", "alice-desktop")
    assert ran.code == 0, ran.err
    assert "PodReady   False    Waiting   4m55s   Pulling." in ran.out
    assert "Pod                     alice-desktop" in ran.out
    assert "Running, not ready, restarted 2 times" in ran.out
    assert "Service                 alice-desktop" in ran.out
    assert "missing" in ran.out
    assert (
        "1m ago   Pod     There is not enough capacity on the only node: 1 without a free GPU"
        " (nvidia.com/gpu). (x3)" in ran.out
    )


def test_show_hides_events_of_an_earlier_session(vdi: Vdi, alice: FakeCluster) -> None:
    for name, time in (
        ("before", "2026-11-20T07:59:59.900000Z"),
        ("after", "2026-11-20T08:00:00.100000Z"),
    ):
        regarding = {"kind": "VDISession", "name": "alice-desktop"}
        alice.put(
            EVENTS,
            {"metadata": {"name": name}, "regarding": regarding, "note": name, "eventTime": time},
        )
    out = vdi("session", "show", "alice-desktop").out
    assert "before" not in out
    assert "VDISession   after" in out


def test_show_names_what_may_not_be_read(vdi: Vdi, alice: FakeCluster) -> None:
    alice.refuse(
        "GET",
        f"{CORE}/secrets/alice-desktop-auth",
        403,
        reason="Forbidden",
        message="secrets is forbidden",
    )
    alice.refuse("GET", EVENTS, 403, reason="Forbidden", message="events is forbidden")
    ran = vdi("session", "show", "alice-desktop")
    assert ran.code == 0
    assert "Could not check Secret alice-desktop-auth: secrets is forbidden" in ran.out
    assert "Could not check the events: events is forbidden" in ran.out


def test_show_of_nothing_names_the_namespace(vdi: Vdi, fake: FakeCluster) -> None:
    ran = vdi("session", "show", "nobody", "-n", "team-a")
    assert (ran.code, ran.err) == (1, "Error: there is no session nobody in namespace team-a\n")
    fake.put(SESSIONS, a_session())
    assert vdi("session", "show", "alice-desktop", "-o", "yaml").out.startswith(
        "apiVersion: vdi.kasm.io/v1alpha1\n"
    )


# open


def test_open_prints_the_password_and_keeps_it_from_the_browser(
    vdi: Vdi, alice: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    ran = vdi("session", "open", "alice-desktop")
    assert ran.out == f"URL:      {URL_NO_ONE_ANSWERS}\nUser:     user\nPassword: s3cret\n"
    assert "no graphical browser here" in ran.err
    monkeypatch.setenv("DISPLAY", ":0")
    assert vdi("session", "open", "alice-desktop").code == 0
    assert opened == [URL_NO_ONE_ANSWERS]


def test_open_behind_a_gateway_shows_no_password(vdi: Vdi, behind_gateway: FakeCluster) -> None:
    """The Secret holds Selkies' master token then, which opens the desktop past the gateway."""
    ran = vdi("session", "open", "alice-desktop", "--print")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        f"URL:      {URL_NO_ONE_ANSWERS}",
        "The browser asks for the portal's login if you are not logged in there.",
    ]
    assert json.loads(vdi("session", "open", "alice-desktop", "-o", "json").out) == {
        "url": URL_NO_ONE_ANSWERS
    }
    assert not any("secrets" in path for _, path in behind_gateway.requests)


def test_open_needs_a_running_desktop(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(
        SESSIONS, a_session(status={"phase": "Creating", "message": "The image is being pulled."})
    )
    ran = vdi("session", "open", "alice-desktop")
    assert ran.code == 1
    assert "is Creating, so there is nothing to open: The image is being pulled." in ran.err


# rm


def test_rm_as_json_names_what_is_deleted_despite_errors(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session(persistence={"retain": False}))
    ran = vdi(
        "session", "rm", "nobody", "alice-desktop", "alice-desktop", "--yes", "--wait", "-o", "json"
    )
    assert json.loads(ran.out) == {
        "deleted": ["alice-desktop"],
        "deletedHomes": ["alice-desktop-home"],
    }
    assert ran.code == 1
    assert "session alice-desktop was deleted in " in ran.err
    assert "there is no session nobody" in ran.err
    assert f"{SESSIONS}/alice-desktop" not in fake.objects


def test_rm_as_json_leaves_out_what_still_exists(
    vdi: Vdi, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> bool:
        return False

    monkeypatch.setattr("vdi.cli.session.operations.until_gone", never)
    fake.put(SESSIONS, a_session())
    ran = vdi("session", "rm", "alice-desktop", "--wait", "-o", "json")
    assert json.loads(ran.out) == {"deleted": [], "deletedHomes": []}
    assert (ran.code, "session alice-desktop still exists after 1m" in ran.err) == (1, True)


@pytest.mark.parametrize("words", [["--delete-home"], []])
def test_rm_deletes_no_files_unasked(vdi: Vdi, fake: FakeCluster, words: list[str]) -> None:
    fake.put(SESSIONS, a_session(persistence={"retain": bool(words)}))
    for claim in ("alice-desktop-home", HOME):
        fake.put(f"{CORE}/persistentvolumeclaims", {"metadata": {"name": claim}})
    ran = vdi("session", "rm", "alice-desktop", *words)
    assert ran.code == 2
    assert "use --yes" in ran.err
    assert not [path for method, path in fake.requests if method == "DELETE"]


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1)])
def test_rm_asks_before_files_are_deleted(
    vdi: Vdi, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    fake.put(SESSIONS, a_session(persistence={"retain": False}))
    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
    ran = vdi("session", "rm", "alice-desktop")
    assert "This deletes all files in these homes:\n  alice-desktop: alice-desktop-home" in ran.err
    assert ran.code == code
    assert (f"{SESSIONS}/alice-desktop" in fake.objects) is (code == 1)


def test_rm_deletes_the_home_on_request(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session())
    fake.put(f"{CORE}/persistentvolumeclaims", {"metadata": {"name": HOME}})
    ran = vdi("session", "rm", "alice-desktop", "--delete-home", "--yes", "--wait")
    assert ran.code == 0
    assert ran.out.endswith(f" s, with its home {HOME}\n")
    assert fake.objects == {}


def test_rm_keeps_a_home_that_another_session_has(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(SESSIONS, a_session())
    fake.put(SESSIONS, a_session("second"))
    ran = vdi("session", "rm", "alice-desktop", "--delete-home", "--yes")
    assert ran.code == 1
    assert "share their files, so nothing was deleted" in ran.err
    assert len(fake.objects) == 2


# logs


def test_logs_prints_the_desktop_s_log(vdi: Vdi, alice: FakeCluster) -> None:
    alice.logs[f"{CORE}/pods/alice-desktop"] = "one\ntwo\n"
    assert vdi("session", "logs", "alice-desktop").out == "one\ntwo\n"


def test_logs_without_a_pod_show_the_reason(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(
        SESSIONS, a_session(status={"phase": "Pending", "message": "There is no template 'x'."})
    )
    ran = vdi("session", "logs", "alice-desktop")
    assert ran.code == 1
    assert (
        "session alice-desktop (Pending) has no pod, so there is no log: There is no template 'x'."
        in ran.err
    )


# templates


def test_templates_are_listed_and_shown(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(TEMPLATES, a_template())
    assert vdi("template", "ls").out.splitlines() == [
        "NAME             DISPLAY NAME   GPU   MEMORY   CPU   PRE-PULL   AGE",
        "ubuntu-desktop   Ubuntu         1     8Gi      2     -          5m",
    ]
    shown = vdi("template", "show", "ubuntu-desktop").out
    assert "Image:     localhost/vdi/desktop:dev" in shown
    assert "Runs:      set by the session, then deleted" in shown
    assert "Pre-pull" not in shown


def test_a_template_shows_lifecycle_and_pre_pull(vdi: Vdi, fake: FakeCluster) -> None:
    life = {
        "maxTimeout": "12h",
        "onTimeout": "Suspend",
        "idleTimeout": "30m",
        "onIdle": "Terminate",
    }
    template = a_template("cad", prePull=True, lifecycle=life, persistence={"maxSize": "50Gi"})
    fake.put(TEMPLATES, template)
    assert " not begun " in vdi("template", "ls").out
    failed = [
        {"node": "n4", "reason": "ErrImagePull", "message": "The registry does not know the image."}
    ]
    progress = {"image": "cad:2", "desired": 4, "ready": 2, "pulling": ["n3"], "failed": failed}
    fake.put(TEMPLATES, {**template, "status": {"prePull": progress}})
    assert " 2/4 nodes, 1 failed " in vdi("template", "ls").out
    shown = vdi("template", "show", "cad").out
    assert "Home:      10Gi, at most 50Gi, at /home/user, class local-path\n" in shown
    assert "Runs:      at most 12h, then suspended; after 30m without use then deleted\n" in shown
    assert (
        "Pre-pull of cad:2: 2 of 4 nodes have it\n"
        "  in progress: n3\n"
        "  failed on n4: The registry does not know the image.\n" in shown
    )


def test_a_missing_template_is_reported_with_the_others(vdi: Vdi, fake: FakeCluster) -> None:
    fake.put(TEMPLATES, a_template("cad"))
    ran = vdi("template", "show", "cat")
    assert (ran.code, ran.err) == (
        1,
        "Error: there is no template cat; available on this cluster: cad\n",
    )
