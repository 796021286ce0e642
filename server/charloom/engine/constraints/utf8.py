"""Converts an automaton over characters to one over the bytes of their UTF-8 encoding (RFC 3629)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from charloom.engine.decoding.decoder import Int32s

_NONE = 0
"""The number of the block that has no characters."""


def over_bytes(
    ways: Int32s, accepting: npt.NDArray[np.bool_], points: npt.NDArray[np.uint32], classes: npt.NDArray[np.int64]
) -> tuple[Int32s, npt.NDArray[np.bool_]]:
    """The automaton that reads each character byte by byte. Axis letters: S states, C classes, N characters.

    Args:
        ways: [S, C] the state after a character of each class, or -1
        accepting: [S] whether a text may end there
        points: [N] the characters
        classes: [N] the class of each

    Returns:
        [states, 256] and [states]: the old states come first; states in the middle of a character follow.
    """
    class_of = np.full(0x110000, -1, np.int32)
    class_of[points] = classes
    # The 64 characters of a block differ only in their last byte; equal blocks are merged. So are blocks of 64 blocks.
    last, last_of = _alike(class_of.reshape(-1, 64), -1)
    last_of[:2] = _NONE  # characters of one byte
    middle_of_three = last_of.copy()
    middle_of_three[: 0x800 >> 6] = _NONE  # characters of at most two bytes
    middle, middle_of = _alike(middle_of_three.reshape(-1, 64), _NONE)
    middle_of_four = middle_of.copy()
    middle_of_four[: 0x10000 >> 12] = _NONE  # characters of at most three bytes
    first, first_of = _alike(np.pad(middle_of_four, (0, -len(middle_of_four) % 64)).reshape(-1, 64), _NONE)

    states, dead = len(ways), -1
    count = [len(last), len(middle), len(first)]
    # Where the states begin that are between characters, one byte before a character's end, two bytes, and three.
    begin = states + np.cumsum([0, *[states * one for one in count]])
    result = np.full((int(begin[-1]), 256), dead, np.int32)
    after = np.hstack([ways, np.full((states, 1), dead, np.int32)])  # -1: no such character
    each = np.arange(states)[:, None]

    def into(level: int, block: npt.NDArray[np.int32]) -> Int32s:
        """[S, ...] the states in the middle of a character, by state and block."""
        return np.where(block == _NONE, dead, begin[level] + each * count[level] + block).astype(np.int32)

    result[:states, :0x80] = after[:, class_of[:0x80]]
    result[:states, 0xC2:0xE0] = into(0, last_of[2:0x20])
    result[:states, 0xE0:0xF0] = into(1, middle_of[:0x10])
    result[:states, 0xF0 : 0xF0 + len(first_of)] = into(2, first_of)
    result[begin[0] : begin[1], 0x80:0xC0] = after[:, last.reshape(-1)].reshape(-1, 64)
    result[begin[1] : begin[2], 0x80:0xC0] = into(0, middle.reshape(-1)).reshape(-1, 64)
    result[begin[2] : begin[3], 0x80:0xC0] = into(1, first.reshape(-1)).reshape(-1, 64)
    return result, np.pad(accepting, (0, len(result) - states))


def _alike(rows: npt.NDArray[np.int32], nothing: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The distinct rows, and for each row the index of its equal; row `_NONE` consists of `nothing`."""
    found = {np.full(rows.shape[1], nothing, np.int32).tobytes(): _NONE}
    which = np.array([found.setdefault(row.tobytes(), len(found)) for row in np.ascontiguousarray(rows)], np.int32)
    return np.frombuffer(b"".join(found), np.int32).reshape(len(found), -1), which
