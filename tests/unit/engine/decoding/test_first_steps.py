"""What is refused before a model is served: graphs that fail, that are other than they say, that do not end."""

from __future__ import annotations

import io
import struct
import threading
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto

from charloom.bundle import Bundle, BundleError, DecoderKind, read_bundle
from charloom.engine.decoding import first_steps as module
from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs
from charloom.engine.decoding.first_steps import BundleStuck, check_outputs, first_steps, in_time
from charloom.engine.decoding.inspector import check_inspector
from charloom.engine.decoding.invariance import plain_inputs
from charloom.engine.decoding.onnx_file import check_whole
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.engine.decoding.torch_decoder import _checked
from charloom.engine.engine import Engine
from tests.unit.bundle import hostile_graphs
from tests.unit.bundle.bundle_files import replace_file
from tests.unit.bundle.hostile_graphs import Tamper, tamper
from tests.waiting import eventually

Copied = Callable[[], Path]
ELSEWHERE = pytest.mark.parametrize(
    "change", [hostile_graphs.numbers_elsewhere, hostile_graphs.numbers_of_a_body_elsewhere]
)


@ELSEWHERE
@pytest.mark.parametrize("name", ["decoder.onnx", "decoder.int8.onnx", "inspector.onnx"])
def test_numbers_in_another_file_are_refused_though_the_file_is_there(
    name: str, change: Tamper, copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied()
    tamper(path, name, change)
    (path / hostile_graphs.SIDE_FILE).write_bytes(bytes(2**20))
    monkeypatch.chdir(path)  # where ONNX Runtime would look for it if it had the graph as bytes
    kind = next((kind for kind in DecoderKind if kind.file == name), None)
    opened = partial(open_decoder, kind=kind) if kind else check_inspector
    with pytest.raises(BundleError, match=f"the file {name} is not .*numbers are in another file, which no hash cover"):
        opened(read_bundle(path))


def test_a_place_written_in_ten_bytes_is_one_all_the_same(tmp_path: Path) -> None:
    graph = onnx.ModelProto()
    tensor = graph.graph.initializer.add(name="w")
    place = b"\x70" + b"\x81" + b"\x80" * 8 + b"\x00"  # field 14, the value 1 with zeros in front
    inner = tensor.SerializeToString() + place
    outer = b"\x2a" + bytes([len(inner)]) + inner
    (tmp_path / "graph").write_bytes(b"\x3a" + bytes([len(outer)]) + outer)
    with pytest.raises(ValueError, match="in another file"):
        check_whole(tmp_path / "graph")


def test_a_place_in_a_field_whose_number_is_cut_down_by_onnx_runtime_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime reads 32 bits of a tag, here those of field 13 or 14 without what is above them."""

    def cut(field: int, wire_type: int) -> bytes:
        return bytes([field << 3 | wire_type | 0x80, 0x80, 0x80, 0x80, 0x10])

    def message(tag: bytes, content: bytes) -> bytes:
        return tag + bytes([len(content)]) + content

    (tmp_path / hostile_graphs.SIDE_FILE).write_bytes(np.arange(4, dtype=np.float32).tobytes())
    value = onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [], [value])
    place = onnx.StringStringEntryProto(key="location", value=hostile_graphs.SIDE_FILE).SerializeToString()
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4]).SerializeToString()
    tensor += message(cut(13, 2), place) + cut(14, 0) + bytes([TensorProto.EXTERNAL])
    model = onnx.ModelProto(ir_version=8, opset_import=[onnx.helper.make_opsetid("", 17)]).SerializeToString()
    path = tmp_path / "decoder.onnx"
    path.write_bytes(model + message(b"\x3a", graph.SerializeToString() + message(b"\x2a", tensor)))
    assert onnxruntime.InferenceSession(path).run(None, {})[0].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="more than 29 bits"):
        check_whole(path)


@pytest.mark.parametrize("content", [b"\xff" * 11, b"\x3a\x7f", b"\x0b", b"\x08", b"no graph"])
def test_bytes_that_are_no_message_are_no_graph(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "graph").write_bytes(content)
    with pytest.raises(ValueError, match="it is no ONNX file"):
        check_whole(tmp_path / "graph")


@pytest.mark.parametrize("name", ["decoder.onnx", "decoder.int8.onnx", "inspector.onnx"])
def test_a_graph_with_all_of_its_numbers_is_whole(name: str, bundle: Bundle) -> None:
    check_whole(bundle.path / name)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (hostile_graphs.terabytes_told, "is not a decoder: its output tokens has sizes [1048576, 1048576]"),
        (hostile_graphs.terabytes_when_opened, "is not a decoder: "),
        (hostile_graphs.terabytes_when_run, "fails in its first steps: "),
        (hostile_graphs.turned_over, "fails in its first steps: its output logprob has size (1, 8)"),
        (hostile_graphs.foreign_tokens, "fails in its first steps: it writes tokens outside of its "),
    ],
)
def test_a_decoder_that_does_other_than_the_contract_is_refused_by_name(
    change: Tamper, problem: str, copied: Copied
) -> None:
    path = copied()
    tamper(path, "decoder.onnx", change)
    bundle = read_bundle(path)
    with pytest.raises(BundleError) as caught:
        first_steps(bundle, open_decoder(bundle, kind=DecoderKind.ONNX_FP32), 4)
    assert caught.value.problem.startswith(f"the file decoder.onnx {problem}")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (hostile_graphs.terabytes_when_opened, "has sizes Shape("),
        (hostile_graphs.terabytes_when_run, "has sizes Shape("),
        (hostile_graphs.gates_twice, "is not an inspector: its outputs have sizes [(2, "),
    ],
)
async def test_an_engine_takes_no_bundle_whose_inspector_does_other_than_the_manifest_says(
    change: Tamper, problem: str, decoder: Decoder, copied: Copied
) -> None:
    path = copied()
    tamper(path, "inspector.onnx", change)
    with pytest.raises(BundleError) as caught:
        Engine([(read_bundle(path), decoder)])
    assert caught.value.problem.startswith(f"the file inspector.onnx {problem}")


class Late:
    """A decoder whose calls from some number of rows on wait until they are let go."""

    def __init__(self, decoder: Decoder, rows: int) -> None:
        self._decoder, self._rows = decoder, rows
        self.shape, self.kind, self.device = decoder.shape, decoder.kind, decoder.device
        self.weights_sha256, self.lacks, self.state_pool = decoder.weights_sha256, decoder.lacks, decoder.state_pool
        self.go = threading.Event()

    def run(self, inputs: Inputs) -> Outputs:
        if len(inputs.token) >= self._rows:
            self.go.wait(60)
        return self._decoder.run(inputs)


@pytest.mark.parametrize("rows", [1, 16])
def test_a_decoder_that_does_not_end_is_told_in_time(
    rows: int, bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 1.0)
    monkeypatch.setattr(module, "SECONDS_PER_STEP", 0.001)
    late = Late(decoder, rows)
    began = time.monotonic()
    with pytest.raises(BundleStuck, match=r"the file decoder\.int8\.onnx did not come to an end within 1\.\d* s; exp"):
        first_steps(bundle, late, 4)
    assert time.monotonic() - began < 30
    late.go.set()


def test_each_piece_of_work_has_its_own_time(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    now, looks = 0.0, 0

    class Looked(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            nonlocal looks
            looks += 1
            super().join(0.01)

    def work(allow: module.Allow) -> str:
        nonlocal now
        for _ in range(4):
            allow(60.0)
            now += 40.0
            before = looks
            eventually(lambda before=before: looks > before + 1)  # type: ignore[misc]
        return "done"

    monkeypatch.setattr(module, "threading", SimpleNamespace(Thread=Looked))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))

    assert in_time(bundle, "decoder.onnx", "fails", work) == "done"


def test_an_error_of_any_kind_becomes_one_that_names_the_file(bundle: Bundle) -> None:
    def work(_: module.Allow) -> None:
        raise MemoryError

    with pytest.raises(BundleError, match=r"the file decoder\.onnx fails: MemoryError; export the bundle again"):
        in_time(bundle, "decoder.onnx", "fails", work)


def test_outputs_that_fit_are_taken(decoder: Decoder) -> None:
    inputs = plain_inputs(decoder, 3, 2)
    check_outputs(decoder.run(inputs), 2, 3, decoder.shape)


class FromAnotherFile(torch.nn.Module):
    """Reads numbers when it is loaded."""

    @torch.jit.export
    def __getstate__(self) -> bool:
        return self.training

    @torch.jit.export
    def __setstate__(self, training: bool) -> None:
        self.training = training and bool((torch.from_file("numbers.bin", shared=True, size=4) == 0).all())

    def forward(self, token: torch.Tensor) -> torch.Tensor:
        return token


def test_a_module_whose_code_could_use_other_files_is_not_loaded(
    copied: Copied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.script(FromAnotherFile()), tmp_path / "module.ts")
    path = copied()
    replace_file(path, "decoder.ts", (tmp_path / "module.ts").read_bytes())
    with pytest.raises(
        BundleError, match=r"the file decoder\.ts is not a decoder: its code .* has the name 'from_file'"
    ):
        open_decoder(read_bundle(path), kind=DecoderKind.TORCHSCRIPT)
    assert not (tmp_path / "numbers.bin").exists()
    torch.jit.load(tmp_path / "module.ts")
    assert (tmp_path / "numbers.bin").exists()  # what loading would have done


def repacked(module: torch.nn.Module, suffix: str = ".py") -> bytes:
    """The archive of a module, with another suffix of its code."""
    written, again = io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.script(module), written)
    with zipfile.ZipFile(written) as before, zipfile.ZipFile(again, "w") as after:
        for entry in before.infolist():
            name = entry.filename
            after.writestr(name.removesuffix(".py") + suffix if name.endswith(".py") else name, before.read(entry))
    return again.getvalue()


def test_code_under_a_name_that_only_torch_takes_for_code_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "decoder.ts"
    path.write_bytes(repacked(FromAnotherFile(), ".PY"))
    with pytest.raises(ValueError, match=r"an entry '.*\.PY', which torch does not write"):
        _checked(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/data.pkl", "a/code/a.py", "A/code/a.py"):
            archive.writestr(name, b"")
    with pytest.raises(ValueError, match="differ only in case"):
        _checked(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(2**26))
    with pytest.raises(ValueError, match="more unpacked than packed"):
        _checked(path)


class Same(torch.nn.Module):
    """Does nothing."""

    def forward(self, token: torch.Tensor) -> torch.Tensor:
        return token


class ReadsAFile(torch.nn.Module):
    """Reads another file when it runs."""

    def forward(self, token: torch.Tensor) -> torch.Tensor:
        return torch.from_file("numbers.bin", shared=True, size=4)


def test_of_two_directories_the_one_that_was_looked_at_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python takes the directory before the archive's end; torch the one at the offset that the end tells."""
    monkeypatch.chdir(tmp_path)

    def parts(module: torch.nn.Module) -> tuple[bytes, bytes, bytes]:
        content = repacked(module)
        end = content.rindex(b"PK\5\6")
        size, offset = struct.unpack_from("<II", content, end + 12)
        return content[:offset], content[offset : offset + size], content[end:]

    def lengthened(directory: bytes, size: int) -> bytearray:
        """With a comment of its last entry."""
        longer = bytearray(directory.ljust(size))
        struct.pack_into("<H", longer, directory.rindex(b"PK\1\2") + 32, size - len(directory))
        return longer

    (bad, bad_directory, end), (good, good_directory, _) = parts(ReadsAFile()), parts(Same())
    size = max(len(bad_directory), len(good_directory))
    directory, at = lengthened(good_directory, size), 0
    while directory[at : at + 4] == b"PK\1\2":  # Python adds to an offset what is before the archive
        lengths = struct.unpack_from("<HHH", directory, at + 28)
        (offset,) = struct.unpack_from("<I", directory, at + 42)
        struct.pack_into("<I", directory, at + 42, (offset + len(bad) - len(good)) % 2**32)
        at += 46 + sum(lengths)
    last = bytearray(end)
    struct.pack_into("<II", last, 12, size, len(bad))
    path = tmp_path / "decoder.ts"
    path.write_bytes(bad + lengthened(bad_directory, size) + good + directory + last)
    token = torch.ones(4)
    torch.jit.load(path)(token)
    assert (tmp_path / "numbers.bin").exists()  # what torch takes
    assert torch.equal(torch.jit.load(_checked(path))(token), token)
