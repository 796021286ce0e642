"""How well a small model that has read a log finds its alerts, beside two detectors of scikit-learn.

    python -m benchmarks.watch --logs FOLDER [--injected] [--json]

FOLDER has the samples of loghub (`benchmarks.watch_logs`). A model of `--preset log` learns the first 1,000 lines of
BGL, once as they are (with 96 alerts, whose labels nobody sees) and once without those; the other 1,000 lines, 47 of
them alerts, are scored by it, one state for each node. Both detectors see the same lines with the same numbers masked:
Isolation Forest and PCA (the squared error of what its components leave, Xu et al., SOSP 2009), over counts of
templates in windows of ten lines, over counts of words in such windows, and over counts of words in the line; the best
of the three is what counts for each. The interval is of 2,000 bootstrap samples of lines, 95 %.

`--injected` tells the same of HDFS, Apache and Zookeeper, with 60 lines changed, and of BGL's first half: the score was
chosen on these (what of each score is there is printed). The areas of the other 1,000 lines were seen meanwhile, so
they are no blind test. Needs the training extra and scikit-learn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import roc_auc_score

from benchmarks.processes import hardware
from benchmarks.reporting import at_least_one, finish, new_parser, say
from benchmarks.watch_logs import HALF, Line, read_log, with_injected
from charloom.bundle import Mask
from charloom.engine.watching.surprise import surprise
from charloom.network.model import CharLSTM
from charloom.training.checkpoint import load_trained
from charloom.training.config import TrainingConfig
from charloom.training.data.corpus import read_corpus
from charloom.training.loop import Trainer
from charloom.training.presets import PRESETS
from charloom.training.records import Evaluation, Progress

MASK = Mask(PRESETS["log"]["mask"])
WINDOW = 10
SAMPLES = 2000
Numbers = npt.NDArray[np.float64]
SCORES: dict[str, Callable[[Numbers], float]] = {
    "stretch": lambda nats: surprise(nats.astype(np.float32)),
    "sum": lambda nats: float(nats.sum()),
    "mean": lambda nats: float(nats.mean()),
    "most": lambda nats: float(nats.max()),
}
"""Of a line, from the nats of its tokens; the first is the one of the server."""


class Speed:
    """A reporter that keeps how fast the training went."""

    def __init__(self) -> None:
        self.tokens_per_second: list[float] = []

    def step(self, progress: Progress) -> None:
        pass

    def evaluation(self, evaluation: Evaluation) -> None:
        self.tokens_per_second.append(evaluation.tokens_per_second)


def arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--logs", type=Path, required=True, help="the folder with the samples")
    parser.add_argument("--injected", action="store_true", help="also the logs without labels, with lines changed")
    parser.add_argument("--epochs", type=at_least_one, default=PRESETS["log"]["epochs"], help="of each training")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)  # a network this small gains nothing from a second one
    bgl = read_log(args.logs, "BGL")
    known, scored = bgl[:HALF], bgl[HALF:]
    rows = [
        measured("BGL, as it is", known, scored, args.epochs),
        measured("BGL, trained without alerts", [line for line in known if not line.alert], scored, args.epochs),
    ]
    if args.injected:
        quiet = [line for line in known[HALF // 2 :] if not line.alert]
        rows.append(measured("BGL, the first half of the known lines", quiet, known[: HALF // 2], args.epochs))
        for name in ("HDFS", "Apache", "Zookeeper"):
            log = read_log(args.logs, name)
            changed = with_injected(log[HALF:], known, log[:HALF], seed=1)
            rows.append(measured(f"{name}, lines changed", log[:HALF], changed, args.epochs))
    found: dict[str, Any] = {"hardware": hardware(), "torch": torch.__version__, "rows": rows}
    found["bgl"], found["bgl_clean"] = ({key: row[key] for key in KEPT} for row in rows[:2])
    table: list[Sequence[object]] = [
        ["lines", "alerts", "AUC", "95 %", "sum", "mean", "most", "Isolation Forest", "PCA", "training", "characters/s"]
    ]
    table += [
        [
            row["name"],
            row["alerts"],
            row["auc"],
            f"{row['low']:.2f} to {row['high']:.2f}",
            *(row["scores"][name] for name in ("sum", "mean", "most")),
            row["isolation_forest"],
            row["pca"],
            f"{row['training_seconds']} s",
            row["training_characters_per_second"],
        ]
        for row in rows
    ]
    finish(found, table, only_json=args.json)


KEPT = ("auc", "low", "high", "isolation_forest", "pca")


def measured(name: str, known: Sequence[Line], scored: Sequence[Line], epochs: int) -> dict[str, Any]:
    """Learn some lines, score others, and tell how well alerts stand out."""
    say(f"{name}: {len(known)} lines to learn, {sum(line.alert for line in known)} of them alerts")
    alerts = np.array([line.alert for line in scored])
    start, speed = time.perf_counter(), Speed()
    model = trained([line.text for line in known], epochs, speed)
    seconds = time.perf_counter() - start
    nats = surprisals(model, scored)
    scores = {key: np.array([score(one) for one in nats]) for key, score in SCORES.items()}
    low, high = interval(alerts, scores["stretch"])
    return {
        "name": name,
        "alerts": int(alerts.sum()),
        "auc": area(alerts, scores["stretch"]),
        "low": low,
        "high": high,
        "scores": {key: area(alerts, values) for key, values in scores.items()},
        **detectors(known, scored, alerts),
        "missed": missed(scored, scores["stretch"]),
        "training_seconds": round(seconds, 1),
        "training_characters_per_second": round(float(np.median(speed.tokens_per_second))),
    }


def trained(texts: Sequence[str], epochs: int, speed: Speed) -> CharLSTM:
    """A model of `--preset log` that has learnt these lines."""
    config = TrainingConfig.model_validate(PRESETS["log"] | {"epochs": epochs})
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "lines.log"
        file.write_text("".join(f"{text}\n" for text in texts), "utf-8")
        corpus = read_corpus(file, config.unit, config.validation_share, documents=config.documents, mask=config.mask)
        Trainer(config, corpus, Path(temporary) / "run").train(speed)
        return load_trained(Path(temporary) / "run").model.eval()


@torch.no_grad()
def surprisals(model: CharLSTM, lines: Sequence[Line]) -> list[Numbers]:
    """The nats of each line's bytes, its line break included; a source's state is carried from line to line."""
    states: dict[str, torch.Tensor] = {}
    found = []
    for line in lines:
        tokens = torch.tensor([list(f"\n{MASK.apply(line.text)}\n".encode())])
        state = states.get(line.source)
        logits, states[line.source] = model(tokens[:, :-1], model.zero_state(1) if state is None else state)
        logprobs = torch.log_softmax(logits[0], dim=-1).gather(1, tokens[0, 1:, None])[:, 0]
        found.append(-logprobs.double().numpy())
    return found


def detectors(known: Sequence[Line], scored: Sequence[Line], alerts: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """The areas of both detectors, the best of three kinds of counts for each, and all of them."""
    kinds: dict[str, tuple[Numbers, Numbers]] = {}
    for kind, split in (("templates", lambda text: [text]), ("words", str.split)):
        counter = CountVectorizer(tokenizer=split, token_pattern=None, lowercase=False)
        counter.fit(MASK.apply(line.text) for line in known)
        pair = tuple(_counts(counter, split, lines) for lines in (known, scored))
        kinds[f"{kind} in {WINDOW} lines"] = (_windows(pair[0]), _windows(pair[1]))
        if kind == "words":
            kinds["words in the line"] = (pair[0], pair[1])
    found: dict[str, dict[str, float]] = {"isolation_forest": {}, "pca": {}}
    for kind, (learnt, asked) in kinds.items():
        forest = IsolationForest(n_estimators=200, random_state=1).fit(learnt)
        found["isolation_forest"][kind] = area(alerts, -forest.score_samples(asked))
        parts = PCA(n_components=0.95, svd_solver="full").fit(learnt)
        left = asked - parts.inverse_transform(parts.transform(asked))
        found["pca"][kind] = area(alerts, (left**2).sum(axis=1))
    return {name: max(areas.values()) for name, areas in found.items()} | {"detectors": found}


def _counts(counter: Any, split: Callable[[str], list[str]], lines: Sequence[Line]) -> Numbers:
    """[lines, what was learnt and one column for all else]."""
    texts = [MASK.apply(line.text) for line in lines]
    known: Numbers = counter.transform(texts).toarray().astype(np.float64)
    others = np.array([len(split(text)) for text in texts]) - known.sum(axis=1)
    return np.column_stack([known, others])


def _windows(counts: Numbers) -> Numbers:
    """Of the lines up to each one."""
    sums = np.concatenate([np.zeros((1, counts.shape[1])), counts.cumsum(axis=0)])
    ends = np.arange(1, len(sums))
    windows: Numbers = sums[ends] - sums[np.maximum(0, ends - WINDOW)]
    return windows


def area(alerts: npt.NDArray[np.bool_], scores: Numbers) -> float:
    """Under the receiver operating characteristic."""
    return round(float(roc_auc_score(alerts, scores)), 3)


def interval(alerts: npt.NDArray[np.bool_], scores: Numbers) -> tuple[float, float]:
    """Of the area, 95 %, by the bootstrap; samples without both kinds of lines are drawn again."""
    chance, areas = np.random.default_rng(1), list[float]()
    while len(areas) < SAMPLES:
        drawn = chance.integers(len(alerts), size=len(alerts))
        if 0 < alerts[drawn].sum() < len(drawn):
            areas.append(float(roc_auc_score(alerts[drawn], scores[drawn])))
    low, high = np.quantile(areas, [0.025, 0.975])
    return round(float(low), 3), round(float(high), 3)


def missed(lines: Sequence[Line], scores: Numbers) -> list[dict[str, Any]]:
    """Kinds of alerts, by their masked text, those that stand out least first: the share of other lines above them."""
    others = np.array([score for line, score in zip(lines, scores, strict=True) if not line.alert])
    kinds: dict[str, list[float]] = {}
    for line, score in zip(lines, scores, strict=True):
        if line.alert:
            kinds.setdefault(MASK.apply(line.text)[:60], []).append(float((others >= score).mean()))
    ranked = sorted(kinds.items(), key=lambda item: -float(np.mean(item[1])))
    return [
        {"text": text, "lines": len(above), "others_above": round(float(np.mean(above)), 3)}
        for text, above in ranked[:5]
    ]


if __name__ == "__main__":
    main()
