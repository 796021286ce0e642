"""The thresholds of a source: quantiles of its earlier scores, learnt as lines come.

Knows: DDSketch. Does not know: models, texts, sessions.

The quantiles are those of a DDSketch (Masson, Rim and Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with
Relative-Error Guarantees", VLDB 2019): exact to 2 %, the same whatever the order of the values, in a few hundred bytes.
Every line counts, alerts too: so the fraction of alerts is the requested one, as long as the distribution of lines does
not change (Laxhammar and Falkman, "Conformal prediction for distribution-independent anomaly detection", 2010).
"""

from __future__ import annotations

import math
import struct

from ddsketch.ddsketch import BaseDDSketch
from ddsketch.mapping import LogarithmicMapping
from ddsketch.store import DenseStore

ACCURACY = 0.02
"""Relative accuracy of the quantiles."""
LOWEST, HIGHEST = 1e-3, 1e3
"""Range of scores, in nats, to which others are clipped, to bound the number of bins."""
MEMORY = 20_000
"""Most total weight of the lines; when there are more, all weights are halved."""
LOWEST_RATE = 2 / MEMORY
"""Lowest rate of alerts: one in `MEMORY / 2` lines, the total weight after halving. Of 560,000 random scores, 1.04
times as many were alerts as this rate asks for; at half this rate 1.4 times, because rarer scores cannot be told
apart."""
LOOK_BACK = 64
"""Number of recent lines, approximately, in which drift is detected."""
DRIFT = 0.4
"""The fraction of recent lines above the median may differ from one half by this much before it counts as drift."""

_HEADER, _BIN = struct.Struct("<BQdH"), struct.Struct("<Hf")
_VERSION = 1
_MAPPING = LogarithmicMapping(ACCURACY)
_FIRST, _LAST = _MAPPING.key(LOWEST), _MAPPING.key(HIGHEST)


def lines_for(rate: float, warm_up: int) -> int:
    """How many lines have to be known before there is a threshold for this rate.

    Args:
        rate: the target fraction of lines that are alerts while nothing unusual happens, above 0 and below 1
        warm_up: fewest lines in any case
    """
    return max(warm_up, math.ceil(1 / rate))


class Calibration:
    """The distribution of the scores of a source."""

    def __init__(self) -> None:
        self.lines = 0
        """Number of all lines so far."""
        self._trend = 0.5
        """Fraction of the recent lines above the median; lines near it count half."""
        self._store, self._sketch = _sketch_of({})

    def threshold(self, rate: float, warm_up: int) -> float | None:
        """The score that at most this fraction of the lines exceeds; None while too few lines are known."""
        if self.lines < lines_for(rate, warm_up):
            return None
        # Conformal prediction: the line to be judged counts as one of the lines.
        count = float(self._store.count)
        above = max(0.0, rate * (count + 1) - 1)
        value = self._sketch.get_quantile_value(1 - above / max(1.0, count - 1))
        # The upper edge of the quantile's bin, so that no score in that bin is above the threshold.
        return None if value is None else value / (1 - ACCURACY)

    def add(self, score: float) -> None:
        """Add the score of a line."""
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
        """Whether almost all recent lines are on one side of the median, unlike the lines before."""
        return self.lines > LOOK_BACK and abs(self._trend - 0.5) > DRIFT

    def to_bytes(self) -> bytes:
        """Serialize it, into some hundred bytes."""
        bins = self._bins()
        header = _HEADER.pack(_VERSION, self.lines, self._trend, len(bins))
        return header + b"".join(_BIN.pack(key - _FIRST, count) for key, count in bins.items())

    @classmethod
    def from_bytes(cls, data: bytes) -> Calibration:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: the bytes are no calibration.
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
    """A sketch with these counts by bin, and the store in which it keeps them."""
    store = DenseStore()
    for key, count in bins.items():
        store.add(key, count)
    return store, BaseDDSketch(_MAPPING, store, DenseStore(), 0.0)
