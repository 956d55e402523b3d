# SPDX-License-Identifier: MIT
"""WGPY_KEYLOG: a file of secrets, and nobody else's."""

import base64
import logging
import os
import re
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from fake_hosts import World
from fakes import Datagram

from wgpy.daemon import run as running
from wgpy.daemon.key_log import KeyLog
from wgpy.daemon.options import Options
from wgpy.errors import StartError
from wgpy.protocol.messages import MessageType
from wgpy.protocol.noise import HandshakeSecrets

SECRETS = HandshakeSecrets(bytes(32), b"\1" * 32, b"\2" * 32, b"\3" * 32)
NAMES = [
    "LOCAL_STATIC_PRIVATE_KEY",
    "REMOTE_STATIC_PUBLIC_KEY",
    "LOCAL_EPHEMERAL_PRIVATE_KEY",
    "PRESHARED_KEY",
]


def read(path: Path) -> list[tuple[str, bytes]]:
    lines = re.findall(r"^(\w+) = (\S{44})$", path.read_text(), re.MULTILINE)
    return [(name, base64.b64decode(key)) for name, key in lines]


def test_what_is_told_is_written_and_only_its_owner_may_read_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    with closing(KeyLog(path)) as log:
        log.start()
        log.tell(SECRETS)
    assert path.stat().st_mode & 0o777 == 0o600
    keys = [bytes(32), b"\1" * 32, b"\2" * 32, b"\3" * 32]
    assert read(path) == list(zip(NAMES, keys, strict=True))
    assert [(record.levelno, str(path) in record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, True)
    ]


def test_a_file_from_before_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for _ in range(2):
        with closing(KeyLog(path)) as log:
            log.start()
            log.tell(SECRETS)
    assert [name for name, _ in read(path)] == NAMES * 2


def link(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


def hard_link(path: Path) -> None:
    (path.parent / "elsewhere").touch(0o600)
    path.hardlink_to(path.parent / "elsewhere")


def open_to_others(path: Path) -> None:
    path.touch()
    path.chmod(0o640)


@pytest.mark.parametrize(
    "prepare", [link, hard_link, open_to_others, Path.mkdir, os.mkfifo], ids=lambda f: f.__name__
)
def test_what_is_no_file_of_our_own_is_refused_in_one_line(
    prepare: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    prepare(path)
    with ExitStack() as stack, pytest.raises(StartError, match=f"^WGPY_KEYLOG: {path}: .+$"):
        running._open_key_log(stack, Options("wg0", key_log=str(path)))
    assert not (tmp_path / "elsewhere").exists() or not (tmp_path / "elsewhere").read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.touch(0o600)
    os.chown(path, 1, 1)
    with pytest.raises(OSError, match="somebody else"):
        KeyLog(path)


def test_the_secrets_are_those_of_the_messages() -> None:
    told: list[HandshakeSecrets] = []
    world = World(key_log=told.append)
    sent: dict[int, bytes] = {}

    def note(datagram: Datagram) -> bool:
        sent.setdefault(datagram.kind, datagram.data)
        return False

    world.network.lose = note
    world.converse()
    initiator, responder = told
    assert initiator.local_private == world.a.private_key
    assert initiator.remote_public == world.b.public_key
    assert responder.local_private == world.b.private_key
    assert responder.remote_public == world.a.public_key
    for secrets, message, at in (
        (initiator, sent[MessageType.INITIATION], 8),
        (responder, sent[MessageType.RESPONSE], 12),
    ):
        key = X25519PrivateKey.from_private_bytes(secrets.ephemeral_private)
        assert message[at : at + 32] == key.public_key().public_bytes_raw()


def test_no_secret_shows_in_a_repr() -> None:
    assert repr(SECRETS) == f"HandshakeSecrets(remote_public={bytes([1]) * 32!r})"
