"""`vdi images load` without a cluster: what is in an archive, and what a pod on a node may
touch.
"""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.hostile_server import DEEP
from vdi.cli.main import main
from vdi.devcluster.images.archive import ImageConfig, write_archive
from vdi.release.chart import image_reference
from vdi.release.images import (
    ArchiveImage,
    BadArchiveError,
    Containerd,
    LoadFailedError,
    NodeImage,
    NodeWithImages,
    check_architectures,
    choose_image,
    find_containerd,
    pod_of,
    read_archive,
)


def a_node(*images: NodeImage, **changes: Any) -> NodeWithImages:
    info = {
        "operatingSystem": "linux",
        "architecture": "amd64",
        "kubeletVersion": "v1.34.4+k3s1",
        "containerRuntimeVersion": "containerd://2.1.5-k3s1.34",
        **changes,
    }
    status = {"nodeInfo": info, "images": images}
    return msgspec.convert({"metadata": {"name": "k3s-1"}, "status": status}, NodeWithImages)


def a_docker_archive(
    folder: Path, name: str = "registry.example.com/vdi:1", arch: str = "amd64"
) -> Path:
    (layer := folder / "layer.tar").write_bytes(b"\0" * 1024)
    write_archive(
        folder / "image.tar", name=name, layer=layer, config=ImageConfig(), arch=arch, comment=""
    )
    return folder / "image.tar"


def add(archive: tarfile.TarFile, documents: dict[str, Any]) -> None:
    for name, document in documents.items():
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))


def a_tar(path: Path, documents: dict[str, Any]) -> Path:
    with tarfile.open(path, "w") as archive:
        add(archive, documents)
    return path


def test_images_of_docker_save_also_compressed(tmp_path: Path) -> None:
    archive = a_docker_archive(tmp_path, arch="arm64")
    assert read_archive(archive) == (ArchiveImage("registry.example.com/vdi:1", "arm64"),)
    (compressed := tmp_path / "image.tar.gz").write_bytes(gzip.compress(archive.read_bytes()))
    assert read_archive(compressed) == read_archive(archive)


def test_images_of_an_oci_layout_for_several_architectures(tmp_path: Path) -> None:
    def entry(digest: str, **more: Any) -> dict[str, Any]:
        return {"digest": f"sha256:{digest}", **more}

    attestation = entry("ff", platform={"architecture": "unknown"})
    documents = {
        "index.json": {
            "manifests": [
                entry("aa", annotations={"io.containerd.image.name": "registry.example.com/vdi:1"}),
                entry(
                    "bb",
                    annotations={
                        "org.opencontainers.image.ref.name": "registry.example.com/desktop:1"
                    },
                ),
                entry("cc"),
            ]
        },
        "blobs/sha256/aa": {
            "manifests": [entry("dd", platform={"architecture": "arm64"}), entry("bb"), attestation]
        },
        "blobs/sha256/bb": {"config": entry("ee")},
        "blobs/sha256/ee": {"architecture": "amd64"},
    }
    assert read_archive(a_tar(tmp_path / "oci.tar", documents)) == (
        ArchiveImage("registry.example.com/vdi:1", "arm64"),
        ArchiveImage("registry.example.com/vdi:1", "amd64"),
        ArchiveImage("registry.example.com/desktop:1", "amd64"),
    )


NAMED = {"org.opencontainers.image.ref.name": "registry.example.com/vdi:1"}


@pytest.mark.parametrize(
    "blobs",
    [
        {"aa": ["aa"]},
        {"aa": ["bb"], "bb": ["aa"]},
        {"aa": ["bb", "bb"], "bb": ["cc", "cc"]},
        {f"{number:02x}": [f"{number + 1:02x}"] * 2 for number in range(0xAA, 0xFF)},
    ],
    ids=["itself", "each other", "twice", "doubled each time"],
)
def test_an_index_that_names_itself_is_refused(blobs: dict[str, list[str]], tmp_path: Path) -> None:
    documents: dict[str, Any] = {
        "index.json": {"manifests": [{"digest": "sha256:aa", "annotations": NAMED}]}
    }
    for digest, named in blobs.items():
        documents[f"blobs/sha256/{digest}"] = {
            "manifests": [{"digest": f"sha256:{name}"} for name in named]
        }
    with pytest.raises(
        BadArchiveError, match=r"the index names blobs/sha256/\w\w twice, or itself"
    ):
        read_archive(a_tar(tmp_path / "oci.tar", documents))


def test_documents_of_an_archive_have_a_depth_and_a_size(tmp_path: Path) -> None:
    with pytest.raises(BadArchiveError, match="its index of images is broken"):
        read_archive(a_tar(tmp_path / "deep.tar", {"manifest.json": DEEP}))
    with tarfile.open(tmp_path / "large.tar.gz", "w:gz", compresslevel=1) as large:
        add(large, {f"blobs/{number}": bytes(2**20) for number in range(65)})
    with pytest.raises(BadArchiveError, match="its small files have more than 67108864 bytes"):
        read_archive(tmp_path / "large.tar.gz")


