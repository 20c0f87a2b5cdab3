"""How the dashboard's server hands JSON and bytes to its page in one answer.

Four bytes of length (little endian), so many bytes of JSON padded with blanks, then the bytes, which thereby begin at a
multiple of four.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any


def blob(head: Mapping[str, Any], *bodies: bytes) -> bytes:
    """JSON and bytes as one. Raises ValueError for a number that JSON does not have (NaN)."""
    text = json.dumps(head, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    return b"".join([struct.pack("<I", len(text)), text, *bodies])


def split_blob(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The two parts again."""
    (length,) = struct.unpack_from("<I", data)
    head: dict[str, Any] = json.loads(data[4 : 4 + length])
    return head, data[4 + length :]
