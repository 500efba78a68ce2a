"""Checkpoints: what is read equals what was written, and what cannot be trusted is named and refused."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio import fingerprint as fingerprints
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError
from studio.shards import ShardWriter


def _tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(5, 7, generator=draw).bfloat16(),
        "b": torch.randn(3, generator=draw),
        "count": torch.tensor(4),
        "empty": torch.zeros(0, 4),
        "eight": torch.randn(4, 4, generator=draw).to(torch.float8_e4m3fn),
        "flags": torch.tensor([True, False, True]),
    }


def _same(one: Tensor, two: Tensor) -> bool:
    return one.dtype == two.dtype and one.shape == two.shape and torch.equal(one.double(), two.double())


def _save(folder: Path, tensors: dict[str, Tensor] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors or _tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _raw(folder: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = struct.pack("<Q", len(text) if length is None else length)
    (folder / "model.safetensors").write_bytes(size + text + data)
    return folder


def _entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_every_tensor_is_read_with_its_name_shape_type_and_values(tmp_path: Path) -> None:
    found, tensors = Checkpoint(_save(tmp_path)), _tensors()
    assert set(found.names()) == set(tensors)
    assert found.metadata == {"format": "pt"}
    for name, tensor in tensors.items():
        assert _same(found.read(name), tensor)
        assert found.shape(name) == tuple(tensor.shape)
        assert found.dtype(name) == tensor.dtype


def test_rows_and_flat_ranges_are_slices_of_the_whole(tmp_path: Path) -> None:
    found, whole = Checkpoint(_save(tmp_path)), _tensors()["a.weight"]
    assert torch.equal(found.read("a.weight", rows=(1, 3)), whole[1:3])
    assert torch.equal(found.read_flat("a.weight", 6, 20), whole.flatten()[6:20])
    with pytest.raises(CheckpointError, match=r"has no rows 3\.\.9"):
        found.read("a.weight", rows=(3, 9))


def test_an_unknown_tensor_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"did you mean 'a.weight'\?"):
        Checkpoint(_save(tmp_path)).read("a.wieght")


def test_written_shards_are_read_by_safetensors_and_by_us(tmp_path: Path) -> None:
    tensors = _tensors()
    kinds = {n: Checkpoint(_save(tmp_path / "one")).entry(n).kind for n in tensors}
    layout = [(n, kinds[n], tuple(t.shape)) for n, t in tensors.items()]
    (tmp_path / "many").mkdir()
    with ShardWriter(tmp_path / "many", layout, shard_size=64) as writer:
        for name, tensor in reversed(tensors.items()):
            flat = tensor.reshape(-1)
            writer.write_flat(name, 0, flat[: len(flat) // 2])
            writer.write_flat(name, len(flat) // 2, flat[len(flat) // 2 :])
    assert len(writer.files) > 1
    theirs = {n: t for file in writer.files for n, t in load_file(file).items()}
    ours = Checkpoint(tmp_path / "many")
    assert ours.names() == tuple(tensors)
    for name, tensor in tensors.items():
        assert _same(theirs[name], tensor)
        assert _same(ours.read(name), tensor)


def test_the_fingerprint_names_the_values_and_survives_resharding(tmp_path: Path) -> None:
    one = Checkpoint(_save(tmp_path / "one"))
    (tmp_path / "two").mkdir()
    layout = [(n, one.entry(n).kind, one.shape(n)) for n in one.names()]
    with ShardWriter(tmp_path / "two", layout, shard_size=32, metadata={"other": "x"}) as writer:
        for name in one.names():
            writer.write(name, one.read(name))
    assert Checkpoint(tmp_path / "two").fingerprint() == one.fingerprint()
    changed = _tensors()
    changed["b"][0] += 1
    assert Checkpoint(_save(tmp_path / "three", changed)).fingerprint() != one.fingerprint()


def test_a_file_changed_in_place_has_another_fingerprint(tmp_path: Path) -> None:
    before = Checkpoint(_save(tmp_path)).fingerprint()
    changed = _tensors()
    changed["b"][0] += 1
    assert Checkpoint(_save(tmp_path, changed)).fingerprint() != before


def test_companions_are_all_files_but_weights(tmp_path: Path) -> None:
    _save(tmp_path)
    for name in (
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "extra/added.txt",
        "pytorch_model.bin",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    names = [str(name) for name in Checkpoint(tmp_path).companions()]
    assert names == ["chat_template.jinja", "config.json", "extra/added.txt", "tokenizer.json"]


def test_pickle_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=r"only pickle weights \(pytorch_model.bin\)"):
        Checkpoint(tmp_path)


def test_a_folder_without_weights_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no safetensors weights"):
        Checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="is not a folder"):
        Checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 4, 12, 200, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    file = _save(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"no whole safetensors file|is truncated"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("header", "data", "why"),
    [
        (b"{not json", b"", "no valid JSON"),
        (b"[]", b"", "no JSON object"),
        (b'{"a": 1}', b"", "'a' has no description"),
        (b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{}}', b"", "'a' appears twice"),
        ({"a": _entry(dtype="F99")}, b"\0" * 4, "unknown type 'F99'"),
        ({"a": _entry(shape=(-1,))}, b"\0" * 4, "has the shape"),
        ({"a": _entry(shape=(True,))}, b"\0" * 4, "has the shape"),
        ({"a": _entry(shape=(2**40, 2**40))}, b"\0" * 4, "offsets 0..4 say otherwise"),
        ({"a": _entry(offsets=(0, 4, 8))}, b"\0" * 4, "two whole numbers"),
        ({"a": _entry(offsets=(4, 0))}, b"\0" * 4, "say otherwise"),
        ({"a": _entry(offsets=(-4, 0))}, b"\0" * 4, "say otherwise"),
        ({"a": _entry(offsets=(4, 8))}, b"\0" * 8, "leaves a hole"),
        ({"a": _entry(), "b": _entry()}, b"\0" * 4, "overlaps"),
        ({"a": _entry()}, b"\0" * 9, "bytes that no tensor owns"),
        ({"a": _entry()}, b"\0" * 2, "is truncated"),
        ({"__metadata__": {"a": 1}}, b"", "must map strings to strings"),
        (b"[" * 100_000, b"", "no valid JSON"),
    ],
)
def test_a_malicious_header_is_refused(tmp_path: Path, header: Any, data: bytes, why: str) -> None:
    with pytest.raises(CheckpointError, match=why):
        Checkpoint(_raw(tmp_path, header, data))


def test_a_header_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no whole safetensors file"):
        Checkpoint(_raw(tmp_path, {}, length=1 << 60))


def _index(folder: Path, mapping: Any) -> Path:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    return folder


@pytest.mark.parametrize(
    ("shard", "why"),
    [
        ("../part.safetensors", "must be|is a .safetensors file in the folder"),
        ("/etc/part.safetensors", "in the folder"),
        ("sub/../../part.safetensors", "in the folder"),
        ("model.safetensors.index.json", "in the folder"),
        ("part.bin", "in the folder"),
        ("gone.safetensors", "is missing"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path, shard: str, why: str) -> None:
    _index(_save(tmp_path / "model"), {"b": shard})
    shutil.copy(tmp_path / "model/part.safetensors", tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=why):
        Checkpoint(tmp_path / "model")


def test_an_index_that_promises_what_a_shard_lacks_is_refused(tmp_path: Path) -> None:
    _index(_save(tmp_path), {"b": "part.safetensors", "missing": "part.safetensors"})
    with pytest.raises(CheckpointError, match="promises the tensor 'missing'"):
        Checkpoint(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    _index(_save(tmp_path), {"b": "part.safetensors", "a.weight": "twin.safetensors"})
    shutil.copy(tmp_path / "part.safetensors", tmp_path / "twin.safetensors")
    with pytest.raises(CheckpointError, match="both hold the tensor"):
        Checkpoint(tmp_path)


def test_tensors_that_the_index_forgot_are_still_there(tmp_path: Path) -> None:
    _index(_save(tmp_path), {"b": "part.safetensors"})
    assert "a.weight" in Checkpoint(tmp_path)


def test_a_large_model_that_was_left_alone_is_known_from_an_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("studio.fingerprint.WORTH_KEEPING", 100)
    monkeypatch.setattr("studio.fingerprint.SETTLED", 0)
    folder = _save(tmp_path / "model")
    first = Checkpoint(folder).fingerprint()
    reads: list[str] = []
    digest = fingerprints.tensor_digest
    monkeypatch.setattr(fingerprints, "tensor_digest", lambda e: reads.append(e.name) or digest(e))
    monkeypatch.setattr(fingerprints, "_known", {})  # as a new process finds it
    assert Checkpoint(folder).fingerprint() == first
    assert not reads
    assert Checkpoint(folder).fingerprint(fresh=True) == first
    assert reads


def test_a_file_changed_within_a_moment_is_not_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("studio.fingerprint.WORTH_KEEPING", 100)
    folder = _save(tmp_path / "model")
    Checkpoint(folder).fingerprint()
    assert not (tmp_path / "cache").exists()


def test_a_writer_knows_the_digests_of_what_it_wrote_front_to_back(tmp_path: Path) -> None:
    tensors = [(name, "F32", (6, 4)) for name in ("forward", "backward", "half")]
    values = torch.arange(24, dtype=torch.float32)
    with ShardWriter(tmp_path, tensors, hashed=True) as writer:
        for begin in (0, 8, 16):
            writer.write_flat("forward", begin, values[begin : begin + 8])
        for begin in (16, 8, 0):
            writer.write_flat("backward", begin, values[begin : begin + 8])
        writer.write_flat("half", 0, values[:12])
        assert set(writer.digests) == {"forward"}
        writer.write_flat("half", 12, values[12:])
        known = writer.digests
    made = Checkpoint(tmp_path)
    assert known == {name: fingerprints.tensor_digest(made.entry(name)) for name in ("forward", "half")}
    assert fingerprints.fingerprint(made.files, known=known) == made.fingerprint()
    assert fingerprints.fingerprint(made.files, known={**known, "half": bytes(32)}) != made.fingerprint()
