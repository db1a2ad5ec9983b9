"""TLS of a server on 127.0.0.1, with a certificate of the test's own authority."""

import ssl

from vdi.devcluster.credentials import Authority


def server_context(authority: Authority, *, ask_for_client: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", "server", names=["127.0.0.1"], server=True))
    if ask_for_client:
        context.load_verify_locations(authority.file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
