"""Whether a stream is a whole tar archive, plain or gzip, looked at as it passes. Pure."""

import zlib

_GZIP = b"\x1f\x8b"
_MAGIC = slice(257, 262)
_BLOCK = 512
_MOST_BYTES = 1 << 20
"""Unpacked at a time: a chunk of a sparse file may unpack to a thousand times its size."""
_END = bytes(2 * _BLOCK)
"""A tar archive ends with two blocks of zeros."""


class BadArchiveError(Exception):
    """Raised for what is not a whole archive; the message says what is wrong."""


class ArchiveCheck:
    """Takes the chunks of a stream in order; `finish` says whether it was whole."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes so far, as they are in the archive; unpacked where it is compressed."""
        self._head = b""
        self._tail = b""
        self._gzip: zlib._Decompress | None = None
        self._begun = False

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes. Raises BadArchiveError."""
        if not self._begun:
            chunk = self._head + chunk
            if len(chunk) < len(_GZIP):
                self._head = chunk
                return
            self._begun, self._head = True, b""
            if chunk.startswith(_GZIP):
                self._gzip = zlib.decompressobj(wbits=31)
        if self._gzip:
            self._unpack(self._gzip, chunk)
        else:
            self._feed_tar(chunk)

    @property
    def is_gzip(self) -> bool:
        """Whether it is compressed; known from the second byte on."""
        return self._gzip is not None

    def finish(self) -> None:
        """The stream is over. Raises BadArchiveError."""
        if self._gzip and not self._gzip.eof:
            raise BadArchiveError("it is truncated: the end of its compressed data is missing")
        if self.size == 0:
            raise BadArchiveError("it is empty")
        if self.size < len(_END) or self._tail != _END:
            raise BadArchiveError("it is truncated: the end of the tar archive is missing")

    def _unpack(self, stream: "zlib._Decompress", chunk: bytes) -> None:
        while chunk:
            try:
                self._feed_tar(stream.decompress(chunk, _MOST_BYTES))
            except zlib.error as error:
                raise BadArchiveError(f"its compressed data is damaged ({error})") from error
            if stream.unused_data:
                raise BadArchiveError("there is data after its end")
            chunk = stream.unconsumed_tail

    def _feed_tar(self, data: bytes) -> None:
        if len(self._head) < _BLOCK:
            self._head += data[: _BLOCK - len(self._head)]
            if len(self._head) == _BLOCK and self._head[_MAGIC] != b"ustar" and any(self._head):
                raise BadArchiveError("it is not a tar archive, plain or compressed with gzip")
        self.size += len(data)
        self._tail = (self._tail + data[-len(_END) :])[-len(_END) :]
