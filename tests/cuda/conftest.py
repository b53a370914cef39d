# SPDX-License-Identifier: Apache-2.0
"""Builds and devices of the CUDA lanes, and which of them run.

--cuda-lanes=changed  kernels whose PTX or sources differ from verified.json, and a rotating fifth of the rest
--cuda-lanes=all      everything
--cuda-record         with all: after a run without failures write verified.json and resources.json
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from . import toolchain
from .lanes import Builds, Record


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cuda lanes")
    group.addoption(
        "--cuda-lanes", choices=("changed", "all"), default="changed", help="see tests/cuda/conftest.py"
    )
    group.addoption(
        "--cuda-record", action="store_true", help="write tests/cuda/verified.json and resources.json"
    )


def option(request: pytest.FixtureRequest, name: str, default: Any) -> Any:
    """`pytest` on the whole tree reads its command line before it finds this file."""
    return request.config.getoption(name, default)


@pytest.fixture(scope="session")
def builds() -> Iterator[Builds]:
    if why := toolchain.missing_for("host"):
        pytest.skip(why)
    with Builds() as b:
        yield b


@pytest.fixture(scope="session")
def need_ptx(builds: Builds) -> None:
    if why := toolchain.missing_for("ptx"):
        pytest.skip(why)


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest, builds: Builds) -> Iterator[Record]:
    r = Record(builds)
    failed_before = request.session.testsfailed
    yield r
    whole = option(request, "cuda_lanes", "changed") == "all" and request.session.testsfailed == failed_before
    if whole and option(request, "cuda_record", False):
        r.write()


@pytest.fixture
def unless_verified(request: pytest.FixtureRequest, record: Record) -> Callable[..., None]:
    def skip(unit: str, counts: bool = True) -> None:
        if why := record.why_not(unit, option(request, "cuda_lanes", "changed"), counts):
            pytest.skip(why)

    return skip
