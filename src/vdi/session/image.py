"""What a template's image is known to be, by its name and its generation of Selkies. Pure.

Selkies 1, as its reference container has it: nginx on NGINX_PORT (8080) before Selkies on SELKIES_PORT (8081), with
`/health` on both; basic auth holds for every path, the health check too.
"""

import re

from vdi.api.template import DEFAULT_HEALTH_PATH, TemplateSpec
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
        f"spec.image: {image!r} contains no desktop, only a part of Selkies; use `registry.example.com/vdi/desktop:1`"
        " after `docker build -t registry.example.com/vdi/desktop:1 images/desktop` and `docker push` (docs/images.md)"
    )


def health_path(spec: TemplateSpec) -> str:
    """Where the image answers 200 when it is ready: as the template says, else as its generation of Selkies does."""
    if generation(spec) == "1" and spec.health_path == DEFAULT_HEALTH_PATH:
        return _HEALTH_PATH_1
    return spec.health_path


def refuse_view_only(spec: TemplateSpec) -> str:
    """Why nothing would hold a viewer to the picture of such a desktop; empty where Selkies' token table does."""
    if generation(spec) == "2":
        return ""
    return (
        "View only is not possible: the image of this desktop has Selkies 1, which lets everybody who comes in use"
        " mouse and keyboard. Share it with full control, or use an image with Selkies 2."
    )
