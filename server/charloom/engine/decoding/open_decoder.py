"""Opening the decoder of a bundle: the right kind for the device, checked against the manifest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from charloom.bundle import Bundle, BundleError, DecoderKind
from charloom.engine.decoding.decoder import Decoder, Shape
from charloom.engine.decoding.first_steps import in_time
from charloom.engine.decoding.onnx_decoder import OnnxDecoder


def kind_to_open(bundle: Bundle, kind: DecoderKind | None, device: str) -> DecoderKind:
    """Which decoder `open_decoder` opens.

    Raises:
        BundleError: the bundle has none.
    """
    if kind is not None:
        return kind
    if not bundle.manifest.decoders:
        raise BundleError(bundle.path, "it has no decoder", "export it with --decoders")
    return DecoderKind.TORCHSCRIPT if device == "cuda" else bundle.manifest.decoders[0]


def open_decoder(bundle: Bundle, *, kind: DecoderKind | None = None, device: str = "cpu") -> Decoder:
    """The decoder of a bundle.

    Args:
        bundle: a checked bundle
        kind: which decoder; None takes the fastest that the bundle has for the device
        device: "cpu" or "cuda"; on CUDA only TorchScript runs

    Raises:
        BundleError: the bundle lacks the decoder, or the decoder is not the one that the manifest describes.
        BundleStuck: opening it does not come to an end.
    """
    manifest, kind = bundle.manifest, kind_to_open(bundle, kind, device)
    if device == "cuda" and kind is not DecoderKind.TORCHSCRIPT:
        raise BundleError(
            bundle.path, f"{kind.value} does not run on cuda", "use --decoder torchscript or --device cpu"
        )
    path = bundle.decoder_file(kind)
    opened: Callable[[], Decoder]
    if kind is DecoderKind.TORCHSCRIPT:
        opened = _torch_decoder(bundle, device)
    else:
        opened = partial(OnnxDecoder, path, kind.value)
    decoder = in_time(bundle, path.name, "is not a decoder", lambda _: opened())
    cell = manifest.cell
    wanted = Shape(len(cell.arrays), cell.layers, cell.hidden_size, manifest.network_tokens)
    if decoder.shape != wanted:
        raise BundleError(bundle.path, f"the file {path.name} has sizes {decoder.shape}, the manifest {wanted}")
    if decoder.weights_sha256 != manifest.weights_sha256:
        raise BundleError(
            bundle.path, f"the file {path.name} was made from other weights than field weights_sha256 names"
        )
    return decoder


def _torch_decoder(bundle: Bundle, device: str) -> Callable[[], Decoder]:
    """What opens it; torch is imported by then."""
    try:
        import torch
    except ModuleNotFoundError as problem:
        raise BundleError(
            bundle.path, "a TorchScript decoder needs torch, which is not installed", "pip install 'charloom[torch]'"
        ) from problem
    if device == "cuda" and not torch.cuda.is_available():
        raise BundleError(bundle.path, "no CUDA device is available", "use --device cpu")
    path = bundle.decoder_file(DecoderKind.TORCHSCRIPT)
    if device == "cuda":
        from charloom.engine.decoding.device_decoder import DeviceDecoder

        return partial(DeviceDecoder, path, device)
    from charloom.engine.decoding.torch_decoder import TorchDecoder

    return partial(TorchDecoder, path)
