"""What images that people bring answer on their port. STAND_IN says which of them this is:

kasmvnc     TLS on 6901 with a certificate of its own, basic auth on every path: kasm_user and VNC_PW
selkies-1   nginx of Selkies 1: HTTP on NGINX_PORT, basic auth on every path, /health too: user and PASSWD

ADDRESS and PORT say otherwise where it listens, for tests without a container.
"""

import base64
import os
import signal
import ssl
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class KasmVNC(BaseHTTPRequestHandler):
    """Every path behind one password."""

    paths: tuple[str, ...] = ("/",)
    login = f"kasm_user:{os.environ.get('VNC_PW', 'vncpassword')}"

    def do_GET(self) -> None:
        """Answer by the login first, as these servers do."""
        if (
            self.headers["Authorization"]
            != f"Basic {base64.b64encode(self.login.encode()).decode()}"
        ):
            self._answer(401)
        else:
            self._answer(200 if self.path in self.paths else 404)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="Websockify"')
        self.send_header("Content-Length", "0")
        self.end_headers()


class Selkies1(KasmVNC):
    """The same, with a health path that is no exception."""

    paths = ("/", "/health")
    login = f"user:{os.environ.get('PASSWD', 'mypasswd')}"


def main() -> None:
    """Serve until SIGTERM, which the first process of a container gets only if it asks for it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    address, port = os.environ.get("ADDRESS", ""), int(os.environ.get("PORT", "0"))
    if os.environ.get("STAND_IN") == "selkies-1":
        ThreadingHTTPServer(
            (address, port or int(os.environ.get("NGINX_PORT", "8080"))), Selkies1
        ).serve_forever()
    folder = tempfile.mkdtemp()
    key, certificate = f"{folder}/key.pem", f"{folder}/certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=kasm",
        "-keyout",
        key,
    ]
    subprocess.run([*command, "-out", certificate], check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer((address, port or 6901), KasmVNC)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


main()
