"""CNCF's registry on port 5000 of a node's own loopback address, where containerd speaks plain
HTTP.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from urllib.request import Request, urlopen

from support.waiting import wait_until
from tools import binaries
from vdi.devcluster.progress import Progress

PORT = 5000
HOST = f"localhost:{PORT}"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@contextmanager
def registry(folder: Path, process: int | None = None) -> Iterator[None]:
    """The registry with its images in `folder`, in the network namespace of `process` or in ours,
    for the context.
    """
    with Progress(folder / "logs") as progress:
        program = binaries.ensure(["registry"], progress=progress)["registry"]
    settings, log = folder / "registry.yaml", folder / f"registry-{process}.log"
    storage = {"filesystem": {"rootdirectory": str(folder / "images")}}
    settings.write_text(
        json.dumps({"version": 0.1, "storage": storage, "http": {"addr": f"127.0.0.1:{PORT}"}})
    )
    place = ["nsenter", "--target", str(process), "--net"] if process else []
    with (
        log.open("wb") as output,
        subprocess.Popen([*place, program, "serve", settings], stderr=output) as server,
    ):
        try:
            wait_until("the registry listens", lambda: "listening on" in log.read_text())
            yield
        finally:
            server.terminate()


def push_image(repository: str, tag: str, layer: bytes, config: bytes) -> None:
    """Push an image of one layer, an uncompressed tar, to the registry in our network namespace."""
    parts = {
        "config": _push_blob(repository, "application/vnd.oci.image.config.v1+json", config),
        "layer": _push_blob(repository, "application/vnd.oci.image.layer.v1.tar", layer),
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": parts["config"],
        "layers": [parts["layer"]],
    }
    _send(
        "PUT",
        f"http://{HOST}/v2/{repository}/manifests/{tag}",
        json.dumps(manifest).encode(),
        _MANIFEST,
    )


def _push_blob(repository: str, media: str, content: bytes) -> dict[str, object]:
    digest = f"sha256:{sha256(content).hexdigest()}"
    upload = _send("POST", f"http://{HOST}/v2/{repository}/blobs/uploads/")
    _send("PUT", f"{upload}&digest={digest}", content, "application/octet-stream")
    return {"mediaType": media, "digest": digest, "size": len(content)}


def _send(method: str, url: str, content: bytes = b"", media: str = "") -> str:
    request = Request(url, content, {"Content-Type": media} if media else {}, method=method)
    with urlopen(request, timeout=20) as response:
        return str(response.headers["Location"])
