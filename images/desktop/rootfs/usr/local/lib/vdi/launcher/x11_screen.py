"""The screen on X11: its sizes, the pointer, the keyboard."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import x11
from gtk_visuals import note_visuals_for_gtk
from screen_memory import free_unused_screen

from launcher.log import log, refuse

# The largest screen a browser may ask for (4 bytes of memory for each pixel, whether anybody asks
# or not), and the one the desktop is laid out for until a browser has asked.
MAX_SCREEN, FIRST_SCREEN = "4096x2304", "1920x1080"
_LIMITS = ((1920, 16384), (1080, 16384))
# On every screen a browser asks for, and above nothing. X puts the pointer in the middle of the
# largest screen; a smaller one would push it into the corner, on the clock, whose tooltip would be
# in everybody's first picture.
_FIRST_POINTER = (320, 240)
_FIRST_MODE = (FIRST_SCREEN, "173", "1920", "2048", "2248", "2576", "1080", "1083", "1088", "1120")
XKB_RULES = Path("/usr/share/X11/xkb/rules/base.lst")


def read_max_screen(text: str) -> str:
    """The largest screen, as Xvfb takes it. Refuses what is not a size."""
    is_size = re.fullmatch(r"[0-9]{1,5}x[0-9]{1,5}", text)
    sides = zip(size_of(text), _LIMITS, strict=True) if is_size else ()
    if not is_size or not all(low <= side <= high for side, (low, high) in sides):
        refuse(
            f"VDI_MAX_SCREEN={text!r} is not WIDTHxHEIGHT. Allowed is {FIRST_SCREEN} to 16384x16384"
        )
    return text


def size_of(screen: str) -> tuple[int, int]:
    """Width and height of WIDTHxHEIGHT."""
    width, _, height = screen.partition("x")
    return int(width), int(height)


def read_keyboard(layout: str, variant: str, rules: str) -> list[str]:
    """The command that sets a layout (or several, with commas) and its variant. Refuses what XKB
    does not know.

    `rules` is XKB's list (base.lst): a section for the layouts, one for the variants, each with the
    layout it is of.
    """
    if not layout:
        if variant:
            refuse(
                f"VDI_KEYBOARD_VARIANT={variant!r} needs VDI_KEYBOARD_LAYOUT:"
                " a variant is one of a layout"
            )
        return []
    layouts, variants = _known_keyboards(rules)
    requested = layout.split(",")
    requested_variants = variant.split(",") if variant else []
    if len(requested_variants) > len(requested):
        refuse(
            f"VDI_KEYBOARD_VARIANT={variant!r} names more variants than"
            f" VDI_KEYBOARD_LAYOUT={layout!r} has layouts"
        )
    for name in requested:
        if name not in layouts:
            known = ", ".join(sorted(layouts))
            refuse(
                f"VDI_KEYBOARD_LAYOUT={layout!r}: XKB knows no layout {name!r}. Allowed are {known}"
            )
    for name, its_variant in zip(requested, requested_variants, strict=False):
        if its_variant and (name, its_variant) not in variants:
            known = ", ".join(sorted(known for of, known in variants if of == name)) or "none"
            refuse(
                f"VDI_KEYBOARD_VARIANT={variant!r}: layout {name!r} has no variant"
                f" {its_variant!r}. Allowed are {known}"
            )
    command = ["setxkbmap", "-layout", layout]
    return [*command, "-variant", variant] if variant else command


def _known_keyboards(rules: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Layouts, and variants with the layout that each is of."""
    layouts: set[str] = set()
    variants: set[tuple[str, str]] = set()
    section = ""
    for line in rules.splitlines():
        if line.startswith("!"):
            section = line[1:].strip()
            continue
        words = line.split()
        if section == "layout" and words:
            layouts.add(words[0])
        elif section == "variant" and words:
            variants.add((words[1].rstrip(":"), words[0]))
    return layouts, variants


def free_display(sockets: str) -> str:
    """The first display that no server has: `sockets` is /proc/net/unix, which a pod's containers
    share.
    """
    number = 0
    while f"/tmp/.X11-unix/X{number}\n" in sockets:  # noqa: S108
        number += 1
    return f":{number}"


def set_screen(server: int, largest: str, keyboard: list[str], env: Mapping[str, str]) -> None:
    """Size the screen and set the keyboard: before anybody draws, and before Selkies learns what it
    types on. `server` is the process of Xvfb.
    """
    use = ["--output", "screen", "--mode", FIRST_SCREEN]
    for options in (["--newmode", *_FIRST_MODE], ["--addmode", "screen", FIRST_SCREEN], use):
        subprocess.run(["xrandr", *options], env=env, check=False)
    try:
        free_unused_screen(server, size_of(largest), size_of(FIRST_SCREEN))
    except OSError as error:
        log(f"the X server keeps the memory of its largest screen: {error}")
    display, authority = env["DISPLAY"], Path(env["XAUTHORITY"])
    try:
        x11.move_pointer(display, authority, *_FIRST_POINTER)
    except (x11.UnknownError, OSError) as error:
        log(f"the pointer stays where X has put it: {error}")
    try:
        note_visuals_for_gtk(display, authority)
    except (x11.UnknownError, OSError) as error:
        log(f"GTK asks OpenGL for visuals itself: {error}")
    if keyboard and subprocess.run(keyboard, env=env, check=False).returncode:
        refuse(f"the keyboard can't be set: {' '.join(keyboard)} failed")
