"""Servers of one answer, on this machine: what stands where an S3 or Prefect server is meant to be."""

import contextlib
import http.server
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

PAGE = b"<!doctype html><title>Console</title>"
HTML = {"Content-Type": "text/html; charset=utf-8"}

# Status, headers and body.
Reply = tuple[int, Mapping[str, str], bytes]


@contextlib.contextmanager
def answering(reply: Reply | Callable[[str, bytes], Reply], certificate: Path | None = None) -> Iterator[str]:
    """Address of an HTTP server that answers everything so, until the end of the block; by TLS with a certificate.

    A function gets the path and the body of each request.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = reply(self.path, given) if callable(reply) else reply
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, *_: object) -> None:
            pass

    with _serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler), certificate) as port:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{port}"


@contextlib.contextmanager
def sending(data: bytes) -> Iterator[str]:
    """Address of a server that sends these bytes to whoever connects, and closes."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(data)

    with _serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler), None) as port:
        yield f"http://127.0.0.1:{port}"


def make_certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody trusts, with its key, in one file."""
    made = folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    key, certificate = folder / "key", folder / "certificate"
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    made.write_bytes(key.read_bytes() + certificate.read_bytes())
    return made


@contextlib.contextmanager
def _serving(server: socketserver.TCPServer, certificate: Path | None) -> Iterator[int]:
    server.handle_error = lambda *_: None  # a client that hangs up is no news
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # The handshake in the connection's own thread: one that fails must not end the server.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
