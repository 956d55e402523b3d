# SPDX-License-Identifier: MIT
"""checksum.c against the same sum as a remainder of one big integer."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgpy.dataplane._core import ffi, lib

from .packets import ones_sum, owned


@given(st.integers(0, 2000), st.integers(0, 2**32), st.integers(0, 15))
def test_the_sum_is_that_of_rfc_1071_at_any_length_and_alignment(
    length: int, seed: int, offset: int
) -> None:
    data = random.Random(seed).randbytes(offset + length)
    assert lib.wg_checksum_fold(owned(data) + offset, length, 0) == ones_sum(data[offset:])


@given(st.binary(max_size=300), st.integers(0, 2**64 - 1))
def test_an_earlier_sum_is_added(data: bytes, earlier: int) -> None:
    expected = ones_sum(earlier.to_bytes(8, "big") + data)
    assert lib.wg_checksum_fold(owned(data), len(data), earlier) == expected


@pytest.mark.parametrize("length", [0, 1, 7, 127, 128, 129, 65535])
def test_all_ones_carry_at_every_step(length: int) -> None:
    data = b"\xff" * length
    assert lib.wg_checksum_fold(owned(data), length, 2**64 - 1) == ones_sum(b"\xff\xff" + data)


def test_all_zeroes_sum_to_zero() -> None:
    assert lib.wg_checksum_fold(ffi.new("uint8_t[]", 4096), 4096, 0) == 0


def test_the_example_of_rfc_1071_holds() -> None:
    data = bytes.fromhex("0001f203f4f5f6f7")
    assert lib.wg_checksum_fold(owned(data), len(data), 0) == 0xDDF2
