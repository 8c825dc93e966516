"""The text of a JSON file on its way to a parser, refused where the parser would not survive it.

ijson keeps the path of every open list, so that a file of 200,000 brackets would take 100 GB, and
ends the process at a number that is longer than Python's limit of 4,300 digits.
"""

from io import BufferedReader

MAX_DEPTH = 100
"""Lists and objects within each other; annotations have three or four."""

_MAX_DIGITS = 4_000
_TO_NINES = bytes.maketrans(b"012345678", b"9" * 9)
_LONG_NUMBER = b"9" * (_MAX_DIGITS + 1)
_BOM = b"\xef\xbb\xbf"
_KEPT = b'"[]{}'
_DROPPED = bytes(set(range(256)) - set(_KEPT))


class JsonText:
    """Reads a file behind its byte order mark, which a JSON parser does not know."""

    def __init__(self, data: BufferedReader) -> None:
        self._data = data
        self._data.seek(len(_BOM) if data.peek(len(_BOM)).startswith(_BOM) else 0)
        self._depth = 0
        self._is_in_text = False
        self._escape = b""
        self._end = b""

    def tell(self) -> int:
        """Where the next read begins."""
        return self._data.tell()

    def read(self, size: int = -1) -> bytes:
        """Read at most that many bytes.

        Raises:
            ValueError: what has been read is nested deeper than MAX_DEPTH (some up to three times
                as deep still pass), or has a number that is too long.
            StorageError: the store refuses.
        """
        block = self._data.read(size)
        if self._deepest(self._brackets(block)) > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        digits = self._end + block.translate(_TO_NINES)
        if _LONG_NUMBER in digits:
            raise ValueError(f"it has a number of more than {_MAX_DIGITS:,} digits")
        self._end = digits[-_MAX_DIGITS:]
        return block

    def _brackets(self, block: bytes) -> bytes:
        """Give the brackets of a block that are not within texts."""
        block = self._escape + block
        num_backslashes = len(block) - len(block.rstrip(b"\\"))
        self._escape = b"\\" * (num_backslashes % 2)  # of what comes with the next block
        block = block.replace(b"\\\\", b"").replace(b'\\"', b"")
        pieces = block.translate(None, _DROPPED).split(b'"')
        outside = b"".join(pieces[self._is_in_text :: 2])
        self._is_in_text ^= len(pieces) % 2 == 0
        return outside

    def _deepest(self, brackets: bytes) -> int:
        """Count brackets in, and tell how deep they are nested at the least: a third of it all."""
        for inner in range(MAX_DEPTH + 1):
            left = brackets.replace(b"[]", b"").replace(b"{}", b"")
            if len(left) == len(brackets):
                num_open = left.count(b"[") + left.count(b"{")
                self._depth += 2 * num_open - len(left)
                return max(inner, num_open, self._depth)
            brackets = left
        return MAX_DEPTH + 1
