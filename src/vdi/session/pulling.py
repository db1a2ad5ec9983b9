"""What the kubelet says of an image that it cannot fetch -> why, in words. Pure; used by `explain`."""

import re

from vdi.session.conditions import Reason
from vdi.session.subject import DESKTOP, Subject

IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
"""Reasons for which a container waits, that are about its image."""
_CAUSES = (
    # pattern in the message or the reason itself, code, words
    (
        "InvalidImageName",
        Reason.IMAGE_NAME_INVALID,
        "its name is not a valid image name; fix {field}",
    ),
    (
        "ErrImageNeverPull",
        Reason.IMAGE_NOT_PRESENT,
        ("it is not on the node, and the pull policy does not allow pulling it"),
    ),
    (
        r"\b40[13]\b|denied|unauthori[sz]ed|forbidden|authentication required",
        Reason.IMAGE_PULL_DENIED,
        # registries answer so for an image that does not exist, too
        "the registry has no such image or denies access to it; check name and tag in {field}, and {secrets}",
    ),
    (  # before "not found", which containerd says after it
        r"no match for platform|no matching manifest",
        Reason.IMAGE_WRONG_PLATFORM,
        "it has no build for the node's architecture; build one, or place the template's desktops on other nodes",
    ),
    (
        r"not found|manifest unknown|does not exist|no such image|\b404\b",
        Reason.IMAGE_NOT_FOUND,
        "the registry has no such image; check name and tag in {field}",
    ),
    (
        r"no such host|server misbehaving",
        Reason.REGISTRY_UNKNOWN,
        "the node cannot resolve the registry's host name; check it in {field}",
    ),
    (r"x509|certificate", Reason.REGISTRY_NOT_TRUSTED, "the node does not trust the registry's certificate"),
    (
        r"toomanyrequests|rate limit|\b429\b",
        Reason.REGISTRY_BUSY,
        "the registry limits the rate of pulls",
    ),
    (
        r"connection refused|timeout|i/o timeout|no route to host|unreachable|deadline exceeded|TLS handshake|EOF",
        Reason.REGISTRY_UNREACHABLE,
        "the registry does not respond to the node",
    ),
)
_UNKNOWN = Reason.IMAGE_PULL
_RUNTIME = re.compile(
    r"(?:failed to create (?:containerd task|shim task|shim)|OCI runtime create failed|runc create failed"
    r"|unable to start container process|error during container init|rpc error: code = \w+ desc = [^:]+): "
)
"""What containerd and runc put before their reason, each around the next."""
_NAMES = re.compile(r'"[^" ]+"|https?://\S+|\bsha256:[0-9a-f]+')
"""Names in a message: an image called certificate-tool:404 says nothing about what went wrong."""
IMAGE_CODES = frozenset({code for _, code, _ in _CAUSES} | {_UNKNOWN})
"""Codes that `explain_pull` gives."""


def explain_pull(image: str, reason: str, message: str, subject: Subject = DESKTOP) -> tuple[Reason, str]:
    """(code, sentence); the kubelet's words where no rule fits."""
    said = _NAMES.sub("", message)
    for pattern, code, words in _CAUSES:
        if reason == pattern or re.search(pattern, said, re.IGNORECASE):
            why = words.format(field=subject.image, secrets=subject.pull_secrets)
            return code, f"The image {image} cannot be pulled: {why}."
    return _UNKNOWN, f"The image {image} cannot be pulled: {first_line(message) or reason}"


def last_line(text: str) -> str:
    """The last line that has something on it, at most 200 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def first_line(text: str) -> str:
    """The first line without the layers of the container runtime, at most 300 characters, ending as a sentence does."""
    line = _RUNTIME.sub("", text.strip().splitlines()[0].strip()).removesuffix(": unknown") if text.strip() else ""
    line = line if len(line) <= 300 else line[:297] + "..."
    return line if not line or line.endswith(".") else line + "."
