"""A registry with one image, on port 5000 of a node's own loopback address, where containerd speaks plain HTTP.

`python registry.py FOLDER`: FOLDER/manifest.json is the image's manifest, FOLDER/blobs/sha256:... are its parts.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORT = 5000
HOST = f"localhost:{PORT}"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def write_image(folder: Path, layer: Path, config: bytes) -> None:
    """Write what the registry serves: an image of one layer, an uncompressed tar."""
    (blobs := folder / "blobs").mkdir(parents=True)
    (folder / "config.json").write_bytes(config)
    parts = {}
    for part, media, file in (
        ("config", "application/vnd.oci.image.config.v1+json", folder / "config.json"),
        ("layer", "application/vnd.oci.image.layer.v1.tar", layer),
    ):
        with file.open("rb") as content:
            digest = f"sha256:{file_digest(content, 'sha256').hexdigest()}"
        parts[part] = {"mediaType": media, "digest": digest, "size": file.stat().st_size}
        file.rename(blobs / digest)
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": parts["config"], "layers": [parts["layer"]]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@contextmanager
def registry_on(process: int, folder: Path) -> Iterator[None]:
    """The registry, in the network namespace of that process, while the context lasts."""
    command = ["nsenter", "--target", str(process), "--net", sys.executable, __file__, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout
        assert server.stdout.readline() == b"listening\n"
        try:
            yield
        finally:
            server.terminate()


class _Handler(BaseHTTPRequestHandler):
    folder: Path

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        kind, _, name = self.path.rpartition("/")
        if kind.endswith("/manifests"):
            self._send(self.folder / "manifest.json", _MANIFEST, with_body)
        elif kind.endswith("/blobs") and (blob := self.folder / "blobs" / name).is_file():
            self._send(blob, "application/octet-stream", with_body)
        else:
            self.send_response(200 if self.path == "/v2/" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, file: Path, media: str, with_body: bool) -> None:
        with file.open("rb") as content:
            digest = file_digest(content, "sha256").hexdigest()
        headers: dict[str, Any] = {"Content-Type": media, "Content-Length": file.stat().st_size}
        self.send_response(200)
        for name, value in (headers | {"Docker-Content-Digest": f"sha256:{digest}"}).items():
            self.send_header(name, str(value))
        self.end_headers()
        if with_body:
            self.wfile.write(file.read_bytes())


def main(folder: Path) -> None:
    """Serve until the process is ended."""
    _Handler.folder = folder
    server = ThreadingHTTPServer(("127.0.0.1", PORT), _Handler)
    os.write(sys.stdout.fileno(), b"listening\n")
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
