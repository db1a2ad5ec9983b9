"""Recording of a session: its variables, the notice to its users, and whether its picture may be seen. Pure."""

from vdi.api.recording import RecordingMode
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import parse_duration

ON, FAILED = "On", "Failed"


def recording_note(template: VDITemplate | None) -> str:
    """Notice to everyone who is about to see a desktop of this template; empty: it is not recorded."""
    recording = template.spec.recording if template else None
    if recording is None or recording.mode is RecordingMode.OFF:
        return ""
    days = parse_duration(recording.retention).total_seconds() / 86400
    kept = f"Films are kept for {days:g} {'day' if days == 1 else 'days'}, and administrators can watch them."
    if recording.mode is RecordingMode.ON_DEMAND:
        return f"The owner can record this desktop, picture and sound. {kept}"
    return f"This desktop is recorded, picture and sound, as long as it runs. {kept}"


def refuse_picture(session: VDISession) -> str:
    """The reason why no one may see a running desktop now; empty: nothing hinders them."""
    film = session.status.recording
    # A mode of a later version is treated as Always.
    if film is None or film.mode == RecordingMode.ON_DEMAND or film.state == ON:
        return ""
    why = f": {film.message}" if film.message else ""
    return f"This desktop is shown only while it is recorded, and it is not recorded now{why}."
