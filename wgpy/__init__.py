# SPDX-License-Identifier: MIT
"""wgpy: a userspace WireGuard for Linux.

What a program may use is in __all__; each name is loaded when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wgpy.blocking import BlockingTunnel, connect
    from wgpy.config import AllowedIP, DeviceChange, Endpoint, PeerChange
    from wgpy.errors import (
        ConfigError,
        ConfigFileError,
        DataThreadError,
        LinkDeletedError,
        StartError,
        WgpyError,
    )
    from wgpy.interface import Interface
    from wgpy.process import Process
    from wgpy.settings import Config, PeerConfig
    from wgpy.tunnel import Tunnel
    from wgpy.wgquick import Host

__all__ = [
    "AllowedIP",
    "BlockingTunnel",
    "Config",
    "ConfigError",
    "ConfigFileError",
    "DataThreadError",
    "DeviceChange",
    "Endpoint",
    "Host",
    "Interface",
    "LinkDeletedError",
    "PeerChange",
    "PeerConfig",
    "Process",
    "StartError",
    "Tunnel",
    "WgpyError",
    "connect",
]

_HOMES = {
    "AllowedIP": "config",
    "BlockingTunnel": "blocking",
    "Config": "settings",
    "ConfigError": "errors",
    "ConfigFileError": "errors",
    "DataThreadError": "errors",
    "DeviceChange": "config",
    "Endpoint": "config",
    "Host": "wgquick",
    "Interface": "interface",
    "LinkDeletedError": "errors",
    "PeerChange": "config",
    "PeerConfig": "settings",
    "Process": "process",
    "StartError": "errors",
    "Tunnel": "tunnel",
    "WgpyError": "errors",
    "connect": "blocking",
}


def __getattr__(name: str) -> Any:
    """Load a name of __all__ (PEP 562)."""
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f"wgpy.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
