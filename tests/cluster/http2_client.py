"""HTTP/2 requests as no browser sends them: header fields as given, bodies of another length than
they say.

`h2` (a dev dependency) knows frames and header compression; its own checks of what is sent are
switched off.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError

from vdi.http_client import unverified

Fields = Sequence[tuple[str, str]]
SECONDS = 10.0


@dataclass
class Answer:
    """The response on one stream."""

    # 0: none, the stream or the connection was ended instead.
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False

    def header(self, name: str) -> str:
        """The value of a header field; empty when it is not there."""
        return next((value for key, value in self.headers if key == name), "")


class Http2:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        unchecked = H2Configuration(
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
            header_encoding="latin-1",
        )
        self.protocol = H2Connection(unchecked)
        self.answers: dict[int, Answer] = {}
        # What the server has announced.
        self.settings: dict[int, int] = {}
        self.closed = False
        self.protocol.initiate_connection()

    async def ask(self, fields: Fields, *pieces: bytes, trailers: Fields = ()) -> Answer:
        """One request with this body. Returns when the answer is complete, or when the server has
        had enough.
        """
        stream = self.protocol.get_next_available_stream_id()
        self.answers[stream] = Answer()
        self.protocol.send_headers(stream, list(fields), end_stream=not pieces)
        await self._flush()
        for number, piece in enumerate(pieces, start=1):
            self.protocol.send_data(
                stream, piece, end_stream=number == len(pieces) and not trailers
            )
        if trailers:
            self.protocol.send_headers(stream, list(trailers), end_stream=True)
        await self._flush()
        return await self.wait(stream)

    async def wait(self, stream: int) -> Answer:
        """Return when this stream's answer is complete, or none will come."""
        async with asyncio.timeout(SECONDS):
            while not (self.answers[stream].ended or self.closed):
                await self._receive()
        return self.answers[stream]

    async def wait_for_settings(self) -> None:
        """Return when the server has said what it can do."""
        async with asyncio.timeout(SECONDS):
            while not self.settings and not self.closed:
                await self._receive()

    async def _flush(self) -> None:
        self._writer.write(self.protocol.data_to_send())
        await self._writer.drain()

    async def _receive(self) -> None:
        try:
            data = await self._reader.read(65536)
            events = self.protocol.receive_data(data) if data else []
        except (ConnectionError, ProtocolError):
            data, events = b"", []
        self.closed = self.closed or not data
        for event in events:
            if isinstance(event, RemoteSettingsChanged):
                self.settings |= {
                    int(code): changed_setting.new_value
                    for code, changed_setting in event.changed_settings.items()
                }
            elif isinstance(event, ConnectionTerminated):
                self.closed = True
            elif isinstance(event, ResponseReceived | DataReceived | StreamEnded | StreamReset):
                answer = self.answers.setdefault(event.stream_id, Answer())
                if isinstance(event, ResponseReceived):
                    answer.headers = [
                        (str(name), str(value)) for name, value in event.headers or ()
                    ]
                    answer.status = int(answer.header(":status"))
                elif isinstance(event, DataReceived):
                    answer.body += event.data or b""
                    self.protocol.acknowledge_received_data(
                        event.flow_controlled_length or 0, event.stream_id
                    )
                else:
                    answer.ended = True
        if not self.closed:
            await self._flush()


@asynccontextmanager
async def open_http2(port: int, host: str) -> AsyncIterator[Http2]:
    """A connection to Traefik on the loopback, whoever its certificate is for."""
    tls = unverified()
    tls.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=host)
    try:
        chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        assert chosen == "h2", f"the server speaks {chosen}"
        yield Http2(reader, writer)
    finally:
        writer.transport.abort()
