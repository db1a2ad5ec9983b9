"""Selkies' settings: ours where the pod says nothing."""

import os
from collections.abc import Mapping

from launcher.log import log
from launcher.runtime import READY_FILE, RUNTIME

SELKIES_1_ENCODERS = {
    "nvh264enc",
    "nvh265enc",
    "nvav1enc",
    "nvcudah264enc",
    "vah264enc",
    "vah265enc",
    "vaav1enc",
    "vavp9enc",
    "x264enc-striped",
    "x265enc",
    "openh264enc-legacy",
    "svtav1enc",
    "rav1enc",
}
_DEFAULTS = {
    # It serves once there has been a picture and applications can start: what the pod's readiness
    # asks for.
    "SELKIES_APP_WAIT_READY": "true",
    "SELKIES_APP_READY_FILE": str(RUNTIME / READY_FILE),
    # A picture is encoded when something has changed. Selkies' own default encodes 60 a second of a
    # desktop at rest too: four times the CPU for nothing, and keys whose letters wait behind
    # pictures that show nothing new.
    "SELKIES_VIDEO_STREAMING_MODE": "false",
    # Where Selkies' page is, compressed too: it would otherwise copy 2,000 files to /tmp at each
    # start.
    "SELKIES_WEB_ROOT": "/opt/selkies/web",
    # What Selkies would otherwise offer: commands typed into the page run in the pod; a switch to
    # WebRTC, whose defaults relay the stream through servers of third parties; a print queue, whose
    # scheduler runs all the time.
    "SELKIES_COMMAND_ENABLED": "false",
    "SELKIES_ENABLE_DUAL_MODE": "false",
    "SELKIES_TURN_HOST": "localhost",
    "SELKIES_STUN_HOST": "localhost",
    "SELKIES_PRINTING_ENABLED": "false",
    # Pads that no application sees: see the warning below.
    "SELKIES_GAMEPAD_ENABLED": "false",
    "SELKIES_UI_TITLE": "Desktop",
    # Its addresses for guests let no one in: the portal decides with whom a desktop is shared.
    "SELKIES_UI_SIDEBAR_SHOW_SHARING": "false",
}


def stream_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Selkies' environment."""
    env = {**_DEFAULTS, **given}
    if given.get("VDI_AGENT_TOKEN_SHA256"):
        port = given.get("VDI_AGENT_PORT") or 8082
        env["SELKIES_AUDIT_WEBHOOK_URL"] = f"http://127.0.0.1:{port}/transfers"
    if given.get("VDI_AGENTS"):
        env["SELKIES_COMPUTER_USE_BIND"] = "127.0.0.1:9500"
    _drop_encoders_of_selkies_1(env)
    is_seen = env.get("SELKIES_INTERPOSER") or os.access("/dev/uinput", os.W_OK)
    if switched_on(env["SELKIES_GAMEPAD_ENABLED"]) and not is_seen:
        log(
            "SELKIES_GAMEPAD_ENABLED: gamepads reach Selkies, but no application: that takes"
            " Selkies' Input Interposer, which this image lacks, at the path in"
            " SELKIES_INTERPOSER, or a /dev/uinput that can be written"
        )
    return env


def _drop_encoders_of_selkies_1(env: dict[str, str]) -> None:
    requested = [name.strip() for name in env.get("SELKIES_ENCODER", "").split(",")]
    dropped = [name for name in requested if name in SELKIES_1_ENCODERS]
    if not dropped:
        return
    log(
        f"SELKIES_ENCODER={env['SELKIES_ENCODER']}: {', '.join(dropped)} was a name of Selkies 1"
        " and is left out; Selkies 2 takes the GPU by itself. Allowed: h264enc, h265enc, vp8enc,"
        " vp9enc, av1enc, h264enc-striped, jpeg."
    )
    kept = [name for name in requested if name and name not in dropped]
    env["SELKIES_ENCODER"] = ",".join(kept)


def switched_on(value: str) -> bool:
    """A switch as Selkies reads it: true or 1, whatever is locked."""
    return value.partition("|")[0].strip().lower() in ("true", "1")
