"""The obvious server of labels, to compare with: grpc.aio, and for each call one run of `nn.LSTM` over its text, or for
each message of many texts one run over the batch of them.

It is tuned: one thread, inference mode, no padding of a single text and no `PackedSequence` for a batch, and oneDNN on
or off, as `--onednn` says. It speaks Classify and ClassifyMany of `charloom.v1`. Started as
`python -m benchmarks.obvious_labels`, it prints its address.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import torch

from benchmarks.label_reference import LABELS, reference_classifier
from charloom.v1 import classification_pb2, classification_pb2_grpc

classifier = reference_classifier()
model, symbols = classifier.model, classifier.symbols


class Classification(classification_pb2_grpc.ClassificationServiceServicer):
    async def Classify(
        self, request: classification_pb2.ClassifyRequest, context: Any
    ) -> classification_pb2.ClassifyResponse:
        with torch.inference_mode():
            tokens = torch.from_numpy(symbols.encode(request.text))[None]
            _, (h, _) = model.lstm(model.embedding(tokens))
            chances = torch.softmax(model.head(h[-1])[0], 0).tolist()
        return classification_pb2.ClassifyResponse(labelled=labelled(chances, tokens.shape[1]))

    async def ClassifyMany(
        self, requests: AsyncIterator[classification_pb2.ClassifyManyRequest], context: Any
    ) -> AsyncIterator[classification_pb2.ClassifyManyResponse]:
        async for request in requests:
            if not request.HasField("texts"):
                continue
            with torch.inference_mode():
                tokens = [torch.from_numpy(symbols.encode(text)) for text in request.texts.texts]
                lengths = torch.tensor([len(one) for one in tokens])
                outputs, _ = model.lstm(model.embedding(torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)))
                # What comes after a text's last token does not change the output of that token.
                last = outputs[torch.arange(len(tokens)), lengths - 1]
                chances = torch.softmax(model.head(last), 1).tolist()
            yield classification_pb2.ClassifyManyResponse(labelled=map(labelled, chances, lengths.tolist()))


def labelled(chances: Sequence[float], tokens: int) -> classification_pb2.LabelledText:
    told = [
        classification_pb2.LabelProbability(label=label, probability=chance)
        for label, chance in zip(LABELS, chances, strict=True)
    ]
    best = max(told, key=lambda one: one.probability)
    return classification_pb2.LabelledText(label=best.label, probabilities=told, tokens=tokens)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onednn", action=argparse.BooleanOptionalAction, default=False)
    torch.backends.mkldnn.set_flags(parser.parse_args().onednn)  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)
    server = grpc.aio.server()
    # It has no more methods than the load asks for.
    classification_pb2_grpc.add_ClassificationServiceServicer_to_server(Classification(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
