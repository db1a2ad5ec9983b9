"""What a template's image is known to be, by its protocol, its name and its generation of Selkies. Pure.

Selkies 1, as its reference container has it: nginx on NGINX_PORT (8080) before Selkies on SELKIES_PORT (8081), with
`/health` on both; basic auth holds for every path, the health check too.
"""

import re
from collections.abc import Iterator

from vdi.api.template import DEFAULT_HEALTH_PATH, Protocol, TemplateSpec, VDITemplate
from vdi.session import streaming
from vdi.session.streaming import generation

_HEALTH_PATH_1 = "/health"
_WITHOUT_DESKTOP = re.compile(
    r"(?:^|/)selkies(?:-gstreamer)?/(gst-web(?:-core)?|gstreamer|py-build|js-interposer)(?=[:@]|$)"
)
"""Images that Selkies publishes as parts of others. `gst-web` is nginx with the files of Selkies 1's page."""


def missing_desktop(image: str) -> str:
    """Why an image can show no desktop, with what to use; empty where nothing is known against it."""
    if not _WITHOUT_DESKTOP.search(image):
        return ""
    return (
        f"spec.image: {image!r} contains no desktop, only a part of Selkies; use "
        "`registry.example.com/vdi/desktop:1` after `docker build -t registry.example.com/vdi/desktop:1 "
        "images/desktop` and `docker push` (docs/images.md)"
    )


def health_path(spec: TemplateSpec) -> str:
    """Where the image answers when it is ready: as the template says, else as images of its kind do."""
    if spec.health_path != DEFAULT_HEALTH_PATH:
        return spec.health_path
    if spec.protocol is Protocol.WEB:
        return "/"
    return _HEALTH_PATH_1 if generation(spec) == "1" else spec.health_path


def probe_path(spec: TemplateSpec, *, behind_gateway: bool) -> str:
    """The path that the kubelet requests; empty: it only connects to the port.

    Basic auth covers the health path as well, and a probe with a password in it would show it to readers of pods.
    """
    if generation(spec) == "1" and not behind_gateway:
        return ""
    if spec.basic_auth_secret and spec.health_path == DEFAULT_HEALTH_PATH:
        return ""
    return health_path(spec)


def takes_tokens(spec: TemplateSpec) -> bool:
    """Whether the desktop takes the gateway's token table: it then knows who comes in, in which role."""
    return generation(spec) == "2"


def refuse_view_only(template: VDITemplate | None) -> str:
    """Why nothing would hold a viewer to the picture of such a desktop; empty where Selkies' token table does."""
    if template is None:
        return "View only is not possible: the template of this desktop was deleted. Share it with full control."
    spec = template.spec
    if takes_tokens(spec):
        return ""
    what = (
        "serves its own page (protocol Web), in which every visitor has full control"
        if spec.protocol is Protocol.WEB
        else "has Selkies 1, which gives every visitor mouse and keyboard"
    )
    return (
        f"View only is not possible: the image of this desktop {what}. Share it with full control, or use an image"
        " with Selkies 2."
    )


def problems(spec: TemplateSpec, *, behind_gateway: bool) -> Iterator[str]:
    """Why the template cannot be used, for reasons that the CRD's rules cannot know."""
    if why := missing_desktop(spec.image):
        yield why
    if spec.protocol is Protocol.WEB:
        if not behind_gateway and not spec.basic_auth_secret:
            yield (
                "spec.protocol: 'Web' needs the gateway to control access (gateway.enabled in the chart's values). "
                "Without the gateway the image must use basic auth (spec.basicAuthSecret)"
            )
        return
    yield from streaming.problems(spec)
