"""Opens an address in the person's own browser, where there is one. The address may come from a
gateway that lies.
"""

import os
import re
import sys
import webbrowser
from urllib.parse import urlsplit

from vdi.cli.errors import CliError

# Of this form every program reads the same host, and none takes it for an option: no user, no
# backslash, only ASCII.
_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?([/?#][!-\[\]-~]*)?"
)


def check_address(url: str, domain: str) -> None:
    """Raise CliError unless a browser may get this address: HTTPS, or HTTP to this machine, at or
    below the domain.

    An empty domain allows each host: the address is the operator's, which knows the domain.
    """
    from vdi.http_client import is_local

    match = _ADDRESS.fullmatch(url)
    host = match["host"].lower().strip("[]") if match else ""
    is_inside = not domain or host == domain or host.endswith(f".{domain}")
    if not (match and is_inside and (match["scheme"] == "https" or is_local(host))):
        where = f" at or below {domain}" if domain else ""
        raise CliError(
            f"the browser does not get the address {url!r}; allowed: an https:// address of a"
            f" host{where}"
        )


def domain_of(server: str) -> str:
    """The domain of a portal, below which its desktops are: all but the first label of its host."""
    from vdi.http_client import is_local

    host = urlsplit(server).hostname or ""
    domain = host.partition(".")[2]
    if is_local(host):
        return domain if is_local(domain) else "localhost"
    # a whole top-level domain is not the portal's
    if "." in domain:
        return domain
    return host


def has_screen() -> bool:
    """Whether a graphical browser can be opened. A text browser would take over the terminal."""
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def opens_browser(url: str, domain: str) -> bool:
    """Hand the address to the browser; False without one. Raises CliError, see `check_address`."""
    check_address(url, domain)
    return has_screen() and webbrowser.open(url)
