"""The CustomResourceDefinitions as files of the chart."""

import yaml

from vdi.api.crd import build_crds

_HEADER = "# Generated from src/vdi/api by `make generate`. Edit there.\n"


def render_files() -> dict[str, str]:
    """Contents by file name."""
    return {f"{crd['spec']['names']['plural']}.yaml": _HEADER + _yaml(crd) for crd in build_crds()}


class _WithoutAnchors(yaml.SafeDumper):
    """Writes a rule that two fields share twice: people and other programs read these files."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 -- the base's signature
        return True


def _yaml(value: object) -> str:
    return yaml.dump(value, Dumper=_WithoutAnchors, sort_keys=False, width=140, allow_unicode=True)
