"""What is concluded from recorded observations of images of every kind."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vdi.findings.model import Finding, Severity, exit_code
from vdi.findings.render import as_data, as_junit, as_sarif, as_text
from vdi.image_check import codes
from vdi.image_check.judge import derive_levels, judge, make_report
from vdi.image_check.observation import HttpResult, Inside, Observation, Stopped, Stream
from vdi.session.observed import Terminated

STARTED: dict[str, Any] = {
    "node": "k3s-1",
    "pulled": 'Successfully pulled image "registry.example.com/x:1" in 12.1s',
    "grace_seconds": 3,
    "waited_seconds": 14.0,
}
SERVING: dict[str, Any] = {
    **STARTED,
    "ready_seconds": 1.1,
    "stopped": Stopped(143, 1.24),
    "size_bytes": 429_000_000,
}
SELKIES_2: dict[str, Any] = {
    **SERVING,
    "probe_path": "/api/health",
    "mount_path": "/home/user",
    "health": HttpResult(200),
    "inside": Inside("1000", "1000", "/home/user", True),
    "token_table": HttpResult(200),
    "with_token": HttpResult(200),
    "without_token": HttpResult(401),
    "agent": HttpResult(200),
    "agent_without_token": HttpResult(401),
    "stream": Stream(True, 0.31, 38.2),
}
WEB: dict[str, Any] = {
    **SERVING,
    "generation": "",
    "port": 8888,
    "health_path": "/api",
    "probe_path": "/api",
    "health": HttpResult(200),
    "mount_path": "/home/lab",
    "inside": Inside("1000", "1000", "/home/lab", True),
}


def seen(**fields: Any) -> Observation:
    subject = {"subject": "vditemplate/cad", "image": "registry.example.com/x:1", "generation": "2"}
    return Observation(**{**subject, **fields})


def by_code(observation: Observation) -> dict[str, Finding]:
    """Its findings; those about what was not checked are left out."""
    return {finding.code: finding for finding in judge(observation) if finding.code != codes.NOT_CHECKED}


def not_checked(observation: Observation) -> list[str]:
    return [finding.message for finding in judge(observation) if finding.code == codes.NOT_CHECKED]


def wrong(observation: Observation) -> dict[str, str]:
    """Messages of what is wrong, by code."""
    return {
        code: finding.message
        for code, finding in by_code(observation).items()
        if finding.severity in (Severity.ERROR, Severity.WARNING)
    }


def levels(observation: Observation) -> dict[str, str]:
    found = derive_levels(observation, judge(observation))
    return {level.name: " ".join([level.holds, *level.missing]) for level in found}


def status(observation: Observation) -> int:
    return exit_code(judge(observation))


def test_ours_reaches_every_level() -> None:
    ours = seen(**SELKIES_2)
    assert levels(ours) == {"web": "yes", "Selkies 2": "yes", "full": "yes"}
    assert status(ours) == 0 and not wrong(ours) and not not_checked(ours)
    assert list(by_code(ours)) == list(codes.NAMES), "each check has its finding"
    found = by_code(ours)
    assert found[codes.HEALTH].message == "/api/health responds with 200."
    assert found[codes.END].message == "Ended 1.2 s after SIGTERM with exit status 143."
    assert found[codes.INPUT].message == "The picture responds to a key after 38 ms (median)."
    assert found[codes.SIZE].message == "429 MB on node k3s-1; nodes do not report its layers."


def test_ours_without_libgbm_ends_and_its_last_words_are_quoted() -> None:
    words = "[vdi-desktop] no picture can be made: the encoder's library can't be loaded: libgbm.so.1: cannot open"
    broken = seen(
        **STARTED,
        ended=Terminated(exit_code=1, reason="Error", message=f"[vdi-desktop] Xvfb listens\n{words}\n"),
        inside=Inside("1000", "1000", "/home/user", True),
        mount_path="/home/user",
        size_bytes=429_000_000,
    )
    message = wrong(broken)[codes.START]
    assert message.startswith("The container ended with exit status 1 after 14 s: [vdi-desktop] no picture")
    assert "libgbm.so.1" in message
    assert by_code(broken)[codes.START].evidence == ("[vdi-desktop] Xvfb listens",)
    assert by_code(broken)[codes.HOME].is_ok, "the second container has reported it all the same"
    (rest,) = not_checked(broken)
    assert "port, health path, start-up time, end on SIGTERM, picture, input, token table, agent" in rest
    assert rest.endswith(": the container does not run.")
    assert levels(broken)["web"] == "no start" and status(broken) == 1


def test_selkies_2_that_sends_no_picture_is_no_selkies_2() -> None:
    silent = seen(**SELKIES_2 | {"stream": Stream(problem="first picture: no picture within 15 s")})
    assert wrong(silent) == {codes.PICTURE: "There is no picture: first picture: no picture within 15 s."}
    assert levels(silent) == {"web": "yes", "Selkies 2": "no picture", "full": "no picture"}
    assert not_checked(silent) == ["Not checked: input: there is no picture that could respond to a key."]


def test_selkies_2_without_an_agent_is_not_full_and_says_that_input_is_unknown() -> None:
    plain = seen(
        **SELKIES_2
        | {
            "agent": HttpResult(problem="Server disconnected without sending a response."),
            "agent_without_token": None,
            "stream": Stream(True, 0.4),
        }
    )
    assert by_code(plain)[codes.AGENT].severity is Severity.WARNING
    assert levels(plain) == {"web": "yes", "Selkies 2": "unknown input", "full": "no agent"}
    assert not_checked(plain) == ["Not checked: input: only the agent's mark shows the effect of a key."]
    assert status(plain) == 3


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"token_table": HttpResult(404)}, "POST /api/tokens responds with 404"),
        ({"with_token": HttpResult(403)}, "responds with 403 to one of its tokens"),
        ({"without_token": HttpResult(200)}, "Accepts visitors without a token"),
    ],
)
def test_selkies_2_that_does_not_hold_to_the_token_table(answers: dict[str, Any], words: str) -> None:
    open_to_all = seen(**SELKIES_2 | answers)
    assert words in wrong(open_to_all)[codes.TOKENS]
    assert levels(open_to_all)["Selkies 2"] == "no token table" and status(open_to_all) == 1


def test_an_agent_that_needs_no_token_is_an_error() -> None:
    loose = seen(**SELKIES_2 | {"agent_without_token": HttpResult(200)})
    assert wrong(loose) == {codes.AGENT: "The agent responds without a token."}


def test_selkies_1_with_its_health_path_behind_basic_auth() -> None:
    why = (
        "The image responds to its health check, but its health path asks for a password. Set healthPath in the "
        "template."
    )
    locked = seen(
        **STARTED | {"waited_seconds": 23.0},
        generation="1",
        health_path="/health",
        probe_path="/health",
        not_ready=why,
        probe_refused=True,
        probe_message="Readiness probe failed: HTTP probe failed with statuscode: 401",
        health=HttpResult(401),
        mount_path="/home/ubuntu",
        inside=Inside("1000", "1000", "/home/ubuntu", True),
        stopped=Stopped(0, 0.6),
        size_bytes=1,
    )
    assert wrong(locked) == {codes.HEALTH: why}
    assert by_code(locked)[codes.PORT].is_ok
    assert by_code(locked)[codes.HEALTH].evidence[0] == "GET /health: 401"
    assert levels(locked) == {"web": "no health path", "Selkies 1": "no health path"}
    assert any("picture, input: Selkies 1 streams over WebRTC" in line for line in not_checked(locked))
    assert status(locked) == 1


def test_kasmvnc_with_tls_and_basic_auth() -> None:
    kasm: dict[str, Any] = {
        **SERVING,
        "generation": "",
        "port": 6901,
        "scheme": "HTTPS",
        "health_path": "/",
        "signs_in": True,
        "mount_path": "/home/kasm-user",
        "inside": Inside("1000", "1000", "/home/kasm-user", True),
        "health": HttpResult(401),
    }
    right = seen(**kasm, signed_in=HttpResult(200))
    assert by_code(right)[codes.PORT].message == "Listens on port 6901 (HTTPS)."
    words = "/ responds with 401 without a password and 200 with that of basicAuthSecret."
    assert by_code(right)[codes.HEALTH].message == words
    assert levels(right) == {"web": "yes"} and status(right) == 0

    refused = seen(**kasm, signed_in=HttpResult(401))
    assert "responds with 401 to user name and password of basicAuthSecret" in wrong(refused)[codes.HEALTH]

    unread = seen(**kasm, sign_in_unchecked="Secret kasmvnc cannot be read: forbidden")
    assert not_checked(unread) == ["Not checked: health path: Secret kasmvnc cannot be read: forbidden."]
    assert levels(unread) == {"web": "unknown health path"} and status(unread) == 3


def test_jupyterlab_is_a_web_image_and_what_that_leaves_out_is_said() -> None:
    lab = seen(**WEB)
    assert levels(lab) == {"web": "yes"} and status(lab) == 0
    notes = make_report(lab).notes
    words = "Not checked, because an image with protocol Web does not guarantee it: picture, input, token table."
    assert notes[0].strip() == words
    assert codes.PICTURE not in by_code(lab)


def test_the_missions_image_is_not_started() -> None:
    why = "The template 'mission' cannot be used: spec.image: 'gst-web' contains no desktop; use `x`."
    mission = seen(unusable=why)
    assert wrong(mission) == {codes.UNUSABLE: why}
    assert levels(mission)["web"].startswith("no ") and levels(mission)["full"].startswith("no ")
    assert status(mission) == 1


def test_a_home_that_is_mounted_elsewhere_or_not_writable() -> None:
    elsewhere = seen(**WEB | {"inside": Inside("1000", "1000", "/root", True)})
    assert "the image's $HOME is /root" in wrong(elsewhere)[codes.HOME]
    assert by_code(elsewhere)[codes.HOME].remedy.sentence == "Set persistence.mountPath in the template to /root."
    assert levels(elsewhere) == {"web": "yes"} and status(elsewhere) == 0
    closed = seen(**WEB | {"inside": Inside("1000", "1000", "/home/lab", False)})
    assert wrong(closed)[codes.HOME] == "User 1000 cannot write to the empty home /home/lab."
    other = seen(**WEB | {"inside": Inside("0", "0", "/home/lab", True)})
    assert "run as user 0" in wrong(other)[codes.USER]


def test_an_image_without_a_shell_leaves_user_and_home_open() -> None:
    bare = seen(**WEB | {"inside": None, "inside_unchecked": "the image has no sh"})
    assert not_checked(bare) == ["Not checked: user, home: the image has no sh."]
    assert levels(bare) == {"web": "unknown user home"}


def test_one_that_ignores_sigterm_is_killed() -> None:
    deaf = seen(**WEB | {"stopped": Stopped(137, 3.3)})
    assert "Did not end within 3 s of SIGTERM" in wrong(deaf)[codes.END]
    assert levels(deaf) == {"web": "no end on SIGTERM"}
    gone = seen(**WEB | {"stopped": None, "stopped_unchecked": "the node did not report how the container ended"})
    assert not_checked(gone) == ["Not checked: end on SIGTERM: the node did not report how the container ended."]


def test_a_slow_start_is_a_warning() -> None:
    assert "Ready 41.0 s after its start" in wrong(seen(**WEB | {"ready_seconds": 41.0}))[codes.START_UP]


def test_nothing_on_the_port() -> None:
    fields = WEB | {"ready_seconds": None, "health": HttpResult(problem="Connection refused")}
    quiet = seen(**fields, not_ready="The image is starting and does not respond yet.")
    assert "Nothing responds on port 8888 (HTTP)" in wrong(quiet)[codes.PORT]
    assert by_code(quiet)[codes.PORT].evidence == ("Connection refused",)
    assert levels(quiet) == {"web": "no port health path"}


def test_without_kubectl_the_kubelets_probe_is_what_is_known() -> None:
    why = "kubectl, which forwards the container's port, is not in PATH"
    no_requests = {"health": None, "stream": None, "agent": None, "token_table": None, "requests_unchecked": why}
    blind = seen(**SELKIES_2 | no_requests)
    assert by_code(blind)[codes.HEALTH].message.endswith("according to the kubelet's probe.")
    assert not_checked(blind) == [f"Not checked: picture, input, token table, agent: {why}."]
    assert levels(blind) == {
        "web": "yes",
        "Selkies 2": "unknown picture input token table",
        "full": "unknown picture input token table agent",
    }
    assert status(blind) == 3


@pytest.mark.parametrize(
    ("fields", "code", "expected"),
    [
        ({"pull_failed": "The image x cannot be pulled: the registry has no such image."}, codes.PULL, 1),
        ({"refused": 'violates PodSecurity "restricted:latest": restricted volume types'}, codes.START, 1),
        ({**STARTED, "start_failed": "The image's program cannot be started: exec format error."}, codes.START, 1),
        ({"refused": "exceeded quota: gpus"}, "", 3),
        ({"unplaced": "No node has a free GPU."}, "", 3),
    ],
)
def test_what_keeps_it_from_starting(fields: dict[str, Any], code: str, expected: int) -> None:
    stopped = seen(**fields)
    assert set(wrong(stopped)) == ({code} if code else set())
    assert status(stopped) == expected
    assert levels(stopped)["web"].split()[0] == ("no" if code else "unknown")
    assert all(name in " ".join(not_checked(stopped)) for name in ("port", "health path", "home", "picture"))


def test_text_json_junit_and_sarif_say_the_same() -> None:
    report = make_report(seen(**SELKIES_2 | {"stopped": Stopped(137, 3.3), "inside": None, "inside_unchecked": "x"}))
    text = "\n".join(as_text(report))
    assert "ERROR    image_end  vditemplate/cad" in text
    assert "UNKNOWN  image_not_checked  vditemplate/cad" in text
    assert "LEVEL       HOLDS     BECAUSE OF\nweb         no        end on SIGTERM" in text
    assert text.endswith("vditemplate/cad: 1 error, 1 unknown, 10 ok.")
    data = as_data(report)
    assert data["levels"][0] == {"level": "web", "holds": "no", "missing": ["end on SIGTERM"]}
    assert data["severity"] == "error" and data["subject"] == "vditemplate/cad"
    assert 'failures="1" skipped="1"' in as_junit(report)
    results = json.loads(as_sarif(report))["runs"][0]["results"]
    assert [one["ruleId"] for one in results if one["level"] == "error"] == [codes.END]


def test_the_documentation_shows_what_is_printed() -> None:
    plain = seen(
        **SELKIES_2
        | {
            "agent": HttpResult(problem="Server disconnected without sending a response."),
            "agent_without_token": None,
            "stream": Stream(True, 0.4),
        }
    )
    page = (Path(__file__).parents[3] / "docs" / "your-image.md").read_text()
    assert "\n".join(as_text(make_report(plain))) in page


def test_an_observation_can_be_recorded() -> None:
    ours = seen(**SELKIES_2)
    assert msgspec.json.decode(msgspec.json.encode(ours), type=Observation) == ours
