"""Damage to image files that knows how they are built.

A mutation takes a file, another one and a source of chance, and gives a new file. The same seed and
number give the same bytes, so that a finding needs no more than its number.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_BYTES = 64_000  # of one input: duplicates of duplicates stay small

# Lengths, counts, sizes and offsets that readers have been known to stumble over.
_ODD_NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 15, 16, 17, 24, 31, 32, 63, 64, 100, 127, 128, 129, 200, 254, 255, 256),
    *(511, 512, 1023, 1024, 4096, 16_383, 16_384, 32_767, 32_768, 65_535, 65_536, 100_000),
    *(2**20, 2**24 - 1, 2**24, 2**28, 2**30, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1),
)

Block = tuple[int, int, int, str]
"""Start and end of a chunk, box, segment or entry; where its length stands, and in which form."""
Mutation = Callable[[bytes, bytes, Random], bytes]


def blocks_of(data: bytes) -> list[Block]:
    """The chunks, boxes, segments or entries that a file is made of, as far as they can be told."""
    if data.startswith(PNG_SIGNATURE):
        return _chunks(data, 8, ">I", at=0, extra=12)
    if data.startswith(b"RIFF"):
        return _chunks(data, 12, "<I", at=4, extra=8)
    if data[4:8] in (b"ftyp", b"jP  "):
        return _chunks(data, 0, ">I", at=0, extra=0)
    if data.startswith(b"icns"):
        return _chunks(data, 8, ">I", at=4, extra=0)
    if data.startswith((b"\xff\xd8", b"\xff\x4f")):
        return _segments(data)
    if data.startswith((b"II*\0", b"MM\0*")):
        return _entries(data)
    return []


def _chunks(data: bytes, start: int, form: str, *, at: int, extra: int) -> list[Block]:
    found: list[Block] = []
    while start + at + 4 <= len(data) and len(found) < 64:
        (length,) = struct.unpack_from(form, data, start + at)
        end = start + length + extra
        if end <= start or end > len(data):
            break
        found.append((start, end, start + at, form))
        start = end
    return found


def _segments(data: bytes) -> list[Block]:
    """Markers of JPEG and JPEG 2000 up to the pixels."""
    found: list[Block] = []
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF and len(found) < 64:
        (length,) = struct.unpack_from(">H", data, start + 2)
        end = min(start + 2 + length, len(data))
        found.append((start, end, start + 2, ">H"))
        if data[start + 1] in (0xDA, 0x90, 0x93) or end <= start:
            break
        start = end
    return found


def _entries(data: bytes) -> list[Block]:
    """Entries of a TIFF's first directory; what is taken for their length is their count."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", data.ljust(8, b"\0"), 4)
    if start + 2 > len(data):
        return []
    (count,) = struct.unpack_from(f"{order}H", data, start)
    places = range(start + 2, min(len(data) - 11, start + 2 + 12 * min(count, 64)), 12)
    return [(place, place + 12, place + 4, f"{order}I") for place in places]


