"""A real S3 server of the tests' own."""

import os
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Self

import httpx

from support.waiting import wait_until
from tools import binaries
from vdi.devcluster.progress import Progress

_KEY, _SECRET = "gateway", "secret"


def s3_program(logs: Path) -> Path:
    """versitygw, which is built the first time."""
    with Progress(logs) as progress:
        return binaries.ensure(["versitygw"], progress=progress)["versitygw"]


class S3:
    """versitygw with the bucket `recordings`, a folder."""

    def __init__(self, program: Path, folder: Path, address: str) -> None:
        self.program, self.folder, self.address = program, folder, address
        self.bucket = folder / "buckets/recordings"
        self.bucket.mkdir(parents=True)
        self.start()

    def start(self) -> None:
        env = os.environ | {"ROOT_ACCESS_KEY": _KEY, "ROOT_SECRET_KEY": _SECRET}
        options = ("--port", self.address, "--health", "/health")
        command = [str(self.program), *options, "posix", str(self.bucket.parent)]
        self.process = Popen(command, env=env, cwd=self.folder, stdout=DEVNULL, stderr=DEVNULL)
        wait_until("the S3 server answers", self._answers)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://{self.address}/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(15)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def keys(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.bucket)) for path in self.bucket.rglob("*") if path.is_file()
        )

    @property
    def variables(self) -> dict[str, str]:
        """Those of a client."""
        place = {"AWS_ENDPOINT_URL_S3": f"http://{self.address}", "AWS_REGION": "us-east-1"}
        return place | {"AWS_ACCESS_KEY_ID": _KEY, "AWS_SECRET_ACCESS_KEY": _SECRET}
