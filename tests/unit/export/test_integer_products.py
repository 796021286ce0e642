"""The products of the int8 decoder are exact integers on whichever processor the tests run.

onnxruntime takes its kernels from the processor, and has no switch for another choice. On x86 without VNNI the kernel
adds pairs of products in 16 bits. There, these tests fail with weights of 8 bits; in an emulator of such a processor
(`qemu-x86_64 -cpu Haswell`) that can be seen on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from charloom.bundle import Bundle, DecoderKind
from charloom.export.graph import FLOAT
from charloom.export.network_graph import NetworkGraph
from charloom.export.quantize import ACTIVATION_SCALE, ACTIVATION_ZERO_POINT, WEIGHT_LIMIT, quantize_columns
from charloom.export.weights import decoder_weights
from charloom.network.cells.cell import Matrix
from tests.unit.export.decoder_calls import random_model

Integers = NDArray[np.int64]
ROWS = (1, 2, 3, 4, 5, 7, 8, 16, 17, 64, 256)
"""Kernels are chosen by the number of rows too."""


class Product(NetworkGraph):
    """The graph of one product of the decoder, from h to what is added to a bias."""

    def __init__(self, matrix: Matrix) -> None:
        super().__init__(decoder_weights(random_model(1)), int8=True)
        product = self.product(self._activation("h"), "weights", matrix)
        values = [("h", FLOAT, ["rows", matrix.shape[0]])], [(product, FLOAT, ["rows", matrix.shape[1]])]
        self.model = self._finished("product", *values, metadata={})

    def session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        content = self.model.SerializeToString()
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def assert_exact(matrix: Matrix, activations: Integers) -> None:
    """The decoder's product of h = activations / 127, [rows, n], with a matrix is that of the integers, bit for bit."""
    session = Product(matrix).session()
    integers, scales = quantize_columns(matrix)
    sums = (activations.astype(np.float64) @ integers).astype(np.float32)  # all of them are integers of 24 bits
    expected = sums * (scales * np.float32(ACTIVATION_SCALE))
    h = (activations / 127).astype(np.float32)
    for rows in ROWS:
        (found,) = session.run(None, {"h": h[:rows]})
        assert np.array_equal(found, expected[:rows]), rows


def patterns(size: int) -> Integers:
    """Activations [256, size] that are all as large as can be: of one sign, and of both."""
    signs = np.random.default_rng(size).choice([-1, 1], (max(ROWS), size))
    signs[0] = 1
    signs[1] = -1
    signs[2, ::2], signs[2, 1::2] = 1, -1
    signs[3] = np.where(np.arange(size) // 2 % 2, 1, -1)
    return 127 * signs


@pytest.mark.parametrize("columns", [1, 17, 96, 2048])
@pytest.mark.parametrize("size", [1, 2, 3, 24, 512, 1024])
def test_the_largest_activations_times_the_largest_weights_are_exact(size: int, columns: int) -> None:
    """No pair of products is larger than these. A zero point that is taken off later leaves 255 * 63 for each."""
    weights = WEIGHT_LIMIT * np.random.default_rng(columns).choice([-1, 1], (size, columns))
    weights[:, 0] = WEIGHT_LIMIT
    weights[:, -1] = -WEIGHT_LIMIT
    assert_exact(weights.astype(np.float32), patterns(size))


def initializers(graph: onnx.GraphProto) -> Iterator[tuple[str, NDArray[np.int8]]]:
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8:
            yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from initializers(attribute.g)


@pytest.mark.parametrize("file", [DecoderKind.ONNX_INT8.file, "inspector.onnx"])
def test_no_sum_of_two_products_in_a_bundle_can_saturate(file: str, bundle: Bundle) -> None:
    """For every pair of weights that may meet in one addition, whatever the activations are."""
    found = dict(initializers(onnx.load(bundle.path / file).graph))
    layers = bundle.manifest.cell.layers
    assert len(found) == layers + 1
    largest_activation = 127 + ACTIVATION_ZERO_POINT
    for name, weights in found.items():
        assert weights.shape[0] in (48, 96), name
        column = np.sort(np.abs(weights.astype(np.int64)), axis=0)
        assert (largest_activation * column[-2:].sum(axis=0)).max() < 2**15, name


def test_the_products_of_a_bundle_are_exact(bundle: Bundle) -> None:
    for weights in dict(initializers(onnx.load(bundle.path / DecoderKind.ONNX_INT8.file).graph)).values():
        assert_exact(weights.astype(np.float32), patterns(len(weights)))