def _put(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


def _place(data: bytes, rng: Random) -> int:
    """A place anywhere, the first bytes far oftener: headers are where decisions are made."""
    return rng.randrange(min(len(data), rng.choice((16, 64, 256, len(data)))))


def flip_bits(data: bytes, _other: bytes, rng: Random) -> bytes:
    """Change single bits."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_bytes(data: bytes, _other: bytes, rng: Random) -> bytes:
    """Replace a few bytes that stand together."""
    return _put(data, _place(data, rng), rng.randbytes(rng.randint(1, 8)))[: len(data)]


def set_number(data: bytes, _other: bytes, rng: Random) -> bytes:
    """Write an odd number into what may be a field of the header."""
    form = rng.choice(("B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    number = rng.choice(_ODD_NUMBERS) % 256**size
    return _put(data, _place(data, rng), struct.pack(form, number))[: len(data)]


def shift_number(data: bytes, _other: bytes, rng: Random) -> bytes:
    """Make a field of the header a little larger or smaller."""
    form = rng.choice(("B", "<H", ">H", "<I", ">I"))
    size = struct.calcsize(form)
    place = _place(data, rng)
    if place + size > len(data):
        return data
    (number,) = struct.unpack_from(form, data, place)
    return _put(data, place, struct.pack(form, (number + rng.randint(-16, 16)) % 256**size))


def truncate(data: bytes, _other: bytes, rng: Random) -> bytes:
    """End the file early."""
    return data[: _place(data, rng) + 1]


def cut_out(data: bytes, _other: bytes, rng: Random) -> bytes:
    """Leave out a stretch."""
    place = _place(data, rng)
    return data[:place] + data[place + rng.choice((1, 2, 4, 8, 64, 512)) :]


def repeat(data: bytes, _other: bytes, rng: Random) -> bytes:
    """Write a stretch again and again."""
    place = _place(data, rng)
    stretch = data[place : place + rng.choice((1, 2, 8, 12, 64, 512))]
    return data[:place] + stretch * rng.choice((2, 3, 16, 256)) + data[place:]


def insert(data: bytes, _other: bytes, rng: Random) -> bytes:
    """Insert bytes of chance, zeros or ones."""
    place = _place(data, rng)
    size = rng.choice((1, 2, 3, 4, 16, 300))
    return (
        data[:place] + rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size))) + data[place:]
    )


def splice(data: bytes, other: bytes, rng: Random) -> bytes:
    """The head of one file with the tail of another, at places of their own."""
    return data[: _place(data, rng) + 1] + other[_place(other, rng) :]


def embed(data: bytes, other: bytes, rng: Random) -> bytes:
    """One file inside another: a thumbnail, an icon, a polyglot."""
    place = _place(data, rng)
    return data[:place] + other + data[place:]


def set_length(data: bytes, _other: bytes, rng: Random) -> bytes:
    """Let a chunk say that it is longer or shorter than it is."""
    if not (found := blocks_of(data)):
        return set_number(data, _other, rng)
    _, _, place, form = rng.choice(found)
    limit = 256 ** struct.calcsize(form)
    (length,) = struct.unpack_from(form, data, place)
    number = rng.choice((length + rng.randint(-8, 8), length * 2, rng.choice(_ODD_NUMBERS)))
    return _put(data, place, struct.pack(form, number % limit))


def set_content(data: bytes, _other: bytes, rng: Random) -> bytes:
    """Write an odd number into a field inside a chunk."""
    if not (found := blocks_of(data)):
        return set_number(data, _other, rng)
    start, end, _, _ = rng.choice(found)
    return data[:start] + set_number(data[start:end], b"", rng) + data[end:]


def rearrange(data: bytes, other: bytes, rng: Random) -> bytes:
    """Drop, double or swap chunks, or take one from another file."""
    if not (found := blocks_of(data)):
        return splice(data, other, rng)
    (start, end, *_), (second, behind, *_) = rng.choice(found), rng.choice(found)
    chunk = data[start:end]
    foreign = blocks_of(other)
    action = rng.randrange(5)
    if action == 0:
        return data[:start] + data[end:]
    if action == 1:
        return data[:start] + chunk * rng.choice((2, 3, 50)) + data[end:]
    if action == 2 and foreign:
        first, last, *_ = rng.choice(foreign)
        return data[:start] + other[first:last] + data[start:]
    if action == 3 and end <= second:
        return data[:start] + data[second:behind] + data[end:second] + chunk + data[behind:]
    return data[:second] + chunk + data[second:]


def swell(data: bytes, _other: bytes, rng: Random) -> bytes:
    """Put other bytes into a PNG's compressed pixels, too few or far too many."""
    found = [b for b in blocks_of(data) if data[b[0] + 4 : b[0] + 8] == b"IDAT"]
    if not data.startswith(PNG_SIGNATURE) or not found:
        return repeat(data, _other, rng)
    start, end, *_ = found[0]
    rows = rng.choice((bytes(rng.choice((0, 1, 10**6))), rng.randbytes(2000), b"\5" * 3000))
    packed = zlib.compress(rows)
    return data[:start] + struct.pack(">I4s", len(packed), b"IDAT") + packed + b"CRC." + data[end:]


MUTATIONS: Sequence[Mutation] = (
    *(flip_bits, set_bytes, set_number, set_number, shift_number, truncate, cut_out, repeat),
    *(insert, splice, embed, set_length, set_length, set_content, set_content, rearrange),
    *(rearrange, swell),
)


def with_right_checksums(data: bytes) -> bytes:
    """Mend the checksums of a PNG's chunks, without which nothing behind them would be reached."""
    if not data.startswith(PNG_SIGNATURE):
        return data
    changed = bytearray(data)
    for start, end, *_ in blocks_of(data):
        changed[end - 4 : end] = struct.pack(">I", zlib.crc32(data[start + 4 : end - 4]))
    return bytes(changed)


def mutated(seeds: Sequence[bytes], seed: int, number: int) -> bytes:
    """Make the input of that number: a sound file, damaged one to six times."""
    rng = Random(f"{seed}/{number}")
    data, other = rng.choice(seeds), rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 6))):
        data = rng.choice(MUTATIONS)(data or b"\0", other, rng)[:_MAX_BYTES]
    return with_right_checksums(data) if rng.random() < 0.9 else data
