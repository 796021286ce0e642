from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from charloom.cli.main import main
from charloom.lab.studies.sequences import (
    DateSettings,
    ReversalSettings,
    SequenceResult,
    TranslationSettings,
    draw,
    measure_dates,
    measure_reversal,
    measure_translation,
    mirrored_attention,
    tables,
)
from charloom.lab.tasks.pairs import Reversal
from charloom.lab.tasks.sequences import Answer, SequenceSettings, train

ADJECTIVES = {"red": "roj", "white": "blanc", "black": "negr", "old": "viej", "new": "nuev", "small": "pequeñ"}
ADJECTIVES |= {"tall": "alt", "good": "buen", "bad": "mal", "pretty": "bonit", "cheap": "barat", "rich": "ric"}
NOUNS = {"cat": "gato", "house": "casa", "dog": "perro", "table": "mesa", "book": "libro", "window": "ventana"}
NOUNS |= {"car": "carro", "door": "puerta", "boy": "chico", "girl": "chica", "glass": "vaso", "bed": "cama"}
SMALL = ["--steps", "2", "--hidden-size", "4", "--embedding-size", "4", "--examples", "3", "--threads", "1"]


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def reversal(said: list[str]) -> SequenceResult:
    return measure_reversal(ReversalSettings(longest=6, steps=200), said.append)


def test_strings_are_reversed_and_the_attention_runs_backwards(reversal: SequenceResult, said: list[str]) -> None:
    assert reversal.exact > 0.95
    assert reversal.mirrored is not None
    assert reversal.mirrored > 0.75
    assert len(reversal.mistakes) == round((1 - reversal.exact) * reversal.examples)
    for answer in reversal.answers:
        weights = np.array(answer.weights)
        assert weights.shape == (len(answer.written) + 1, len(answer.source))
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    assert len(said) == 10
    assert said[-1].startswith("step 200 of 200")


def test_dates_of_days_never_seen_are_read() -> None:
    found = measure_dates(DateSettings(steps=180), lambda line: None)
    assert found.exact > 0.95
    assert found.mirrored is None


@pytest.fixture
def phrases(tmp_path: Path) -> Path:
    """Two words that change places, and their endings agree."""
    file = tmp_path / "phrases.tsv"
    lines = [
        f"{adjective} {noun}\t{name} {word}{name[-1]}\tsome licence"
        for adjective, word in ADJECTIVES.items()
        for noun, name in NOUNS.items()
    ]
    file.write_text("\n".join(lines), "utf-8")
    return file


def test_phrases_that_were_held_out_are_translated(phrases: Path) -> None:
    said: list[str] = []
    settings = TranslationSettings(pairs=phrases, hidden_size=64, steps=100, learning_rate=1e-2)
    found = measure_translation(settings, said.append)
    assert said[0] == "130 pairs to train on, 14 held out"
    assert found.examples == 14
    assert found.exact > 0.8
    assert found.character_errors < 0.05
    assert found.unknown == 0
    assert found.losses[-1] < 0.1 < found.losses[0]


def test_characters_that_training_has_not_are_counted_and_shown(phrases: Path, tmp_path: Path) -> None:
    lines = phrases.read_text("utf-8").split("\n")
    phrases.write_text("\n".join(line.replace("\t", f" {chr(0x4E00 + at)}\t", 1) for at, line in enumerate(lines)))
    found = measure_translation(
        TranslationSettings(pairs=phrases, steps=1, hidden_size=4, examples=8), lambda line: None
    )
    assert (found.examples, found.unknown) == (8, 8)
    figures, _ = tables(found)
    assert list(figures.columns[-1].cells) == ["8"]
    assert "unknown" in str(figures.columns[-1].header)
    draw(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_the_command_translates_from_a_file(phrases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["study", "translation", "--out", str(tmp_path), *SMALL]
    assert main([*command, "--pairs", str(phrases)]) == 0
    assert "130 pairs to train on, 14 held out" in capsys.readouterr().out
    saved = json.loads((tmp_path / "translation.json").read_text("utf-8"))
    assert saved["settings"]["pairs"] == str(phrases)
    assert (saved["result"]["examples"], len(saved["result"]["answers"])) == (3, 3)
    assert (tmp_path / "translation.png").read_bytes().startswith(b"\x89PNG")
    assert main(command) == 1
    assert "give it with --pairs" in capsys.readouterr().err
    assert main([*command, "--pairs", str(phrases), "--longest", "5"]) == 1
    assert "the longest of the file, and --longest is 5" in capsys.readouterr().err


def test_the_picture_and_the_tables_show_what_was_written(reversal: SequenceResult, tmp_path: Path) -> None:
    draw(reversal, tmp_path / "one.png")
    draw(reversal, tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.png").stat().st_size > 5_000
    figures, written = tables(reversal)
    cells = [next(iter(column.cells)) for column in figures.columns]
    assert cells[1:3] == ["500", f"{reversal.exact:.1%}"]
    assert list(written.columns[1].cells)[:4] == [answer.written for answer in reversal.answers]


def test_mirrored_attention_is_that_on_the_character_to_write() -> None:
    weights = [[0.1, 0.9], [0.6, 0.4], [0.5, 0.5]]
    assert mirrored_attention(Answer("ab", "ba", "ba", weights)) == pytest.approx(0.75)
    assert mirrored_attention(Answer("ab", "ba", "", weights[:1])) == pytest.approx(0.45)


def test_the_same_settings_give_the_same_model() -> None:
    settings = SequenceSettings(steps=3, hidden_size=8, embedding_size=4, examples=5)
    one, two = (train(Reversal(), settings) for _ in range(2))
    assert (one.losses, one.answers) == (two.losses, two.answers)
    assert train(Reversal(), settings.model_copy(update={"seed": 2})).losses != one.losses


@pytest.mark.parametrize("name", ["reversal", "dates"])
def test_the_command_writes_figures_and_a_picture(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", name, "--out", str(tmp_path), *SMALL]) == 0
    assert "held-out examples" in capsys.readouterr().out
    saved = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))
    assert saved["settings"]["steps"] == len(saved["result"]["losses"]) == 2
    assert len(saved["result"]["answers"]) == 3
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_that_has_learnt_nothing_writes_letters_all_the_same(tmp_path: Path) -> None:
    """After two steps with this seed, padding and other marks are among the most probable symbols."""
    settings = ReversalSettings(steps=2, hidden_size=4, embedding_size=4, batch_size=2, examples=8, seed=2)
    found = measure_reversal(settings, lambda line: None)
    for answer in found.answers:
        assert len(answer.weights) == min(len(answer.written) + 1, settings.longest + 1)
    draw(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_contradictory_lengths_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "reversal", "--out", str(tmp_path), "--shortest", "11"]) == 1
    assert "--shortest 11 is more than --longest 10" in capsys.readouterr().err
