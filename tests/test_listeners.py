# SPDX-License-Identifier: MIT
"""The sockets of an interface's clients, from when they are opened until they are served."""

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from wgpy.engine import Engine
from wgpy.listeners import Listeners, serve
from wgpy.uapi.socket_file import SocketFile, open_socket


def test_a_socket_that_is_removed_before_it_is_served_ends_the_interface(tmp_path: Path) -> None:
    reasons: list[str] = []
    engine: Any = SimpleNamespace(device=SimpleNamespace(snapshot=None), end_because=reasons.append)

    async def serve_what_is_gone() -> None:
        uapi = open_socket("wg0", tmp_path, trust_directory=True)
        with uapi, contextlib.ExitStack() as stack:
            listeners = Listeners("wg0", uapi, None, SocketFile.of(uapi))
            (tmp_path / "wg0.sock").unlink()
            serve(stack, cast(Engine, engine), listeners, lambda _: iter(()))

    asyncio.run(serve_what_is_gone())
    assert reasons == ["socket removed"]
