"""Where to go after the login: a page of the portal, or one of a desktop, and nowhere else. Pure."""

import re
from urllib.parse import urlsplit

from vdi.gateway.settings import Settings

_LONGEST = 2048
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VISIBLE = re.compile(r"[!-~]+")


def safe_next(text: str | None, settings: Settings) -> str:
    """The address itself where it is a path of this host, or a whole address of a host of ours; `/` otherwise.

    Browsers read `//host`, `/\\host` and addresses with tabs or line ends in them as another host: none of these pass.
    """
    if not text or len(text) > _LONGEST or not _VISIBLE.fullmatch(text) or "\\" in text:
        return "/"
    if text.startswith("/"):
        return "/" if text.startswith("//") else text
    return text if _is_ours(text, settings) else "/"


def _is_ours(text: str, settings: Settings) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port or 443
    except ValueError:
        return False
    if parts.scheme != "https" or "@" in parts.netloc or port != settings.url_port or parts.hostname is None:
        return False
    label, _, domain = parts.hostname.partition(".")
    return domain == settings.domain and _LABEL.fullmatch(label) is not None
