"""Programs that the tests and tools use beside those of the embedded cluster, from the same kinds
of sources.

`python -m tools.binaries NAME...` prints a line name=path for each program, of both.
"""

from collections.abc import Iterable, Mapping
from itertools import starmap
from pathlib import Path

from vdi.devcluster import binaries
from vdi.devcluster.binaries import BinaryUnavailable
from vdi.devcluster.binaries.components import (
    CONTAINERD_PROGRAMS,
    KUBERNETES_PROGRAMS,
    DebianPackage,
    GoBuild,
    GoFile,
    Recipe,
    archive,
    github_file,
    go_tool,
    helm_release,
    kubernetes_build,
)
from vdi.devcluster.progress import Progress

__all__ = ["RECIPES", "BinaryUnavailable", "ensure"]

HELM3 = "v3.22.0"  # renovate: go helm.sh/helm/v3
KWOK = "v0.7.0"  # renovate: go sigs.k8s.io/kwok
KARPENTER = "v1.11.0"  # renovate: go sigs.k8s.io/karpenter
PEBBLE = "v2.10.1"  # renovate: go github.com/letsencrypt/pebble/v2
REGISTRY = "v3.1.2"  # renovate: go github.com/distribution/distribution/v3
# 2.45.1. Dex' tags have a major version that the path of its module lacks: only a commit is a
# version of the module.
DEX = "v0.0.0-20260303133905-11d2eeb52b42"
VERSITYGW = "v1.8.0"  # renovate: go github.com/versity/versitygw
ACTIONLINT = "v1.7.12"  # renovate: go github.com/rhysd/actionlint
PROMETHEUS = "v3.5.0"  # renovate: github-releases prometheus/prometheus

# An older pair that nodes may still have, with the distribution's containerd and runc.
OLDER_KUBERNETES, OLDER_ETCD = "v1.34.4", "v3.6.4"

_MODULES = Path(__file__).parent / "go"
_PROMETHEUS_PROGRAMS = ("prometheus", "promtool")


def ensure(
    names: Iterable[str], *, progress: Progress, cache: Path | None = None
) -> dict[str, Path]:
    """As `vdi.devcluster.binaries.ensure`, for the names of `RECIPES`."""
    return binaries.ensure(names, progress=progress, cache=cache, recipes=RECIPES)


def _go_tool(
    name: str, version: str, package: str, variables: Mapping[str, str] | None = None
) -> GoBuild:
    return go_tool(name, version, package, variables, _MODULES)


_PROMETHEUS_FILE = f"prometheus-{PROMETHEUS.removeprefix('v')}.linux-{{arch}}"
_PROMETHEUS = archive(
    "prometheus",
    PROMETHEUS,
    github_file("prometheus/prometheus", PROMETHEUS, f"{_PROMETHEUS_FILE}.tar.gz"),
    github_file("prometheus/prometheus", PROMETHEUS, "sha256sums.txt"),
    {f"{_PROMETHEUS_FILE}/{program}": program for program in _PROMETHEUS_PROGRAMS},
)
_PROMETHEUS_PACKAGE = DebianPackage(
    key="prometheus",
    title="unpack the distribution's Prometheus",
    provides={program: f"usr/bin/{program}" for program in _PROMETHEUS_PROGRAMS},
    package="prometheus",
)


_CRDS = "pkg/apis/crds/karpenter.sh_"
_KARPENTER_CRDS = {
    f"{_CRDS}nodepools.yaml": "8e1e4ce2555efebc38e873e635c0280d8d2f5b8856b35ad03e41455eccecb05b",
    f"{_CRDS}nodeclaims.yaml": "45146be102bf678a4ba5543c411498cc1b1c99fecde7266406d60d4441f8644d",
    f"{_CRDS}nodeoverlays.yaml": "2648710e6cd0d771a48cebeace16d061bc58b7e9e440c87b624be52b4cbc7393",
    "kwok/apis/crds/karpenter.kwok.sh_kwoknodeclasses.yaml": (
        "b8cd750fc8a263232a61c277b68479bb3c3ee82c454e51f0c4c3bd2d83d63175"
    ),
}


