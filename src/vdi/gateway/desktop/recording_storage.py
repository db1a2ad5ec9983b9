"""Storage of recordings: a folder, which is a claim that all replicas mount, or a bucket of S3. For
`recordings`.

A folder has a file for each recording. An object in S3 cannot grow, so a recording is a prefix
there, with an object for each piece that was fetched; playback joins them. The gateway stores them
with a key of its own, which a policy can restrict to the prefix: with tickets of its own (presigned
requests) a desktop could store what it likes.

Every method raises OSError.
"""

import asyncio
import os
import re
from array import array
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import FileResponse, Response, StreamingResponse

from vdi.gateway.in_flight import RECORDING_PIECE_BYTES

_MEDIA_TYPE = "video/mp4"
# Of a folder's volume so much stays free, or a twentieth of a small one: the database may be on it,
# too.
_KEPT_FREE = 1 << 30
_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})")


@dataclass(frozen=True, slots=True)
class RecordingFolder:
    """A file for each recording."""

    folder: Path

    async def put(self, recording: str, offset: int, piece: bytes) -> int:
        """Store a piece, never over what is stored. Returns where the next one begins."""

        def write() -> int:
            with os.fdopen(
                os.open(self._path(recording), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb"
            ) as file:
                start = max(file.seek(0, os.SEEK_END), offset)
                file.seek(start)
                file.write(piece[start - offset :])
            return max(start, offset + len(piece))

        return await asyncio.to_thread(write)

    async def space(self) -> int:
        """Bytes that recordings may still take."""
        volume = await asyncio.to_thread(os.statvfs, self.folder)
        kept = min(_KEPT_FREE, volume.f_blocks * volume.f_frsize // 20)
        return volume.f_bavail * volume.f_frsize - kept

    async def play(self, recording: str, _range: str) -> Response:
        """The recording, or the range of it that the request names. Raises FileNotFoundError."""
        path = self._path(recording)
        return FileResponse(path, media_type=_MEDIA_TYPE, stat_result=path.stat())

    async def delete(self, recording: str) -> None:
        self._path(recording).unlink(missing_ok=True)

    def _path(self, recording: str) -> Path:
        return self.folder / f"{recording}.mp4"


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The objects of a recording in order. A recording of a day has 43,000: by key they would take
    10 MiB for each viewer.
    """

    # Begin of their keys; the rest is the place of each.
    folder: str
    places: "array[int]"
    sizes: "array[int]"

    def keys(self) -> Iterator[str]:
        return (_key(self.folder, place) for place in self.places)


class RecordingBucket:
    """An object for each piece, `PREFIX/RECORDING/OFFSET`. Endpoint, region and key: the variables
    of AWS' own programs.
    """

    def __init__(self, url: str) -> None:
        # 20 MiB of memory, which a gateway without a bucket does not need.
        from obstore.store import (
            S3Store,
        )

        self._store = S3Store.from_url(
            url,
            client_options={"timeout": "10s", "allow_http": True},
            retry_config={"max_retries": 2},
        )

    async def put(self, recording: str, offset: int, piece: bytes) -> int:
        from obstore.exceptions import AlreadyExistsError

        key = _key(recording, offset)
        with _os_errors():
            try:
                await self._store.put_async(key, piece, mode="create", use_multipart=False)
            # Another replica stored it, or the database was away after we did.
            except AlreadyExistsError:
                return offset + (await self._store.head_async(key))["size"]
        return offset + len(piece)

    async def space(self) -> None:
        """A bucket does not tell."""

    async def play(self, recording: str, range_: str) -> Response:
        pieces = await self._pieces(recording)
        total = sum(pieces.sizes)
        if not total:
            raise FileNotFoundError
        asked = _RANGE.fullmatch(range_)
        start = int(asked[1]) if asked else 0
        stop = min(int(asked[2]) + 1, total) if asked and asked[2] else total
        if start >= stop:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{total}"})
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(stop - start)}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
        return StreamingResponse(
            self._read(pieces, start, stop), 206 if asked else 200, headers, _MEDIA_TYPE
        )

    async def delete(self, recording: str) -> None:
        pieces = await self._pieces(recording)
        with _os_errors():
            await self._store.delete_async(list(pieces.keys()))

    async def _pieces(self, recording: str) -> _Pieces:
        folder, places, sizes = recording, array("Q"), array("Q")
        with _os_errors():
            async for page in self._store.list_async(recording, chunk_size=1000):
                for piece in page:
                    folder, _, place = piece["path"].rpartition("/")
                    places.append(int(place))
                    sizes.append(piece["size"])
        order = sorted(range(len(places)), key=places.__getitem__)
        ordered = [array("Q", map(column.__getitem__, order)) for column in (places, sizes)]
        return _Pieces(folder, *ordered)

    async def _read(self, pieces: _Pieces, start: int, stop: int) -> AsyncIterator[bytes]:
        for key, size in zip(pieces.keys(), pieces.sizes, strict=True):
            end = min(stop, size)
            # In small pieces: each browser that does not read holds one.
            for begin in range(max(start, 0), end, RECORDING_PIECE_BYTES):
                last = min(begin + RECORDING_PIECE_BYTES, end)
                with _os_errors():
                    yield bytes(await self._store.get_range_async(key, start=begin, end=last))
            start, stop = start - size, stop - size


def _key(folder: str, place: int) -> str:
    return f"{folder}/{place:012}"


@contextmanager
def _os_errors() -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        raise OSError(" ".join(str(error).split())[:500]) from error
