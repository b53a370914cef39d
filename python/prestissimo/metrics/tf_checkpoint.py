# SPDX-License-Identifier: Apache-2.0
"""Read the tensors of a TensorFlow checkpoint with numpy alone.

A checkpoint is two files. The index is a LevelDB table (sorted key/value blocks with shared key prefixes,
a block of block handles, a 48-byte footer) from tensor name to a ``BundleEntryProto``; the data file holds
the tensors' bytes back to back. Every offset, length and count is checked against the bytes that are there,
so a truncated or hostile file raises :class:`ValueError` and cannot make the reader allocate more than the
files' own sizes.

Source: LevelDB ``doc/table_format.md``; TensorFlow ``core/protobuf/tensor_bundle.proto``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_FOOTER_BYTES = 48
_MAGIC = 0xDB4775248B80FB57
_MAX_INDEX_BYTES = 64 << 20
# DataType numbers of TensorFlow's types.proto
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "|u1", 6: "|i1", 9: "<i8", 10: "|b1", 19: "<f2"}


def read_tf_checkpoint(index: str | Path, data: str | Path) -> dict[str, np.ndarray]:
    """All tensors of a single-shard checkpoint, by name.

    Args:
        index: the ``*.index`` file.
        data: the ``*.data-00000-of-00001`` file.

    Returns:
        Read-only arrays in the dtype and shape in which they were saved.

    Raises:
        ValueError: the files are not a checkpoint, are truncated, sharded or compressed, or hold a dtype
            with no numpy counterpart.
        OSError: a file cannot be read.
    """
    index, data = Path(index), Path(data)
    if index.stat().st_size > _MAX_INDEX_BYTES:
        raise ValueError(f"{index}: an index of more than {_MAX_INDEX_BYTES} bytes is not a checkpoint's")
    table, payload = index.read_bytes(), data.read_bytes()
    tensors: dict[str, np.ndarray] = {}
    try:
        for key, value in _table_items(table):
            if key:  # the empty key is the header, which counts shards
                tensors[key.decode("utf-8")] = _tensor(_message(value), payload)
            elif _integer(_message(value), 1, default=1) != 1:
                raise ValueError("sharded checkpoints are not supported")
    except (ValueError, struct.error) as error:
        raise ValueError(f"{index}: {error}") from error
    return tensors


def _varint(buffer: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if at >= len(buffer):
            raise ValueError("truncated varint")
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("varint longer than 64 bits")


def _slice(buffer: bytes, offset: int, size: int) -> bytes:
    if offset + size > len(buffer):
        raise ValueError(f"bytes {offset} to {offset + size} lie outside a buffer of {len(buffer)}")
    return buffer[offset : offset + size]


def _table_items(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(table) < _FOOTER_BYTES:
        raise ValueError("too short to be a checkpoint index")
    footer = table[-_FOOTER_BYTES:]
    if struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise ValueError("not a checkpoint index (wrong magic number)")
    _, at = _varint(footer, 0)
    _, at = _varint(footer, at)
    offset, at = _varint(footer, at)
    size, _ = _varint(footer, at)
    seen = 0
    for _, handle in _block_items(table, offset, size):
        offset, at = _varint(handle, 0)
        size, _ = _varint(handle, at)
        # blocks do not overlap in a real table; a hostile one could name the same block again and again
        seen += size
        if seen > len(table):
            raise ValueError("data blocks overlap")
        yield from _block_items(table, offset, size)


def _block_items(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries (shared prefix length, new key bytes, value), then restart offsets and their count."""
    block = _slice(table, offset, size + 1)
    if block[size] != 0:
        raise ValueError("compressed blocks are not supported")
    if size < 4:
        raise ValueError("block without a restart count")
    (restarts,) = struct.unpack_from("<I", block, size - 4)
    end = size - 4 - 4 * restarts
    if end < 0:
        raise ValueError("restart count larger than its block")
    key, at = b"", 0
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + unshared + length > end:
            raise ValueError("entry runs out of its block")
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key, block[at : at + length]
        at += length


def _message(buffer: bytes) -> dict[int, list[int | bytes]]:
    """Fields of a protocol-buffer message by number, undecoded."""
    fields: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(buffer):
        tag, at = _varint(buffer, at)
        number, wire = tag >> 3, tag & 7
        value: int | bytes
        if wire == 0:
            value, at = _varint(buffer, at)
        elif wire == 2:
            length, at = _varint(buffer, at)
            value, at = _slice(buffer, at, length), at + length
        elif wire == 5:
            value, at = struct.unpack("<I", _slice(buffer, at, 4))[0], at + 4
        elif wire == 1:
            value, at = struct.unpack("<Q", _slice(buffer, at, 8))[0], at + 8
        else:
            raise ValueError(f"unknown wire type {wire}")
        fields.setdefault(number, []).append(value)
    return fields


def _integer(fields: dict[int, list[int | bytes]], number: int, default: int = 0) -> int:
    value = fields.get(number, [default])[0]
    if not isinstance(value, int):
        raise ValueError(f"field {number} is not an integer")
    return value


def _messages(fields: dict[int, list[int | bytes]], number: int) -> list[dict[int, list[int | bytes]]]:
    values = fields.get(number, [])
    if not all(isinstance(value, bytes) for value in values):
        raise ValueError(f"field {number} is not a message")
    return [_message(value) for value in values if isinstance(value, bytes)]


def _tensor(entry: dict[int, list[int | bytes]], payload: bytes) -> np.ndarray:
    """BundleEntryProto: 1 dtype, 2 shape (2 dim (1 size)), 3 shard, 4 offset, 5 size."""
    dtype = _integer(entry, 1)
    if dtype not in _DTYPES:
        raise ValueError(f"tensor type {dtype} has no numpy counterpart")
    if _integer(entry, 3) != 0:
        raise ValueError("tensor lies in another shard")
    shape = [_integer(dim, 1) for part in _messages(entry, 2) for dim in _messages(part, 2)]
    offset, size = _integer(entry, 4), _integer(entry, 5)
    kind = np.dtype(_DTYPES[dtype])
    if math.prod(shape) * kind.itemsize != size:
        raise ValueError(f"a tensor of shape {shape} and type {kind} does not take {size} bytes")
    return np.frombuffer(_slice(payload, offset, size), dtype=kind).reshape(shape)
