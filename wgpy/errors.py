"""The two errors that untrusted input can raise, and nothing else does."""


class BadMessage(Exception):
    """A datagram that is not a valid WireGuard message; it is dropped and counted."""


class ConfigError(Exception):
    """A configuration request that cannot be applied; nothing of it was.

    `errno` is positive (errno.EINVAL, ...); the UAPI replies with it negated.  `line` is the
    offending line when it holds no key, else None.
    """

    def __init__(self, errno: int, reason: str, line: str | None = None) -> None:
        """Take what the reply and the log need."""
        super().__init__(reason)
        self.errno = errno
        self.reason = reason
        self.line = line
