"""Every error that is ours.  What the system refuses stays an OSError."""


class WgpyError(Exception):
    """What all errors of wgpy are."""


class BadMessage(WgpyError):
    """A datagram that is not a valid WireGuard message; it is dropped and counted."""


class ConfigError(WgpyError):
    """A configuration request that cannot be applied; nothing of it was.

    `errno` is positive (errno.EINVAL, ...); the UAPI replies with it negated.  `line` is the
    offending line when it holds no key, else None.
    """

    def __init__(self, errno: int, reason: str, line: str | None = None) -> None:
        super().__init__(reason)
        self.errno = errno
        self.reason = reason
        self.line = line


class StartError(WgpyError):
    """Why there is no interface: one line for the user."""


class LinkDeletedError(WgpyError):
    """The interface is gone and its TUN descriptor dead."""


class DataThreadError(WgpyError):
    """Why there is no interface any more: a thread of the data plane ended by itself."""