def _karpenter_crd(path: str, sha256: str) -> GoFile:
    name = f"karpenter-{path.rpartition('_')[2]}"
    return GoFile(
        key=f"{name.removesuffix('.yaml')}-{KARPENTER}-module",
        title=f"take {name} {KARPENTER} from its Go module",
        provides={name: name},
        module="sigs.k8s.io/karpenter",
        version=KARPENTER,
        path=path,
        sha256=sha256,
    )


# Every name that can be requested, and its recipes in the order in which they are tried.
RECIPES: Mapping[str, tuple[Recipe, ...]] = {
    **binaries.RECIPES,
    # The major version that many still have: the chart is tried with both.
    "helm3": (
        helm_release("helm3", HELM3),
        _go_tool(
            "helm3",
            HELM3,
            "helm.sh/helm/v3/cmd/helm",
            {"helm.sh/helm/v3/internal/version.version": HELM3},
        ),
    ),
    **dict.fromkeys(_PROMETHEUS_PROGRAMS, (_PROMETHEUS, _PROMETHEUS_PACKAGE)),
    # These are published without a checksum, or not at all; the modules' are locked.
    "kwok": (_go_tool("kwok", KWOK, "sigs.k8s.io/kwok/cmd/kwok"),),
    # Karpenter's core with its provider for nodes without machines: what the tests of autoscaling
    # run.
    "karpenter": (_go_tool("karpenter", KARPENTER, "sigs.k8s.io/karpenter/kwok"),),
    **{
        name: (crd,)
        for crd in starmap(_karpenter_crd, _KARPENTER_CRDS.items())
        for name in crd.provides
    },
    "pebble": (_go_tool("pebble", PEBBLE, "github.com/letsencrypt/pebble/v2/cmd/pebble"),),
    "actionlint": (
        _go_tool("actionlint", ACTIONLINT, "github.com/rhysd/actionlint/cmd/actionlint"),
    ),
    # What the tests of releases push to.
    "registry": (
        _go_tool("registry", REGISTRY, "github.com/distribution/distribution/v3/cmd/registry"),
    ),
    # An identity provider.
    "dex": (_go_tool("dex", DEX, "github.com/dexidp/dex/cmd/dex"),),
    # An S3 server: where the tests keep recordings.
    "versitygw": (_go_tool("versitygw", VERSITYGW, "github.com/versity/versitygw/cmd/versitygw"),),
}

_CONTAINERD_PACKAGE = DebianPackage(
    key="containerd",
    title="unpack the distribution's containerd",
    provides={program: f"usr/bin/{program}" for program in CONTAINERD_PROGRAMS},
    package="containerd",
)
_RUNC_PACKAGE = DebianPackage(
    key="runc",
    title="unpack the distribution's runc",
    provides={"runc": "usr/sbin/runc"},
    package="runc",
)
_OLDER_BUILD = kubernetes_build(OLDER_KUBERNETES, OLDER_ETCD, "kubernetes-1.34", _MODULES)
_OLDER: Mapping[str, tuple[Recipe, ...]] = {
    **dict.fromkeys(("etcd", *KUBERNETES_PROGRAMS), (_OLDER_BUILD,)),
    **dict.fromkeys(CONTAINERD_PROGRAMS, (_CONTAINERD_PACKAGE,)),
    "runc": (_RUNC_PACKAGE,),
}


def link_older(folder: Path, *, progress: Progress) -> None:
    """Fill `folder` with links to the older programs, for VDI_BINARIES. Raises BinaryUnavailable,
    OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in binaries.ensure(_OLDER, progress=progress, recipes=_OLDER).items():
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve() if path.is_symlink() else path)
