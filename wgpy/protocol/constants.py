# SPDX-License-Identifier: MIT
"""The constants of section 6, which control and data plane share (api.h has them for C)."""

from typing import Final

REJECT_AFTER_TIME_S: Final = 180  # 6.1
REKEY_ATTEMPT_TIME_S: Final = 90  # 6.4
REKEY_TIMEOUT_S: Final = 5  # 6.1
KEEPALIVE_TIMEOUT_S: Final = 10  # 6.1
