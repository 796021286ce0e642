from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.classify import LENGTHS, result, table, texts
from benchmarks.label_reference import SYMBOLS, reference_classifier, write_label_bundle
from charloom.bundle import read_bundle, read_label_head
from charloom.export.measure import final_hidden


def run(per_s: int) -> dict[str, Any]:
    return {"per_s": per_s, "p50_ms": 1000 / per_s, "p99_ms": 2000 / per_s}


def test_the_best_and_the_middle_runs_are_compared_with_the_faster_obvious_server() -> None:
    ours, obvious = [run(100), run(400), run(200)], [[run(50), run(60), run(90)], [run(80), run(70), run(10)]]
    found = result(ours, obvious)
    assert (found["labels_per_s"], found["obvious_per_s"], found["ratio"]) == (400, 90, 4.44)
    assert (found["labels_per_s_median"], found["obvious_per_s_median"], found["ratio_median"]) == (200, 70, 2.86)
    assert (found["p50_ms"], found["p99_ms"]) == (2.5, 5.0)
    kinds = [*LENGTHS, *(f"{kind}_many" for kind in LENGTHS)]
    assert [row[0] for row in table(dict.fromkeys(kinds, found))[1:]] == kinds


def test_texts_are_the_same_each_time_and_of_symbols_that_the_model_has() -> None:
    for kind, (least, most) in LENGTHS.items():
        assert texts(kind) == texts(kind)
        assert {len(text) for text in texts(kind)} <= set(range(least, most + 1))
        for text in texts(kind):
            SYMBOLS.encode(text)


def test_both_servers_have_the_same_network(tmp_path: Path) -> None:
    bundle = read_bundle(write_label_bundle(tmp_path / "names"))
    head, classifier = read_label_head(bundle), reference_classifier()
    assert head is not None
    (hidden,) = final_hidden(
        bundle.decoder_file(bundle.manifest.decoders[0]), bundle.manifest, [SYMBOLS.encode("ab-3")]
    )
    wanted = list(classifier.predict("ab-3").probabilities.values())
    assert abs(head.probabilities(hidden)[0] - wanted[0]) < 0.01  # int8
