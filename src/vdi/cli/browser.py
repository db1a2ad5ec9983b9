"""Opens an address in the person's own browser, where there is one."""

import os
import sys
import webbrowser


def has_screen() -> bool:
    """Whether a graphical browser can be opened; a text browser would take over the terminal, so it is not asked."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def opens_browser(url: str) -> bool:
    """Hand the address to the browser; False without one."""
    return has_screen() and webbrowser.open(url)
