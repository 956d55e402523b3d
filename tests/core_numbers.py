# SPDX-License-Identifier: MIT
"""The numbers of api.h that tests alone need, by the names of the paper where it has one."""

from typing import Final

from wgpy.dataplane._core import lib

REKEY_AFTER_TIME_S: Final[int] = lib.WG_REKEY_AFTER_TIME_S
REJECT_AFTER_TIME_S: Final[int] = lib.WG_REJECT_AFTER_TIME_S
REKEY_TIMEOUT_S: Final[int] = lib.WG_REKEY_TIMEOUT_S
KEEPALIVE_TIMEOUT_S: Final[int] = lib.WG_KEEPALIVE_TIMEOUT_S
REKEY_AFTER_MESSAGES: Final[int] = lib.WG_REKEY_AFTER_MESSAGES
REJECT_AFTER_MESSAGES: Final[int] = lib.WG_REJECT_AFTER_MESSAGES
MESSAGE_INITIATION: Final[int] = lib.WG_MESSAGE_INITIATION
MESSAGE_RESPONSE: Final[int] = lib.WG_MESSAGE_RESPONSE
MESSAGE_COOKIE_REPLY: Final[int] = lib.WG_MESSAGE_COOKIE_REPLY
MESSAGE_TRANSPORT: Final[int] = lib.WG_MESSAGE_TRANSPORT
INITIATION_LEN: Final[int] = lib.WG_INITIATION_LEN
RESPONSE_LEN: Final[int] = lib.WG_RESPONSE_LEN
COOKIE_REPLY_LEN: Final[int] = lib.WG_COOKIE_REPLY_LEN
TRANSPORT_OVERHEAD: Final[int] = lib.WG_TRANSPORT_OVERHEAD
EVENT_RING: Final[int] = lib.WG_EVENT_RING
LOAD: Final[int] = lib.WG_LOAD

SESSION_CURRENT: Final = 1  # bits of PeerStats.sessions
SESSION_PREVIOUS: Final = 2
SESSION_NEXT: Final = 4
