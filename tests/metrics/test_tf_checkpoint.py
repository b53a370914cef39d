# SPDX-License-Identifier: Apache-2.0
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prestissimo.metrics.tf_checkpoint import read_tf_checkpoint

TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9}


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(items: list[tuple[bytes, bytes]]) -> bytes:
    """Entries with shared key prefixes, one restart point."""
    out, previous = b"", b""
    for key, value in items:
        shared = 0
        while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    return out + struct.pack("<II", 0, 1)


def checkpoint(tensors: dict[str, np.ndarray]) -> tuple[bytes, bytes]:
    payload, entries = b"", [(b"", field(1, 1))]
    for name, array in sorted(tensors.items()):
        shape = b"".join(field(2, field(1, size)) for size in array.shape)
        entry = field(1, TYPES[array.dtype.name]) + field(2, shape)
        entry += field(4, len(payload)) + field(5, array.nbytes) + varint(6 << 3 | 5) + b"\0\0\0\0"
        entries.append((name.encode(), entry))
        payload += array.tobytes()
    data = block(entries)
    index = block([(b"zzz", varint(0) + varint(len(data)))])
    handles = varint(0) + varint(0) + varint(len(data) + 5) + varint(len(index))
    footer = handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    return data + b"\0" * 5 + index + b"\0" * 5 + footer, payload


TENSORS = {
    "conv/bias": np.arange(3, dtype=np.float32),
    "conv/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "step": np.array(7, dtype=np.int64),
    "void": np.zeros((0, 5), dtype=np.float64),
}


def read(folder: Path, index: bytes, payload: bytes) -> dict[str, np.ndarray]:
    (folder / "index").write_bytes(index)
    (folder / "data").write_bytes(payload)
    return read_tf_checkpoint(folder / "index", folder / "data")


def test_round_trip(tmp_path: Path) -> None:
    got = read(tmp_path, *checkpoint(TENSORS))
    assert got.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        assert got[name].dtype == expected.dtype
        np.testing.assert_array_equal(got[name], expected)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_raises_or_reads_but_never_escapes(tmp_path: Path, data: st.DataObject) -> None:
    index, payload = checkpoint(TENSORS)
    damaged = bytearray(index)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    raw = bytes(damaged[cut:] if data.draw(st.booleans()) else damaged)
    try:
        got = read(tmp_path, raw, payload)
    except ValueError:
        return
    assert sum(array.nbytes for array in got.values()) <= len(got) * len(payload)


def test_payload_too_short(tmp_path: Path) -> None:
    index, payload = checkpoint(TENSORS)
    with pytest.raises(ValueError, match="lie outside a buffer"):
        read(tmp_path, index, payload[:50])


@pytest.mark.parametrize("junk", [b"", b"PK\x03\x04" * 40, b"\xff" * 200])
def test_other_files_are_refused(tmp_path: Path, junk: bytes) -> None:
    with pytest.raises(ValueError, match="checkpoint index"):
        read(tmp_path, junk, b"")
