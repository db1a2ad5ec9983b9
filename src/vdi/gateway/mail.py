"""One e-mail to one user over SMTP, for `vdi.gateway.notices`. Blocks; bounded in time and in what
the server says.
"""

import smtplib
import socket
import ssl
import time
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

from vdi.gateway.settings import Settings
from vdi.http_client import is_local

# Time limit of a connection, of one write, and of the whole conversation.
_TIMEOUT_SECONDS = 10.0
_CONVERSATION_SECONDS = 30.0
# Replies of a server to one message take some hundred bytes.
_MAX_REPLY_BYTES = 2**16


def send_mail(settings: Settings, message: EmailMessage, user: str) -> None:
    """Send it to this user alone; blocks. Without TLS only to this machine. Raises OSError,
    ValueError.
    """
    url, tls = urlsplit(settings.smtp_url), ssl.create_default_context()
    host, is_tls = url.hostname or "", url.scheme == "smtps"
    port = url.port or (465 if is_tls else 587)
    with _Connection(host, port, tls if is_tls else None) as server:
        if not is_tls and not is_local(host):
            server.starttls(context=tls)  # raises where the server does not offer it
        if url.username:
            server.login(unquote(url.username), unquote(url.password or ""))
        server.send_message(message, settings.smtp_from, [user])


class _Connection(smtplib.SMTP):
    """An SMTP client that reads no more than a conversation takes: smtplib reads the lines of a
    reply without end.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._ends = time.monotonic() + _CONVERSATION_SECONDS
        self._bytes_left = _MAX_REPLY_BYTES
        super().__init__(host, port, timeout=_TIMEOUT_SECONDS)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        plain = socket.create_connection((host, port), timeout)
        if self._tls:
            return self._tls.wrap_socket(plain, server_hostname=host)
        return plain

    def getreply(self) -> tuple[int, bytes]:
        # smtplib would open a file of the socket here, and after STARTTLS again.
        self.file: Any = _Replies(self)
        return super().getreply()

    def next_byte(self) -> bytes:
        """The next byte of the server; none at the end. Raises OSError beyond the limits."""
        seconds = self._ends - time.monotonic()
        self._bytes_left -= 1
        if self.sock is None or seconds <= 0 or self._bytes_left < 0:
            limits = f"{_CONVERSATION_SECONDS:g} s and {_MAX_REPLY_BYTES} bytes"
            raise OSError(f"the mail server's replies exceed {limits}")
        self.sock.settimeout(min(seconds, _TIMEOUT_SECONDS))
        return self.sock.recv(1)


class _Replies:
    """The file that smtplib reads replies from. Byte by byte: a server may send one each few
    seconds.
    """

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def readline(self, most: int) -> bytes:
        line = bytearray()
        while (
            not line.endswith(b"\n") and len(line) < most and (byte := self._connection.next_byte())
        ):
            line += byte
        return bytes(line)

    def close(self) -> None:
        """The connection closes the socket."""
