"""What draws on the screen: a whole desktop, or one application that fills it (VDI_APP)."""

import json
import shutil

from launcher.log import refuse

BROWSER = '["firefox-esr"]'  # what an image without a panel (VARIANT=browser) shows
# Of what the person runs, and so of all that it starts: the picture and the keys stay fast while a
# program computes. Other pods do not notice. The window manager has none, as it answers the mouse.
NICE = 10
NICED = ("application", "xfdesktop", "xfce4-panel")


def read_application(text: str) -> list[str]:
    """The command in VDI_APP, a JSON array of words; nothing for a whole desktop. Refuses what
    can't be started.
    """
    if not text.strip():
        return []
    try:
        command = json.loads(text)
    except ValueError:
        command = None
    is_array = isinstance(command, list) and bool(command)
    if not is_array or not all(isinstance(word, str) and word for word in command):
        refuse(
            f"VDI_APP={text!r} is not a JSON array of words."
            ' Allowed is for example ["firefox-esr", "--new-tab"]'
        )
    if not shutil.which(command[0]):
        refuse(f"VDI_APP={text!r}: this image has no program {command[0]!r}")
    return command


def drawing_parts(*, is_whole: bool, on_wayland: bool) -> list[str]:
    """The parts of a whole desktop, or of one application, in the order of their start."""
    if on_wayland:  # labwc, the window manager, runs already; one application needs none
        return ["xfdesktop", "xfce4-panel"] if is_whole else ["application"]
    return ["xfwm4", "xfdesktop", "xfce4-panel"] if is_whole else ["matchbox", "application"]
