"""Keys that no chart of Kasm's has ever read, and that people write from other charts and from tutorials. Pure.

Each stands for a setting, which every generation has in another place, or not at all.
"""

from collections.abc import Mapping

from vdi.kasm.generations import Generation, Version
from vdi.kasm.values.schema import known

_SETTINGS: Mapping[str, str] = {
    "global.storageClass": "storage_class",
    "postgres.primary.persistence.storageClass": "storage_class",
    "postgresql.primary.persistence.storageClass": "storage_class",
    "global.ingress.enabled": "ingress_enabled",
    "global.ingress.className": "ingress_class",
}
"""By the key: which of `Generation.paths` it stands for."""
_COMPONENTS: Mapping[str, str] = {
    "postgres.primary": "db",
    "postgresql.primary": "db",
    "redis": "redis",
    "kasmProxy": "proxy",
    "kasmApi": "api",
    "kasmManager": "manager",
    "kasmShare": "share",
    "kasmGuac": "guac",
    "rdpGateway": "rdp-gateway",
    "rdpHttpsGateway": "rdp-https-gateway",
}
"""By the block: which component its `resources` and `replicas` are about."""
_ABSENT = {
    "ingress_enabled": "the chart always creates its Ingress",
    "ingress_class": "the class of its Ingress cannot be set",
}


def meant_by(generation: Generation, path: str, version: Version | None = None) -> tuple[str, str] | None:
    """What this chart reads in the place of such a key, or "" and why it has none; None for a key that is not one."""
    if setting := _SETTINGS.get(path):
        found = generation.paths.get(setting, "")
        return (found, "") if found and known(generation, found, version) else ("", _ABSENT.get(setting, ""))
    for block, key in _COMPONENTS.items():
        part, _, rest = path.removeprefix(f"{block}.").partition(".")
        if not path.startswith(f"{block}.") or part not in ("resources", "replicas"):
            continue
        component = generation.component(key, version)
        if component is None:
            return "", f"the chart has no component {key}"
        found = component.containers[0].resources_path if part == "resources" else component.replicas_path
        if not found:
            return "", f"the chart has no {part} for {key}"
        return f"{found}.{rest}" if rest else found, ""
    return None
