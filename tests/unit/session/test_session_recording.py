"""Recording of a session: its pod, its status, the notice before it, and whether its picture may be
seen.
"""

from typing import Any

import pytest

from support.builders import a_session, a_template
from unit.session.resolving import BEHIND_GATEWAY, desktop_of, pod_of
from vdi.api.recording import RecordingMode
from vdi.session.children import build_spec
from vdi.session.naming import RECORDING_REFUSED
from vdi.session.recording import is_recorded, recording_note, refuse_picture
from vdi.session.template_image import settings

KEPT = "Recordings are kept for 30 days, and administrators can watch them."


@pytest.mark.parametrize(
    ("recording", "refusal"),
    [
        (None, ""),
        ({"mode": "Always", "state": "On"}, ""),
        ({"mode": "Always", "state": "Starting"}, "it is not recorded now."),
        ({"mode": "Always", "state": "Off"}, "it is not recorded now."),
        (
            {"mode": "Always", "state": "Failed", "message": "disk full"},
            "it is not recorded now: disk full.",
        ),
        ({"mode": "Later", "state": "Failed"}, "it is not recorded now."),
        ({"mode": "OnDemand", "state": "Off"}, ""),
        ({"mode": "OnDemand", "state": "Failed"}, ""),
    ],
)
def test_only_a_recording_that_must_be_made_hides_the_picture(recording: Any, refusal: str) -> None:
    session = a_session(
        "alice", status={"phase": "Running"} | ({"recording": recording} if recording else {})
    )
    assert refuse_picture(session).endswith(refusal)
    assert bool(refuse_picture(session)) is bool(refusal)


def test_recording_that_the_gateway_does_not_store_hides_the_picture() -> None:
    status = {"phase": "Running", "recording": {"mode": "Always", "state": "On"}}
    session = a_session("alice", status=status)
    session.metadata.annotations[RECORDING_REFUSED] = "too much\u202e"
    assert refuse_picture(session).endswith("it is not recorded now: too much\\u202e.")
    assert not is_recorded(session)


@pytest.mark.parametrize(
    ("recording", "note"),
    [
        (None, ""),
        ({}, ""),
        (
            {"mode": "Always"},
            f"This desktop is recorded, picture and sound, as long as it runs. {KEPT}",
        ),
        (
            {"mode": "OnDemand", "retention": "24h"},
            (
                "The owner can record this desktop, picture and sound. Recordings are kept for 1 day,"
                " and administrators can watch them."
            ),
        ),
    ],
)
def test_note_says_what_is_kept_and_who_sees_it(recording: Any, note: str) -> None:
    assert (
        recording_note(a_template("t", recording=recording) if recording is not None else None)
        == note
    )


def test_mode_of_a_later_version_is_always() -> None:
    assert RecordingMode("Sometimes") is RecordingMode.ALWAYS


def test_watermark_names_the_user_of_the_pod() -> None:
    template: dict[str, Any] = {"watermark": {"text": "{user} $(HOME)", "position": "Middle"}}
    sent = {variable.name: variable.value for variable in settings(a_template(**template).spec)}
    assert sent["VDI_WATERMARK"] == "{user} $$(HOME)"
    assert sent["SELKIES_WATERMARK_LOCATION"] == "5"
    built = build_spec(desktop_of(settings=BEHIND_GATEWAY, **template), "s", 8082)
    env = {variable["name"]: variable for variable in built["containers"][0]["env"]}
    path = env["VDI_USER"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['vdi.kasm.io/user']"


def test_pod_says_how_it_is_recorded() -> None:
    pod = pod_of(settings=BEHIND_GATEWAY, recording={"mode": "OnDemand"})
    assert pod["metadata"]["annotations"]["vdi.kasm.io/recording"] == "OnDemand"
