"""The masks of Label Studio's brush, packed as run lengths of bits (`"format": "rle"`; rle-pack of thi.ng/umbrella).

    covered = unpack_brush(bytes(value["rle"]), (height, width))       # bool (H, W)
    value["rle"] = list(pack_brush(covered))

Packed are the values R, G, B and A of each pixel, row after row; a pixel belongs to the mask where A is not 0. A stream
of bits, highest first: 32 bits with the number of values; 5 with the bits of a value less 1; four times 4 with the bits
that a length may have, less 1. Then come runs: 1 bit says whether all values of the run are equal, 2 choose one of
the four sizes, as many bits hold its length less 1, and then comes the value, or all of them where they differ.
"""

from __future__ import annotations

import numpy as np

from stages.data.annotations.drawing import Size
from stages.data.annotations.reading import RegionError

CHANNELS = 4
_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)  # what Label Studio's own tools write


def unpack_brush(packed: bytes, size: Size) -> np.ndarray:
    """bool (H, W); RegionError for runs that end early, are too long, or are of an image of another size."""
    bits = _Bits(packed)
    count, value_bits = bits.read(32), bits.read(5) + 1
    length_bits = [bits.read(4) + 1 for _ in _LENGTH_BITS]
    if count != CHANNELS * size[0] * size[1]:
        raise RegionError(
            f"its run lengths (rle) are for {count / CHANNELS:g} pixels, the image has {size[0] * size[1]} "
            f"({size[1]}x{size[0]})"
        )
    if value_bits != _VALUE_BITS:
        raise RegionError(f"its run lengths (rle) are of values of {value_bits} bits, expected {_VALUE_BITS}")
    values = np.zeros(count, np.uint8)
    at = 0
    while at < count:
        equal = bits.read(1)
        end = at + 1 + bits.read(length_bits[bits.read(2)])
        if end > count:
            raise RegionError(f"its run lengths (rle) cover {end} of {count} values")
        values[at:end] = bits.read(_VALUE_BITS) if equal else bits.bytes(end - at)
        at = end
    return values.reshape(*size, CHANNELS)[:, :, -1] > 0


def pack_brush(mask: np.ndarray) -> bytes:
    """mask: bool (H, W). All values of a pixel are 255 in the mask and 0 elsewhere, as Label Studio's own tools do."""
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size) * CHANNELS
    text = [f"{flat.size * CHANNELS:032b}{_VALUE_BITS - 1:05b}", *(f"{bits - 1:04b}" for bits in _LENGTH_BITS)]
    for length, value in zip(lengths.tolist(), (flat[starts] * 255).tolist(), strict=True):
        while length:
            part = min(length, 1 << _LENGTH_BITS[-1])
            choice = next(number for number, bits in enumerate(_LENGTH_BITS) if part <= 1 << bits)
            text.append(f"1{choice:02b}{part - 1:0{_LENGTH_BITS[choice]}b}{value:08b}")
            length -= part
    stream = "".join(text)
    number_of_bytes = -(-len(stream) // 8)
    return int(stream.ljust(8 * number_of_bytes, "0"), 2).to_bytes(number_of_bytes)


class _Bits:
    """Reads numbers from bytes, highest bit first; RegionError at the end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def read(self, bits: int) -> int:
        first, last, behind = self._take(bits)
        return int.from_bytes(self.data[first:last]) >> behind & ((1 << bits) - 1)

    def bytes(self, count: int) -> np.ndarray:
        """uint8 (count,)"""
        start = self.at % 8
        first, last, _ = self._take(8 * count)
        bits = np.unpackbits(np.frombuffer(self.data[first:last], np.uint8))
        return np.packbits(bits[start : start + 8 * count])

    def _take(self, bits: int) -> tuple[int, int, int]:
        """(first byte, the one behind the last, bits of it that are not taken)."""
        start, self.at = self.at, self.at + bits
        if self.at > 8 * len(self.data):
            raise RegionError(f"its run lengths (rle) are cut off: they end after {len(self.data)} bytes")
        last = -(-self.at // 8)
        return start // 8, last, 8 * last - self.at
