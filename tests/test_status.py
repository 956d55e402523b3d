"""What a status holds, and what it never does."""

import json
from dataclasses import fields

from wgpy.config import AllowedIP, Endpoint
from wgpy.protocol.handshake import Handshake
from wgpy.status import DeviceStatus, PeerStatus, Tally, to_json

KEY = bytes(range(32))
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


def test_there_is_no_place_for_a_secret() -> None:
    names = {field.name for kind in (DeviceStatus, PeerStatus, Tally) for field in fields(kind)}
    assert [name for name in names if "key" in name] == ["public_key"]
