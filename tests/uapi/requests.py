# SPDX-License-Identifier: MIT
"""Requests in the text of the configuration protocol, and what becomes of them."""

import pytest

from wgpy.config import DeviceChange, PeerChange
from wgpy.errors import ConfigError
from wgpy.uapi.protocol import Request, RequestParser, SetRequest

KEY = bytes(range(32))
KEY_HEX = KEY.hex()
OTHER = bytes(range(32, 64))
OTHER_HEX = OTHER.hex()
PEER_LINE = f"public_key={KEY_HEX}"


def parse(*lines: str) -> DeviceChange:
    request = SetRequest()
    request.add_untrusted(lines)
    return request.finish()


def parse_peer(*lines: str) -> PeerChange:
    (peer,) = parse(PEER_LINE, *lines).peers
    return peer


def refusal(*lines: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(*lines)
    return caught.value


def requests(*chunks: bytes) -> list[Request]:
    """What a connection that sends these chunks, and then ends, amounts to."""
    parser = RequestParser()
    found = [request for chunk in chunks for request in parser.feed_untrusted(chunk)]
    last = parser.end_untrusted()
    return found if last is None else [*found, last]
