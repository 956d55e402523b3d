# SPDX-License-Identifier: MIT
"""Where a handshake with a peer stands (5.4, 6.4)."""

import enum
from typing import Final


class Handshake(enum.Enum):
    """What happened last; whether there is a session is another question (`PeerStats.sessions`)."""

    IDLE = "idle"  # nothing since we are up, or all of it is forgotten (6.3)
    INITIATED = "initiated"  # we wait for a response, and repeat
    RESPONDED = "responded"  # we wait for the first message under the keys of our response
    ESTABLISHED = "established"  # our initiation was answered, or our response confirmed
    GIVEN_UP = "given up"  # no answer to any repetition; traffic begins anew


UNANSWERED: Final = (Handshake.INITIATED, Handshake.GIVEN_UP)  # what we asked
