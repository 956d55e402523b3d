# SPDX-License-Identifier: MIT
from hypothesis import given
from hypothesis import strategies as st

from wgpy.protocol.tai64n import tai64n

NS_PER_S = 1_000_000_000
UNIX_TIMES_NS = st.integers(0, 2**63 - 1)


def test_the_unix_epoch_has_the_tai64_label_ten_seconds_past_2_to_the_62() -> None:
    assert tai64n(0).hex() == "400000000000000a" + "00000000"


def test_nanoseconds_go_down_to_a_multiple_of_2_to_the_24() -> None:
    step = 1 << 24
    label = "400000000000006e"
    assert tai64n(100 * NS_PER_S + step - 1).hex() == label + "00000000"
    assert tai64n(100 * NS_PER_S + step).hex() == label + "01000000"
    assert tai64n(100 * NS_PER_S + NS_PER_S - 1).hex() == label + "3b000000"


@given(UNIX_TIMES_NS, UNIX_TIMES_NS)
def test_stamps_compare_as_bytes_like_the_times_they_stand_for(one: int, other: int) -> None:
    earlier, later = sorted((one, other))
    assert tai64n(earlier) <= tai64n(later)


@given(UNIX_TIMES_NS)
def test_a_stamp_is_12_bytes_and_20_ms_later_it_is_a_greater_one(unix_ns: int) -> None:
    assert len(tai64n(unix_ns)) == 12
    assert tai64n(unix_ns) < tai64n(unix_ns + NS_PER_S // 50)
