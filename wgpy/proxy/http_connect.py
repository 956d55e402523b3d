# SPDX-License-Identifier: MIT
"""HTTP CONNECT, the server's side (RFC 9110, 9.3.6), by h11.  No I/O."""

import binascii
import errno
import socket
from base64 import b64decode
from http import HTTPStatus
from typing import Final

import h11

from wgpy.errors import BadRequest
from wgpy.proxy.credentials import Credentials
from wgpy.proxy.requests import Request, Target, parse_target

HEAD_MAX: Final = 8192  # bytes of a request and its header fields
CHALLENGE: Final = 'Proxy-Authenticate: Basic realm="wgpy", charset="UTF-8"'  # RFC 7617, 2
ALLOW: Final = "Allow: CONNECT"
_CONTENT: Final = (b"content-length", b"transfer-encoding")
_STATUSES: Final = {
    errno.EACCES: HTTPStatus.FORBIDDEN,
    errno.EPERM: HTTPStatus.FORBIDDEN,
    errno.ETIMEDOUT: HTTPStatus.GATEWAY_TIMEOUT,
}


class HttpConnect:
    """A client's request for a connection."""

    def __init__(self, credentials: Credentials | None) -> None:
        """Begin; without credentials nobody has to say who it is."""
        self.request: Request | None = None
        self._credentials = credentials
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)

    def feed_untrusted(self, data: bytes) -> bytes:
        """Take what came; return what to send: nothing yet.  Raises BadRequest."""
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise BadRequest(str(error), _answer(HTTPStatus(error.error_status_hint))) from None
        if isinstance(event, h11.Request):
            self._authenticate(event)
            self.request = Request(_target(event))
            self._http.next_event()  # the end of the message: there is no content
        return b""

    def early(self) -> bytes:
        """Return what came behind the request: the connection's first bytes."""
        data, _ = self._http.trailing_data
        return data

    def granted(self, _: Target) -> bytes:
        """Return the answer when the request is served."""
        return f"HTTP/1.1 {HTTPStatus.OK} {HTTPStatus.OK.phrase}\r\n\r\n".encode()

    def refused(self, error: OSError) -> bytes:
        """Return the answer when it cannot be."""
        if isinstance(error, socket.gaierror):
            return _answer(HTTPStatus.BAD_GATEWAY)
        return _answer(_STATUSES.get(error.errno or 0, HTTPStatus.BAD_GATEWAY))

    def _authenticate(self, event: h11.Request) -> None:
        """Do as in RFC 9110, 11.7, with the scheme of RFC 7617.  Raises BadRequest."""
        if self._credentials is None:
            return
        given = [value for name, value in event.headers if name == b"proxy-authorization"]
        challenge = _answer(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, CHALLENGE)
        if len(given) != 1:
            raise BadRequest("no password", challenge)
        scheme, _, encoded = given[0].partition(b" ")
        try:
            user, _, password = b64decode(encoded.strip(), validate=True).partition(b":")
        except binascii.Error:
            raise BadRequest("malformed password", challenge) from None
        if scheme.lower() != b"basic" or not self._credentials.match(user, password):
            raise BadRequest("wrong password", challenge, is_guess=True)


def _target(event: h11.Request) -> Target:
    """Return whom it asks for.  Raises BadRequest."""
    if event.method != b"CONNECT":
        raise BadRequest("not CONNECT", _answer(HTTPStatus.METHOD_NOT_ALLOWED, ALLOW))
    if any(name in _CONTENT for name, _ in event.headers):
        raise BadRequest("CONNECT with content", _answer(HTTPStatus.BAD_REQUEST))
    try:
        return parse_target(event.target.decode("ascii"))
    except ValueError:
        raise BadRequest("no host and port", _answer(HTTPStatus.BAD_REQUEST)) from None


def _answer(status: HTTPStatus, *fields: str) -> bytes:
    head = (f"HTTP/1.1 {status} {status.phrase}", "Connection: close", "Content-Length: 0", *fields)
    return "".join(f"{line}\r\n" for line in (*head, "")).encode()
