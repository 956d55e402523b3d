"""Fixtures for tests in which the kernel answers as they say."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from .faults import FaultyCore, FaultyKernel


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> FaultyCore:
    try:
        return FaultyCore(tmp_path_factory.mktemp("faulty"))
    except SystemExit as missing:
        pytest.skip(str(missing))


@pytest.fixture
def kernel(core: FaultyCore, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyKernel]:
    """For planes that are made after it."""
    monkeypatch.setattr("wgpy.dataplane.plane.ffi", core.ffi)
    monkeypatch.setattr("wgpy.dataplane.plane.lib", core.lib)
    with closing(FaultyKernel(core)) as kernel:
        yield kernel
