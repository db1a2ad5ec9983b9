"""The version of this installation. The build takes it from the git tag and writes it into the
package's metadata.
"""

from functools import cache

# Name of the package in package registries. Its command is `vdi`.
DISTRIBUTION = "vdi-kubernetes"

# Of sources that run without having been installed: no metadata, and so no version.
_NOT_INSTALLED = "0.0.0+unknown"


@cache
def package_version() -> str:
    """The version as Python writes it, such as 0.2.0 or 0.2.0rc1."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return _NOT_INSTALLED


def user_agent(program: str) -> str:
    """The User-Agent header of `program`, such as `vdi-operator/0.2.0`."""
    return f"{program}/{package_version()}"
