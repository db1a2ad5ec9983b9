"""Recording of a session: its variables, the notice to its users, and whether its picture may be
seen. Pure.
"""

from datetime import timedelta
from math import isfinite

from vdi.api.recording import RecordingMode
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import parse_duration
from vdi.printable import escape
from vdi.session.naming import RECORDING_REFUSED

ON, FAILED = "On", "Failed"
# Four times that of a moving picture at 1920x1080, with so many pictures a second
# (docs/benchmarks.md).
_RECORDING_RATE, _PICTURES = 4 << 20, 15.0
# Of a screen at rest a recording has a whole picture each 10 s, as run-selkies of the image sets
# it.
_KEYFRAME_SECONDS = 10.0


def recording_note(template: VDITemplate | None) -> str:
    """Notice to everyone who is about to see a desktop of this template; empty: it is not
    recorded.
    """
    recording = template.spec.recording if template else None
    if recording is None or recording.mode is RecordingMode.OFF:
        return ""
    days = parse_duration(recording.retention).total_seconds() / 86400
    kept = (
        f"Recordings are kept for {days:g} {'day' if days == 1 else 'days'}, and administrators can"
        " watch them."
    )
    if recording.mode is RecordingMode.ON_DEMAND:
        return f"The owner can record this desktop, picture and sound. {kept}"
    return f"This desktop is recorded, picture and sound, as long as it runs. {kept}"


def is_recorded(session: VDISession) -> bool:
    """Whether a recording is made, as the desktop reports, and stored, as the gateway has noted."""
    recording = session.status.recording
    return (
        recording is not None
        and recording.state == ON
        and RECORDING_REFUSED not in session.metadata.annotations
    )


def recording_rate(template: VDITemplate | None) -> int:
    """Bytes of recording that a desktop of this template makes in a second, at most."""
    pictures = _read_number(template, "PIXELFLUX_RECORD_FPS", _PICTURES)
    kilobits = _read_number(template, "PIXELFLUX_RECORD_BITRATE", 0.0)
    return int(max(_RECORDING_RATE * max(1.0, pictures / _PICTURES), 2 * kilobits * 1000 / 8))


def longest_pause(template: VDITemplate | None) -> timedelta:
    """Time within which a recording of this template grows in any case."""
    seconds = _read_number(template, "PIXELFLUX_RECORD_KEYFRAME_S", _KEYFRAME_SECONDS)
    return timedelta(seconds=2.5 * max(_KEYFRAME_SECONDS, min(seconds, 3600.0)))


def _read_number(template: VDITemplate | None, name: str, default: float) -> float:
    """A variable in the template's `env`."""
    if template:
        env = {variable.name: variable.value for variable in template.spec.env}
    else:
        env = {}
    try:
        number = float(env.get(name) or default)
    except ValueError:
        return default
    return number if isfinite(number) else default


def refuse_picture(session: VDISession) -> str:
    """The reason why no one may see a running desktop now; empty: nothing hinders them."""
    recording = session.status.recording
    # A mode of a later version is treated as Always.
    if recording is None or recording.mode == RecordingMode.ON_DEMAND or is_recorded(session):
        return ""
    message = recording.message or escape(
        session.metadata.annotations.get(RECORDING_REFUSED, "")[:256]
    )
    why = f": {message}" if message else ""
    return f"This desktop is shown only while it is recorded, and it is not recorded now{why}."