def test_what_is_no_image_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text := tmp_path / "text").write_text("no archive")
    broken = {"manifest.json": [{"Config": "absent.json", "RepoTags": ["a:1"]}]}
    for path, reason in (
        (text, "cannot be read as an image archive"),
        (tmp_path / "absent.tar", "No such file"),
        (a_tar(tmp_path / "empty.tar", {"x.json": 1}), "contains no image with a name"),
        (a_tar(tmp_path / "broken.tar", broken), "its index of images is broken"),
    ):
        with pytest.raises(BadArchiveError, match=reason):
            read_archive(path)
        assert main(["images", "load", str(path)]) == 2
        assert "allowed: a tar file of docker save" in capsys.readouterr().err


def test_paths_on_k3s_and_elsewhere() -> None:
    assert find_containerd(a_node(), None, None) == Containerd(
        "/run/k3s/containerd/containerd.sock", "/var/lib/rancher/k3s/data/current/bin/ctr"
    )
    plain = a_node(kubeletVersion="v1.34.4")
    assert find_containerd(plain, None, None) == Containerd(
        "/run/containerd/containerd.sock", "/usr/bin/ctr", ("/lib", "/lib64")
    )
    assert find_containerd(plain, "/run/x.sock", "/opt/ctr") == Containerd(
        "/run/x.sock", "/opt/ctr", ("/lib", "/lib64")
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"operatingSystem": "windows"}, "its operating system is windows; allowed: linux"),
        (
            {"containerRuntimeVersion": "docker://28"},
            "its container runtime is docker://28; allowed: containerd",
        ),
    ],
)
def test_nodes_that_cannot_be_served(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(LoadFailedError, match=reason):
        find_containerd(a_node(**changes), None, None)


def test_the_pod_runs_from_an_image_that_the_node_has() -> None:
    with pytest.raises(LoadFailedError, match="reports no image"):
        choose_image(a_node())
    images = (
        NodeImage(("docker.io/library/big@sha256:00", "docker.io/library/big:1"), 900),
        NodeImage(("<none>@<none>",), 1),
        NodeImage(None, 1),
        NodeImage(("docker.io/library/small:1",), 100),
    )
    assert choose_image(a_node(*images)) == "docker.io/library/small:1"
    pause = NodeImage(("docker.io/rancher/mirrored-pause:3.6",), 300)
    assert choose_image(a_node(*images, pause)) == "docker.io/rancher/mirrored-pause:3.6"


def test_the_pod_may_touch_the_socket_and_nothing_else() -> None:
    pod = pod_of("load-1", a_node(), "pause:1", Containerd("/run/c.sock", "/bin/ctr"))["spec"]
    assert [volume["hostPath"] for volume in pod["volumes"]] == [
        {"path": "/run/c.sock", "type": "Socket"},
        {"path": "/bin/ctr", "type": "File"},
    ]
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]} and security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"] and "privileged" not in security
    assert not pod["automountServiceAccountToken"] and container["imagePullPolicy"] == "Never"
    assert (
        not any(key in pod for key in ("hostNetwork", "hostPID"))
        and pod["activeDeadlineSeconds"] == 3600
    )
    assert all(mount["readOnly"] for mount in container["volumeMounts"])


def test_each_node_gets_what_is_for_its_architecture() -> None:
    archives = {
        "amd64.tar": [ArchiveImage("vdi:1", "amd64"), ArchiveImage("desktop:1", "amd64")],
        "arm64.tar": [ArchiveImage("vdi:1", "arm64")],
    }
    assert check_architectures(a_node(), archives) == {"amd64.tar": ["vdi:1", "desktop:1"]}
    with pytest.raises(
        LoadFailedError,
        match="its architecture is arm64, for which no archive contains desktop:1",
    ):
        check_architectures(a_node(architecture="arm64"), archives)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("vdi", "docker.io/library/vdi:latest"),
        ("acme/vdi:1", "docker.io/acme/vdi:1"),
        ("localhost/vdi/vdi:dev", "localhost/vdi/vdi:dev"),
        ("registry.example.com:5000/vdi", "registry.example.com:5000/vdi:latest"),
    ],
)
def test_containerd_keeps_an_image_under_its_whole_name(name: str, reference: str) -> None:
    assert image_reference(name) == reference


def test_options_are_checked_before_any_cluster_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = str(a_docker_archive(tmp_path))
    assert main(["images", "load", archive, "--ctr", "bin/ctr"]) == 2
    assert "--ctr bin/ctr: allowed: an absolute path on the nodes" in capsys.readouterr().err
    assert main(["images", "load", archive, "--kubectl", "nowhere"]) == 2
    assert "--kubectl nowhere: is no program" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["images", "load", archive]) == 3
    assert "kubectl is not in PATH; allowed: --kubectl PATH" in capsys.readouterr().err
