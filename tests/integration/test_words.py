"""A word model, all the way: trained, exported, served, and asked for everything."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from charloom.bundle import Bundle, DecoderKind, Unit, WordVocabulary, read_bundle, split_words
from charloom.client import Client, InvalidArgument
from charloom.engine.calls.watching import SourceLine, WatchRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest, SessionOfAnotherModel
from charloom.export import export_bundle
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.training.checkpoint import load_trained
from charloom.training.config import TrainingConfig
from charloom.training.data.corpus import read_corpus
from charloom.training.loop import Trainer
from charloom.training.run_directory import load_validation
from tests.conftest import SMALL, Silent

SYMBOLS = 120
"""Few, so that more than a tenth of all tokens is unknown and the model would often choose the unknown one."""
RARE = "verschränkungsgrad"


@pytest.fixture(scope="module")
def word_bundle(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("words")
    text = text_file.read_text("utf-8")[:60_000].replace("the ", "thé ")
    (folder / "text.txt").write_text(unicodedata.normalize("NFD", text), "utf-8")
    settings = {**SMALL, "unit": "word", "vocabulary_size": SYMBOLS, "normalise": "nfc", "learning_rate": 1e-2}
    config = TrainingConfig.model_validate(settings | {"epochs": 2, "sequence_length": 32})
    corpus = read_corpus(
        folder / "text.txt", config.unit, normalisation=config.normalise, vocabulary_size=config.vocabulary_size
    )
    reporter = Silent()
    Trainer(config, corpus, folder / "run").train(reporter)
    assert "�" not in "".join(evaluation.sample for evaluation in reporter.evaluations)
    export_bundle(load_trained(folder / "run"), load_validation(folder / "run"), folder / "words", name="words")
    return read_bundle(folder / "words")


@pytest.fixture(scope="module", params=DecoderKind, ids=lambda kind: kind.value)
def client(word_bundle: Bundle, request: pytest.FixtureRequest) -> Iterator[Client]:
    settings = ServerSettings(grace_seconds=0, tick_milliseconds=0.5)
    models = [(word_bundle, open_decoder(word_bundle, kind=request.param))]
    with running_server(models, settings) as server, Client(server.address) as client:
        yield client


def test_the_model_says_that_its_tokens_are_words(client: Client, word_bundle: Bundle) -> None:
    model = client.model()
    assert (model.unit.value, model.vocabulary_size, model.symbols) == ("word", SYMBOLS, ())
    assert word_bundle.manifest.unit is Unit.WORD
    assert isinstance(word_bundle.vocabulary, WordVocabulary)
    assert "thé" in word_bundle.vocabulary.symbols
    assert np.mean(np.array(word_bundle.vocabulary.encode("thé strange words of it")) == 0) > 0.1


async def test_its_lines_are_not_watched_and_the_name_stays_free_for_a_model_of_characters(
    word_bundle: Bundle, bundle: Bundle, decoder: Decoder
) -> None:
    engine = Engine([(word_bundle, open_decoder(word_bundle)), (bundle, decoder)])
    for model in ("", "words"):
        with pytest.raises(InvalidRequest, match="reads words"):
            await engine.watching.begin(WatchRequest("logs", model=model))
    watch = await engine.watching.begin(WatchRequest("logs", model=bundle.manifest.name))
    assert len(await watch.read([SourceLine("a", "one")])) == 1
    await watch.end()
    with pytest.raises(SessionOfAnotherModel):
        await engine.watching.begin(WatchRequest("logs", model="words"))
    await engine.drain(0)


def test_two_calls_of_half_the_length_are_one_call(client: Client) -> None:
    stream = client.generate("The ", max_tokens=100, seed=5)
    pieces = list(stream)
    whole = "".join(pieces)
    assert len(pieces) > 1
    assert stream.result().usage.completion_tokens == 100
    with client.session(seed=5) as session:
        first, second = session.complete("The ", max_tokens=50).text, session.complete(max_tokens=50).text
        assert first + second == whole
        session.rewind(session.info.position - 50)
        assert session.complete(max_tokens=50).text == second


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0}, {"temperature": 3}, {"top_k": 3}, {"frequency_penalty": 1}]
)
def test_the_unknown_symbol_is_never_written(client: Client, options: dict[str, float]) -> None:
    told = client.complete(RARE, max_tokens=300, seed=1, logprobs=True, top_logprobs=5, **options)
    assert "�" not in told.text
    assert all(token.text != "�" for token in told.logprobs)
    assert any(other.text == "�" for token in told.logprobs for other in token.top)  # though the model expects it


def test_a_word_that_the_model_lacks_is_read_and_scored_as_the_unknown_one(client: Client) -> None:
    score = client.score(f"is {RARE}, of")
    assert [token.text for token in score.logprobs] == ["is", " ", "�", ",", " ", "of"]
    assert all(math.isfinite(token.logprob) and token.logprob < 0 for token in score.logprobs)
    bits = -sum(token.logprob for token in score.logprobs) / math.log(2)
    assert score.bits_per_character == pytest.approx(bits / len("is �, of"), rel=1e-5)
    same = [
        client.complete(prompt, max_tokens=20, seed=1).text for prompt in (f"is {RARE}", "is �", "is other_strange")
    ]
    assert same[0] == same[1] == same[2]
    skipped = client.score(f"is {RARE}, of", unknown_characters="skip")
    assert [token.text for token in skipped.logprobs] == ["is", " ", ",", " ", "of"]


def test_a_prompt_is_brought_into_the_form_of_the_training_text(client: Client) -> None:
    composed = client.score("thé end")
    assert client.score(unicodedata.normalize("NFD", "thé end")) == composed
    assert composed.logprobs[0].text == "thé"


def test_a_stop_string_is_whole_words(client: Client) -> None:
    text = client.complete("The ", max_tokens=300, seed=2).text
    tokens = split_words(text)
    place = next(i for i in range(10, 200) if tokens[i] == " " and tokens[i + 1].isalpha())
    wanted = "".join(tokens[place : place + 2])
    first = next(i for i in range(200) if tokens[i : i + 2] == tokens[place : place + 2])
    stopped = client.complete("The ", max_tokens=300, seed=2, stop=wanted)
    assert stopped.text == "".join(tokens[:first])
    assert stopped.result.stop == wanted
    included = client.complete("The ", max_tokens=300, seed=2, stop=wanted, include_stop=True)
    assert included.text == "".join(tokens[: first + 2])
    with pytest.raises(InvalidArgument, match=rf"can never be generated: 1 word.*'{RARE}' at 4"):
        client.complete("The ", stop=f"the {RARE}")


def test_tokens_are_allowed_and_forbidden_by_their_characters(client: Client) -> None:
    text = client.complete("The ", max_tokens=200, seed=3, allowed_characters="thisnofa \n").text
    assert text
    assert set(text) <= set("thisnofa \n")
    text = client.complete("The ", max_tokens=200, seed=3, forbidden_characters="ae").text
    assert len(text) > 50
    assert not set(text) & set("ae")
    with pytest.raises(InvalidArgument, match=r"1 character\(s\) are not .*'夜'"):
        client.complete(allowed_characters="夜a")
    with pytest.raises(InvalidArgument, match="no character of the model is left"):
        client.complete(allowed_characters="")


def test_words_are_biased_as_wholes(client: Client) -> None:
    text = client.complete("The ", max_tokens=100, seed=4, temperature=5, logit_bias={"is of": 100}).text
    assert set(text) == set("is of")
    without = client.complete("The ", max_tokens=300, seed=4, logit_bias={"is": -100}).text
    assert "is" not in split_words(without)
    with pytest.raises(InvalidArgument, match=rf"1 word.*'{RARE}' at 0.*leave them out, or ask to skip them"):
        client.complete("The ", logit_bias={RARE: 1})
    skipping = {"logit_bias": {RARE: 5, "is": -100}, "unknown_characters": "skip"}
    assert client.complete("The ", max_tokens=300, seed=4, **skipping).text == without  # type: ignore[arg-type]


def test_sessions_of_words_are_values(client: Client) -> None:
    with client.session(seed=1) as session:
        session.feed("The ")
        with session.continuations(n=3, max_tokens=30) as ways:
            texts = [completion.text for completion in ways.completions()]
        assert len(set(texts)) == 3
        assert session.complete(max_tokens=30, seed=2).text == texts[1]
        session.rewind(session.info.position - 30)
        with session.fork(seed=3) as other:
            assert other.complete(max_tokens=30).text == texts[2]
        state = session.export().state
    assert client.complete(state=state, max_tokens=30, seed=2).text == texts[1]


def test_an_inspection_shows_each_word_and_an_unknown_one_as_such(client: Client, word_bundle: Bundle) -> None:
    int8 = client.model().decoder == DecoderKind.ONNX_INT8.value
    text = f"the\u0301 {RARE}"
    found = client.inspect(text, layers=[1], top_next=3, distributions=True)
    scored = client.score(text).logprobs
    expected = [one.logprob for one in scored]
    rounding = 1e-5 if int8 else 0.05  # the inspector has int8's products, whichever decoder is served
    assert [token.logprob for token in found.tokens] == pytest.approx(expected, abs=rounding)
    assert len(found.tokens) == 3
    assert np.asarray(found.layers[1].cell).shape == (3, word_bundle.manifest.cell.hidden_size)
    assert np.exp(np.asarray(found.distributions)).sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-4)


def test_a_constrained_text_is_of_the_models_words(client: Client) -> None:
    pattern = r"(?:thé|[a-z]+)(?: (?:thé|[a-z]+)){3,8}\."
    for seed in range(5):
        found = client.complete("The ", regex=pattern, max_tokens=40, seed=seed)
        assert re.fullmatch(pattern, found.text)
        assert found.result.usage.completion_tokens <= 40 < 2 * len(found.text)
    assert client.complete("The ", choices=["thé of", "of thé"], seed=1).text in ("thé of", "of thé")
    with pytest.raises(InvalidArgument, match="can write none of its texts"):
        client.complete("", regex=RARE + "[0-9]道")
