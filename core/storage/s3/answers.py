"""Whether an answer comes from an S3 server: web pages, proxies and other services may answer at the address too."""

import http.client
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

# The outermost XML element of each answer that is a document.
_DOCUMENTS = {
    "CompleteMultipartUpload": "CompleteMultipartUploadResult",
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "ListMultipartUploads": "ListMultipartUploadsResult",
    "ListObjectsV2": "ListBucketResult",
}
# Headers that every successful answer has. Other servers than S3 give an etag too.
_OBJECT_HEADERS = {
    "GetObject": ("etag", "last-modified"),
    "HeadObject": ("etag", "last-modified"),
    "PutObject": ("etag",),
    "UploadPart": ("etag",),
}
# Prefixes of headers that S3 servers send with every answer, or with objects of this project.
_SIGNS = ("x-amz-request-id", "x-amz-id-2", "x-amz-meta-", "x-goog-")
_REDIRECTS = {301, 302, 303, 307, 308}
_GATEWAY_STATUS = {408, 429, 502, 503, 504}
_SECONDS_TO_ASK = 3.0
_FIRST_ELEMENT = re.compile(rb"^\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*)*<(?:[\w.-]+:)?([\w.-]+)", re.DOTALL)
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+")


class NotS3Error(Exception):
    """The server at an endpoint is not an S3 server.

    The message says what answered instead, not in the server's own words. `advice` completes 'set the endpoint to'.
    """

    def __init__(self, message: str, advice: str = "the address of its S3 port"):
        super().__init__(message)
        self.advice = advice


class Answer(NamedTuple):
    """An answer to the S3 operation of that name; `body` is None if it has not been read yet."""

    operation: str
    status: int
    headers: Mapping[str, str]
    body: bytes | None

    @property
    def is_from_s3(self) -> bool | None:
        """Whether it comes from an S3 server; None if that cannot be decided."""
        is_page = self.media_type.endswith("html")
        if self.status < 300:
            if self.operation in _DOCUMENTS:
                return self._is_document(_DOCUMENTS[self.operation])
            if self.operation in _OBJECT_HEADERS:
                if not all(name in self.headers for name in _OBJECT_HEADERS[self.operation]):
                    return False
                # An S3 server answers uploads with headers only.
                return self._is_signed or not (is_page or (self.body and self.operation in ("PutObject", "UploadPart")))
            return False if is_page else self._is_signed or None
        if self.is_of_minio_console:
            return False
        if self._is_document("Error") or self._is_signed:
            return not is_page
        if self.is_of_a_gateway:
            return None  # the server behind it may be an S3 server
        if self.operation.startswith("Head") or self.status == 500:
            # HEAD answers have no body. A 500 may come from a proxy, or from botocore for a document that was cut off.
            may_be = {"", "application/xml", "text/xml"} | ({"text/plain"} if self.status == 500 else set())
            return None if self.media_type in may_be and not self.redirects else False
        return False

    @property
    def redirects(self) -> bool:
        """Whether it redirects to another address without the region that S3 names in its redirects."""
        return self.status in _REDIRECTS and "x-amz-bucket-region" not in self.headers

    @property
    def is_of_minio_console(self) -> bool:
        """Whether it comes from MinIO's console, which has its own port and refuses S3 requests."""
        return self._is_document("Error") and b"must be made to API port" in (self.body or b"")

    @property
    def is_of_a_gateway(self) -> bool:
        """Whether a gateway says that the server behind it is down or busy."""
        return self.status in _GATEWAY_STATUS

    @property
    def media_type(self) -> str:
        """The content type; empty if there is none."""
        found = _MEDIA_TYPE.match(self.headers.get("content-type", ""))
        return found.group().lower() if found else ""

    def error(self) -> NotS3Error:
        """The error for an answer that does not come from an S3 server."""
        if self.redirects:
            target = _origin(self.headers.get("location", ""))
            return NotS3Error(f"it redirects to {target or 'another address'}", "where the S3 server itself is")
        if self.is_of_minio_console:
            return NotS3Error("it is MinIO's console")
        is_empty = self.body == b"" and not self.operation.startswith("Head")
        content = "an empty page" if is_empty else self.media_type or "something other than an S3 document"
        # botocore turns a 200 that it cannot read into a 500.
        return NotS3Error(f"it answers {'' if self.status == 500 else f'HTTP {self.status} '}with {content}")

    @property
    def _is_signed(self) -> bool:
        return any(name.lower().startswith(_SIGNS) for name in self.headers)

    def _is_document(self, root: str) -> bool:
        found = _FIRST_ELEMENT.match((self.body or b"")[:4000].removeprefix(b"\xef\xbb\xbf"))
        return found is not None and found.group(1).decode() == root


def _origin(address: str) -> str:
    """Scheme, host and port of an address, without the rest; empty if it is not a valid address."""
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.hostname}{port}" if parts.scheme and parts.hostname else ""


def answer_of(operation: str, response: Mapping[str, Any]) -> Answer:
    """The answer in botocore's event `before-parse`. The body of an object is not read here."""
    body = response["body"]
    return Answer(operation, response["status_code"], response["headers"], body if isinstance(body, bytes) else None)


def other_protocol(endpoint: str) -> NotS3Error | None:
    """The error if the server at an http:// address speaks https or another protocol; None if it speaks http."""
    address = urlsplit(endpoint)
    if address.scheme != "http":
        return None
    host, port = address.hostname or "", address.port or 80
    if _speaks_tls(host, port):
        return NotS3Error("it speaks https, not http", "an address that begins with https://")
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS_TO_ASK)
    try:
        connection.request("HEAD", "/")
        connection.getresponse()
    except http.client.RemoteDisconnected:
        return None
    except http.client.HTTPException:
        return NotS3Error("it does not speak HTTP")
    except OSError:
        return None
    finally:
        connection.close()
    return None


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout=_SECONDS_TO_ASK) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # the server refused, but in TLS
    except (OSError, ValueError):
        return False
    return True
