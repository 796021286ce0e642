"""ClassificationService on a server that has a language model too: whole texts, texts in parts, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from charloom.bundle import Bundle, DecoderKind, Unit
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    reading_pb2,
    reading_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)
from tests.integration.conftest import refused
from tests.integration.http_client import client
from tests.integration.http_client import refused as http_refused
from tests.integration.test_metrics import value
from tests.unit.export.classifier_runs import LABELS, TEXTS, classifier_bundle, classifier_of
from tests.waiting import eventually

Labelled = classification_pb2.LabelledText
INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture(scope="module")
def server(bundle: Bundle, decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("classifiers")
    models = [(bundle, decoder)]
    for unit in (Unit.CHARACTER, Unit.WORD, Unit.BYTE):
        made = classifier_bundle(folder, unit, name=f"by-{unit.value}", decoders=[DecoderKind.ONNX_INT8])
        models.append((made, open_decoder(made)))
    with running_server(models, ServerSettings(grace_seconds=0, metrics_port=0, http_port=0)) as server:
        yield server


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> classification_pb2_grpc.ClassificationServiceStub:
    return classification_pb2_grpc.ClassificationServiceStub(channel)


def label(stub: classification_pb2_grpc.ClassificationServiceStub, text: str, model: str = "") -> Labelled:
    return stub.Classify(classification_pb2.ClassifyRequest(text=text, model=model)).labelled


def in_parts(
    stub: classification_pb2_grpc.ClassificationServiceStub, parts: Sequence[str], model: str = ""
) -> list[Labelled]:
    """What is told after each part."""

    def requests() -> Iterator[classification_pb2.ClassifyStreamRequest]:
        yield classification_pb2.ClassifyStreamRequest(start=classification_pb2.ClassifyStart(model=model))
        for part in parts:
            yield classification_pb2.ClassifyStreamRequest(text=part)

    return [answer.labelled for answer in stub.ClassifyStream(requests(), timeout=60)]


@pytest.mark.parametrize("unit", Unit)
def test_a_text_has_the_probabilities_that_the_trained_network_gives_it(
    stub: classification_pb2_grpc.ClassificationServiceStub, unit: Unit
) -> None:
    trained = classifier_of(unit)
    for text in [*TEXTS, "  a good day \n", "a strange ☃ day", "what a day " * 30]:
        found, wanted = label(stub, text, f"by-{unit.value}"), trained.predict(text)
        assert [one.label for one in found.probabilities] == list(LABELS)
        chances = {one.label: one.probability for one in found.probabilities}
        assert chances == pytest.approx(wanted.probabilities, abs=0.05)  # int8
        assert sum(chances.values()) == pytest.approx(1)
        assert found.label == max(chances, key=chances.__getitem__)
        assert (found.tokens, found.left_out) == (wanted.tokens, wanted.left_out)


def test_the_answer_tells_which_model_gave_it_and_an_empty_name_is_the_first_classifier(
    stub: classification_pb2_grpc.ClassificationServiceStub,
) -> None:
    answer = stub.Classify(classification_pb2.ClassifyRequest(text="a good day"))
    assert answer.model == "by-character"
    named = stub.Classify(classification_pb2.ClassifyRequest(text="a good day", model="by-character"))
    assert named == answer
    assert len(answer.model_digest) == 64


def test_a_text_has_the_same_probabilities_alone_and_among_others_of_any_length(
    stub: classification_pb2_grpc.ClassificationServiceStub,
) -> None:
    choose = random.Random(1)
    texts = ["".join(choose.choices("a dehnotvwxy,", k=choose.randint(1, 60))).strip() or "x" for _ in range(60)]
    alone = [label(stub, text) for text in texts]
    assert len({one.probabilities[0].probability for one in alone}) > 40
    with ThreadPoolExecutor(20) as pool:
        for _ in range(3):
            assert list(pool.map(lambda text: label(stub, text), texts)) == alone


@pytest.mark.parametrize("unit", [Unit.CHARACTER, Unit.BYTE])
def test_after_each_part_a_text_is_what_it_is_as_a_whole(
    stub: classification_pb2_grpc.ClassificationServiceStub, unit: Unit
) -> None:
    model, choose = f"by-{unit.value}", random.Random(2)
    whole = " \n what a  day, no é and\t ☃ no every word is a good day and the end of it   "
    assert len(whole.strip()) > 40  # of which the model reads 40
    for most in (1, 3, 20, len(whole)):
        parts, at = [""], 0
        while at < len(whole):
            size = choose.randint(1, most)
            parts.append(whole[at : at + size])
            at += size
        so_far = ""
        for part, found in zip(parts, in_parts(stub, parts, model), strict=True):
            so_far += part
            if not so_far.strip():
                assert (found.label, found.tokens, list(found.probabilities)) == ("", 0, [])
                continue
            assert found == label(stub, so_far, model), so_far


def test_characters_that_the_model_lacks_are_read_as_unknown_and_named(
    stub: classification_pb2_grpc.ClassificationServiceStub,
) -> None:
    found = label(stub, "  a ☃ day é" + "Ж" * 20)
    assert found.unknown_count == 22
    assert [(part.text, part.position) for part in found.unknown[:3]] == [("☃", 4), ("é", 10), ("Ж", 11)]
    assert len(found.unknown) == 10
    words = label(stub, "a purple day", "by-word")
    assert [(part.text, part.position) for part in words.unknown] == [("purple", 2)]
    assert not label(stub, "a ☃ day", "by-byte").unknown_count


def test_binary_is_text_of_characters_that_the_model_lacks(
    stub: classification_pb2_grpc.ClassificationServiceStub,
) -> None:
    found = label(stub, "".join(map(chr, range(32))))
    assert 20 < found.unknown_count == found.tokens - 1  # it knows the line break
    assert found.label in LABELS


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_an_empty_text_is_refused(stub: classification_pb2_grpc.ClassificationServiceStub, text: str) -> None:
    code, reason, fields, _ = refused(lambda: label(stub, text))
    assert (code, reason) == (INVALID, "INVALID_REQUEST")
    assert "empty" in fields["text"]


def test_a_text_of_ten_megabytes_is_refused_and_the_next_one_is_not(
    stub: classification_pb2_grpc.ClassificationServiceStub,
) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        label(stub, "a" * 10_000_000)
    # By the transport, where it limits messages, or else by the server.
    assert failed.value.code() in (INVALID, grpc.StatusCode.RESOURCE_EXHAUSTED)
    code, _, fields, _ = refused(lambda: label(stub, "a" * 65_537))
    assert code is INVALID
    assert "65537 characters, more than 65536" in fields["text"]
    assert label(stub, "a" * 65_536).left_out == 65_496
    assert refused(lambda: in_parts(stub, [" a", " " * 40_000, " " * 40_000]))[0] is INVALID


def test_a_model_of_words_tells_nothing_before_the_end(
    stub: classification_pb2_grpc.ClassificationServiceStub,
) -> None:
    code, _, fields, _ = refused(lambda: in_parts(stub, ["a good day"], "by-word"))
    assert code is INVALID
    assert "reads words" in fields["start.model"]


def test_a_stream_begins_with_a_start_and_has_one(stub: classification_pb2_grpc.ClassificationServiceStub) -> None:
    start = classification_pb2.ClassifyStreamRequest(start=classification_pb2.ClassifyStart())
    text = classification_pb2.ClassifyStreamRequest(text="a")
    assert "start" in refused(lambda: list(stub.ClassifyStream(iter([text]))))[2]
    assert "text" in refused(lambda: list(stub.ClassifyStream(iter([start, text, start]))))[2]
    assert "start" in refused(lambda: list(stub.ClassifyStream(iter([]))))[2]
    assert list(stub.ClassifyStream(iter([start]))) == []


def many(
    stub: classification_pb2_grpc.ClassificationServiceStub, *messages: Sequence[str], model: str = ""
) -> Iterator[Labelled]:
    """What is told of all texts of these messages."""
    start = classification_pb2.ClassifyManyRequest(start=classification_pb2.ClassifyManyStart(model=model))
    requests = [
        classification_pb2.ClassifyManyRequest(texts=classification_pb2.ClassifyManyTexts(texts=texts))
        for texts in messages
    ]
    for answer in stub.ClassifyMany(iter([start, *requests]), timeout=60):
        yield from answer.labelled


@pytest.mark.parametrize("unit", Unit)
def test_many_texts_have_the_labels_that_each_has_alone(
    stub: classification_pb2_grpc.ClassificationServiceStub, unit: Unit
) -> None:
    """Bit for bit, in order; only that nothing but white space has none."""
    model = f"by-{unit.value}"
    texts = [*TEXTS, "  a good day \n", "a strange \u2603 day", "what a day " * 30]
    alone = [label(stub, text, model) for text in texts]
    found = list(many(stub, texts, [" ", texts[0]], texts * 10, model=model))
    assert found == [*alone, found[len(texts)], alone[0], *alone * 10]
    assert (found[len(texts)].label, list(found[len(texts)].probabilities), found[len(texts)].tokens) == ("", [], 0)


def test_of_many_texts_one_that_is_too_long_is_named_and_all_before_it_are_answered(
    stub: classification_pb2_grpc.ClassificationServiceStub,
) -> None:
    for before in (0, 3):
        found = many(stub, ["a"] * 200, [*["no"] * before, "a" * 65_537, "b"], ["c"])
        assert [next(found).label for _ in range(200 + before)]
        code, reason, fields, _ = refused(lambda: list(found))  # noqa: B023
        assert (code, reason, list(fields)) == (INVALID, "INVALID_REQUEST", [f"texts[{200 + before}]"])
    longest = "a good day " * 5957  # of 65,527 characters, all of which may be in one message
    assert {one.left_out for one in many(stub, [longest] * 10)} == {len(longest.strip()) - 40}


def test_what_is_no_call_with_many_texts_is_refused(
    stub: classification_pb2_grpc.ClassificationServiceStub, bundle: Bundle
) -> None:
    Request, Texts = classification_pb2.ClassifyManyRequest, classification_pb2.ClassifyManyTexts
    start = Request(start=classification_pb2.ClassifyManyStart())
    for requests, field in (
        ([], "start"),
        ([Request(texts=Texts(texts=["a"]))], "start"),
        ([start, start], "texts"),
        ([start, Request(texts=Texts())], "texts"),
        ([start, Request(texts=Texts(texts=["a"] * 257))], "texts"),
    ):
        code, _, fields, _ = refused(lambda: list(stub.ClassifyMany(iter(requests))))  # noqa: B023
        assert (code, list(fields)) == (INVALID, [field])
    assert list(stub.ClassifyMany(iter([start]))) == []
    asked = many(stub, ["a"], model=bundle.manifest.name)
    assert refused(lambda: list(asked))[:2] == (PRECONDITION, "MODEL_OF_ANOTHER_TASK")


def test_each_kind_of_model_is_refused_what_the_other_does(channel: grpc.Channel, bundle: Bundle) -> None:
    labels = classification_pb2_grpc.ClassificationServiceStub(channel)
    generation = generation_pb2_grpc.GenerationServiceStub(channel)
    reading = reading_pb2_grpc.ReadingServiceStub(channel)
    sessions = sessions_pb2_grpc.SessionServiceStub(channel)
    asked = generation_pb2.GenerationOptions(model="by-character", prompt="a", max_tokens=2)
    language_model = bundle.manifest.name
    calls = [
        lambda: generation.Complete(generation_pb2.CompleteRequest(options=asked)),
        lambda: list(generation.Generate(generation_pb2.GenerateRequest(options=asked))),
        lambda: reading.Score(reading_pb2.ScoreRequest(model="by-character", text="a")),
        lambda: reading.Peek(reading_pb2.PeekRequest(options=generation_pb2.GenerationOptions(model="by-character"))),
        lambda: list(reading.Inspect(reading_pb2.InspectRequest(model="by-character", text="a"))),
        lambda: sessions.CreateSession(sessions_pb2.CreateSessionRequest(model="by-character")),
    ]
    for call in calls:
        code, reason, _, message = refused(call)
        assert (code, reason) == (PRECONDITION, "MODEL_OF_ANOTHER_TASK")
        assert "'by-character' is a classifier" in message
        assert language_model in message
    code, reason, _, message = refused(lambda: label(labels, "a", language_model))
    assert (code, reason) == (PRECONDITION, "MODEL_OF_ANOTHER_TASK")
    assert "is a language model" in message
    assert "by-character, by-word, by-byte" in message
    assert refused(lambda: label(labels, "a", "nobody"))[:2] == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    # and without a name each call goes to a model that can do it
    asked = generation_pb2.GenerationOptions(max_tokens=3)
    assert generation.Complete(generation_pb2.CompleteRequest(options=asked)).completions[0].text


def test_models_tell_their_task_and_labels(models: models_pb2_grpc.ModelServiceStub, bundle: Bundle) -> None:
    found = {model.name: model for model in models.ListModels(models_pb2.ListModelsRequest()).models}
    plain, classifier = found[bundle.manifest.name], found["by-character"]
    assert (plain.task, plain.HasField("labelling")) == (models_pb2.TASK_LANGUAGE_MODEL, False)
    assert classifier.task == models_pb2.TASK_CLASSIFICATION
    assert list(classifier.labelling.labels) == list(LABELS)
    assert classifier.labelling.max_length == 40
    scores = {one.decoder: one for one in classifier.labelling.scores}
    assert scores.keys() == {"checkpoint", "onnx-int8"}
    assert scores["onnx-int8"].nats_per_text > 0
    assert models.GetModel(models_pb2.GetModelRequest(name="by-character")).model == classifier


def test_labels_are_counted(stub: classification_pb2_grpc.ClassificationServiceStub, server: Server) -> None:
    def counted() -> dict[str, float]:
        name = "charloom_labelled_texts_total"
        return {one: value(server, name, model="by-character", label=one) for one in LABELS}

    before = counted()
    given = [label(stub, text).label for text in TEXTS]
    given.append(in_parts(stub, ["a good", " day"])[-1].label)
    given += [one.label for one in many(stub, TEXTS[:2], [" "], TEXTS[2:])]
    wanted = {name: before[name] + given.count(name) for name in LABELS}
    eventually(lambda: counted() == wanted)


def test_http_gives_labels_to_one_text_and_to_several(
    stub: classification_pb2_grpc.ClassificationServiceStub, server: Server
) -> None:
    with client(server) as plain:
        answer = plain.post("/v1/classify", json={"input": [*TEXTS, "a ☃ day"]}).json()
        assert answer["model"] == "by-character"
        for number, (text, told) in enumerate(zip([*TEXTS, "a ☃ day"], answer["data"], strict=True)):
            found = label(stub, text)
            assert (told["index"], told["label"], told["tokens"]) == (number, found.label, found.tokens)
            assert told["probabilities"] == {one.label: one.probability for one in found.probabilities}
        assert answer["data"][-1]["unknown"] == [{"text": "☃", "position": 2}]
        assert answer["usage"]["prompt_tokens"] == sum(map(len, TEXTS)) + 7
        alone = plain.post("/v1/classify", json={"input": TEXTS[0], "model": "by-byte"}).json()
        assert (alone["model"], len(alone["data"])) == ("by-byte", 1)


def test_http_refuses_what_has_no_label_and_tells_tasks(server: Server, bundle: Bundle) -> None:
    name = bundle.manifest.name
    with client(server) as plain:

        def problem(body: object, route: str = "classify") -> tuple[int, str, str | None, str]:
            return http_refused(plain.post(f"/v1/{route}", json=body))

        assert problem({"input": ["a", " "]})[:3] == (400, "invalid_request", "input[1]")
        for wrong in ([], 3, [["a"]], [1, 2]):
            assert problem({"input": wrong})[:3] == (400, "invalid_request", "input")
        assert "there are 257; give from 1 to 256" in problem({"input": ["a"] * 257})[3]
        number, field = problem({"input": ["a", "b" * 65_537, " "]}), problem({"input": ["a", "b" * 65_537]})
        assert (number[2], field[2]) == ("input[2]", "input[1]")
        assert problem({"input": "a", "model": name})[1] == "model_of_another_task"
        for route, body in (("completions", {"prompt": "a"}), ("embeddings", {"input": "a"})):
            assert problem({**body, "model": "by-character"}, route)[1] == "model_of_another_task"
        told = {model["id"]: model for model in plain.get("/v1/models").json()["data"]}
        assert (told[name]["task"], told["by-character"]["task"]) == ("language-model", "classification")
        assert told["by-character"]["labels"] == list(LABELS)
        assert "labels" not in told[name]
        binary, kind = b'{"input": "\xff\x00"}', {"content-type": "application/json"}
        assert http_refused(plain.post("/v1/classify", content=binary, headers=kind))[1] == "not_json"
