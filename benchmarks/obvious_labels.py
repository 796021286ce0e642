"""The obvious server of labels, to compare with: grpc.aio, and for each call one run of `nn.LSTM` over its text.

It is tuned: one thread, inference mode, no padding, and oneDNN on or off, as `--onednn` says. It speaks Classify of
`charloom.v1`. Started as `python -m benchmarks.obvious_labels`, it prints its address.
"""

from __future__ import annotations

import argparse
import asyncio
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
        told = [
            classification_pb2.LabelProbability(label=label, probability=chance)
            for label, chance in zip(LABELS, chances, strict=True)
        ]
        best = max(told, key=lambda one: one.probability)
        labelled = classification_pb2.LabelledText(label=best.label, probabilities=told, tokens=tokens.shape[1])
        return classification_pb2.ClassifyResponse(labelled=labelled)


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
