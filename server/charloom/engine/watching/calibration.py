"""Which scores of a source are unusual: quantiles of those before, learnt as lines come.

Knows: DDSketch. Does not know: models, texts, sessions.

The quantiles are those of a DDSketch (Masson, Rim and Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with
Relative-Error Guarantees", VLDB 2019): values exact to 2 %, the same whatever the order, a few hundred bytes. Every
line counts, alerts too; that is what makes the share of alerts the one that was asked for, as long as lines come as
they came before (Laxhammar and Falkman, "Conformal prediction for distribution-independent anomaly detection", 2010).
"""

from __future__ import annotations

import math
import struct

from ddsketch.ddsketch import BaseDDSketch
from ddsketch.mapping import LogarithmicMapping
from ddsketch.store import DenseStore

ACCURACY = 0.02
"""Of the quantiles, relative."""
LOWEST, HIGHEST = 1e-3, 1e3
"""Scores, in nats, beyond which it makes no difference: what bounds the number of bins."""
MEMORY = 20_000
"""Lines that count; when there are more, all that is known counts half."""
LOWEST_RATE = 2 / MEMORY
"""Of alerts: one in as many lines as count at least, once all have come to count half. Of 560,000 random scores 1.04
times as many were alerts; at half that rate 1.4 times as many as were asked for, as rarer ones cannot be told."""
LOOK_BACK = 64
"""Lines over which drift is looked for, about."""
DRIFT = 0.4
"""How far the share of recent lines above the median may be from one half before it is drift."""

_HEADER, _BIN = struct.Struct("<BQdH"), struct.Struct("<Hf")
_VERSION = 1
_MAPPING = LogarithmicMapping(ACCURACY)
_FIRST, _LAST = _MAPPING.key(LOWEST), _MAPPING.key(HIGHEST)


def lines_for(rate: float, warm_up: int) -> int:
    """How many lines have to be known before a line in 1 / rate can be told from the others.

    Args:
        rate: the share of lines that may be alerts while nothing unusual happens, above 0 and below 1
        warm_up: lines that are waited for in any case
    """
    return max(warm_up, math.ceil(1 / rate))


class Calibration:
    """What is known of the scores of a source."""

    def __init__(self) -> None:
        self.lines = 0
        """Seen in all."""
        self._trend = 0.5
        """Share of the recent lines above the median, those near it counting half."""
        self._store, self._sketch = _sketch_of({})

    def threshold(self, rate: float, warm_up: int) -> float | None:
        """Which score is exceeded by no more than this share of the lines; None where too few are known."""
        if self.lines < lines_for(rate, warm_up):
            return None
        # Of the line that comes and those before, it is to be among the highest: so it counts as one of them.
        count = float(self._store.count)
        above = max(0.0, rate * (count + 1) - 1)
        value = self._sketch.get_quantile_value(1 - above / max(1.0, count - 1))
        # What the sketch gives is below the upper edge of its bin by its accuracy: no score of that bin is above.
        return None if value is None else value / (1 - ACCURACY)

    def add(self, score: float) -> None:
        """A line has come."""
        score = min(max(score, LOWEST), HIGHEST)
        if self.lines:
            median = self._sketch.get_quantile_value(0.5) or LOWEST
            above = 0.5 + 0.5 * (score > median * (1 + 2 * ACCURACY)) - 0.5 * (score < median * (1 - 2 * ACCURACY))
            self._trend += (above - self._trend) / min(self.lines + 1, LOOK_BACK)
        self._sketch.add(score)
        self.lines += 1
        if self._store.count > MEMORY:
            self._store, self._sketch = _sketch_of({key: count / 2 for key, count in self._bins().items()})

    @property
    def drifting(self) -> bool:
        """Whether almost all recent lines are on one side of the median: they are not what the source was before."""
        return self.lines > LOOK_BACK and abs(self._trend - 0.5) > DRIFT

    def to_bytes(self) -> bytes:
        """All of it, in some hundred bytes."""
        bins = self._bins()
        header = _HEADER.pack(_VERSION, self.lines, self._trend, len(bins))
        return header + b"".join(_BIN.pack(key - _FIRST, count) for key, count in bins.items())

    @classmethod
    def from_bytes(cls, data: bytes) -> Calibration:
        """What `to_bytes` gave.

        Raises:
            ValueError: these bytes are none.
        """
        try:
            version, lines, trend, count = _HEADER.unpack_from(data)
            body = data[_HEADER.size :]
            if version != _VERSION or len(body) != count * _BIN.size:
                raise ValueError("not a calibration of this version")
            bins = {_FIRST + at: weight for at, weight in _BIN.iter_unpack(body)}
        except struct.error as problem:
            raise ValueError(f"not a calibration: {problem}") from problem
        if not 0 <= trend <= 1 or any(not _FIRST <= key <= _LAST or not 0 < w < math.inf for key, w in bins.items()):
            raise ValueError("a calibration of impossible numbers")
        found = cls()
        found.lines, found._trend = lines, trend
        found._store, found._sketch = _sketch_of(bins)
        return found

    def _bins(self) -> dict[int, float]:
        store = self._store
        return {store.offset + at: count for at, count in enumerate(store.bins) if count}


def _sketch_of(bins: dict[int, float]) -> tuple[DenseStore, BaseDDSketch]:
    """A sketch of these counts by key, and where it keeps them."""
    store = DenseStore()
    for key, count in bins.items():
        store.add(key, count)
    return store, BaseDDSketch(_MAPPING, store, DenseStore(), 0.0)
