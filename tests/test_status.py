# SPDX-License-Identifier: MIT
"""What a status holds, and what it never does."""

import contextlib
import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statuses import NAMES, statuses

from wgpy import status as status_module
from wgpy.config import AllowedIP, Endpoint
from wgpy.errors import StatusError
from wgpy.protocol.handshake import Handshake
from wgpy.status import (
    DeviceStatus,
    Diagnosis,
    PeerStatus,
    Severity,
    Tally,
    diagnosis_to_json,
    from_json_untrusted,
    to_json,
)

KEY = bytes(range(32))
KINDS = (DeviceStatus, Diagnosis, PeerStatus, Tally)
PEER = PeerStatus(
    public_key=KEY,
    endpoint=Endpoint(bytes([192, 0, 2, 1]), 51820),
    allowed_ips=(AllowedIP(bytes([10, 0, 0, 0]), 24), AllowedIP(bytes(16), 0)),
    handshake=Handshake.ESTABLISHED,
    last_handshake_age_s=1.23456,
    drops=(Tally("not-allowed", 3, 0.5, address="10.1.0.1"),),
    refusals=(Tally("old-timestamp", 1),),
)


def test_it_is_json_that_can_be_read_again() -> None:
    read = json.loads(json.dumps(to_json(DeviceStatus("wg0", public_key=KEY, peers=(PEER,)))))
    [peer] = read["peers"]
    assert (read["version"], read["interface"]) == (1, "wg0")
    assert peer["endpoint"] == "192.0.2.1:51820"
    assert peer["allowed_ips"] == ["10.0.0.0/24", "::/0"]
    assert (peer["handshake"], peer["last_handshake_age_s"]) == ("established", 1.235)
    assert peer["drops"] == [
        {"reason": "not-allowed", "count": 3, "age_s": 0.5, "address": "10.1.0.1"}
    ]
    assert peer["refusals"] == [{"reason": "old-timestamp", "count": 1, "age_s": None}]


def test_every_fact_is_in_the_json() -> None:
    read = to_json(DeviceStatus("wg0", peers=(PEER,)))
    assert set(read) == {"version", *(field.name for field in fields(DeviceStatus))}
    assert set(read["peers"][0]) == {field.name for field in fields(PeerStatus)}
    diagnosis = Diagnosis("no-answer", Severity.ERROR, "a sentence", KEY)
    assert set(diagnosis_to_json(diagnosis)) == {field.name for field in fields(Diagnosis)}


def test_there_is_no_place_for_a_secret() -> None:
    names = {field.name for kind in KINDS for field in fields(kind)}
    assert [name for name in names if "key" in name] == ["public_key"]


# ---- and back ----

TEXTS = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=20)
AGES = st.integers(0, 10**12).map(lambda ms: ms / 1000)
STATUSES = statuses(AGES, TEXTS, NAMES)


def text_of(status: DeviceStatus, **changed: object) -> bytes:
    return json.dumps(to_json(status) | changed).encode()


@given(STATUSES)
def test_every_fact_comes_back(status: DeviceStatus) -> None:
    assert from_json_untrusted(text_of(status)) == status


def test_what_an_older_daemon_does_not_tell_has_its_default() -> None:
    read = from_json_untrusted(b'{"version": 1, "interface": "wg0", "peers": []}')
    assert read == DeviceStatus("wg0")


def test_what_a_newer_daemon_tells_besides_is_passed_over() -> None:
    status = DeviceStatus("wg0", peers=(PEER,))
    expected = from_json_untrusted(text_of(status))
    assert from_json_untrusted(text_of(status, weather="fine")) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_is_a_status_or_refused(text: bytes) -> None:
    with contextlib.suppress(StatusError):
        assert isinstance(from_json_untrusted(text), DeviceStatus)


@given(st.sampled_from(sorted(to_json(DeviceStatus("wg0")))), JSON)
def test_no_member_breaks_the_reader(name: str, value: object) -> None:
    with contextlib.suppress(StatusError):
        assert isinstance(
            from_json_untrusted(text_of(DeviceStatus("wg0"), **{name: value})), object
        )


@given(st.sampled_from([field.name for field in fields(PeerStatus)]), JSON)
def test_no_member_of_a_peer_breaks_the_reader(name: str, value: object) -> None:
    [peer] = to_json(DeviceStatus("wg0", peers=(PEER,)))["peers"]
    with contextlib.suppress(StatusError):
        text = text_of(DeviceStatus("wg0"), peers=[peer | {name: value}])
        assert [type(peer) for peer in from_json_untrusted(text).peers] == [PeerStatus]


HOSTILE = {
    "nothing": b"",
    "half a document": text_of(DeviceStatus("wg0"))[:-1],
    "no UTF-8": b'{"version": 1, "interface": "\xff"}',
    "a list": b"[]",
    "no interface": b'{"version": 1}',
    "a depth without end": b'{"version": 1, "peers": ' + b"[" * 100_000,
    "a number without end": b'{"version": 1, "listen_port": ' + b"9" * 100_000 + b"}",
    "a negative number": text_of(DeviceStatus("wg0"), listen_port=-1),
    "a truth for a number": text_of(DeviceStatus("wg0"), listen_port=True),
    "no number": text_of(DeviceStatus("wg0"), peers=[{"public_key": "", "session_age_s": "NaN"}]),
    "infinity": b'{"version": 1, "interface": "wg0", "mtu": Infinity}',
    "an age beyond all": b'{"version": 1, "interface": "wg0", "peers": [{"session_age_s": 1e999}]}',
    "a long name": text_of(DeviceStatus("w" * 1025)),
    "a short key": text_of(DeviceStatus("wg0"), public_key="AAAA"),
    "a key with blanks": text_of(
        DeviceStatus("wg0"), public_key="A" * 20 + " " * 4 + "A" * 23 + "="
    ),
    "no address": text_of(DeviceStatus("wg0"), peers=[{"public_key": None, "endpoint": "x:1"}]),
    "a text for a list": text_of(DeviceStatus("wg0"), features="abc"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_status_is_refused(case: str) -> None:
    with pytest.raises(StatusError, match="not the JSON of a status"):
        from_json_untrusted(HOSTILE[case])


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_version_is_told_from_nonsense(version: object) -> None:
    with pytest.raises(StatusError, match="another version"):
        from_json_untrusted(text_of(DeviceStatus("wg0"), version=version))


def test_what_is_too_long_is_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_of(DeviceStatus("wg0"))
    monkeypatch.setattr(status_module, "DOCUMENT_MAX", len(text) - 1)
    with pytest.raises(StatusError, match=f"a status of {len(text)} bytes"):
        from_json_untrusted(text)


def test_a_name_cannot_command_a_terminal() -> None:
    status = DeviceStatus("w\x1b[2Jg\u202e\udc80", drops=(Tally("no-peer", 1, address="\r\n"),))
    read = from_json_untrusted(text_of(status))
    assert read.interface == r"w\x1b[2Jg\u202e\udc80"
    assert read.drops == (replace(status.drops[0], address=r"\r\n"),)
