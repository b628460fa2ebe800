"""Checkpoints: bit-exact, told from damaged and foreign files, and whole at any moment."""

import os
import random
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from polystep_rl.records import checkpoint
from polystep_rl.records.checkpoint import CheckpointError, load_tree, read_meta, save_tree

DTYPES = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
    "bfloat16", "complex64", "float8_e4m3fn",
]  # fmt: skip


class State(NamedTuple):
    key: jax.Array
    params: dict
    count: jax.Array
    extra: tuple


def make_state(seed: int = 0) -> State:
    weights = jax.random.normal(jax.random.key(seed), (5, 3))
    params = {"w": weights, "b": weights[0].astype(jnp.bfloat16), "mask": weights > 0}
    return State(jax.random.key(seed), params, jnp.int32(seed), (seed, 0.1 + seed, True, None, np.float64(seed)))


def leaves(tree):
    """Every leaf as (type, dtype, shape, bytes), to compare bit for bit."""

    def flat(leaf):
        if hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return str(leaf.dtype), leaf.shape, np.asarray(jax.random.key_data(leaf)).tobytes()
        array = np.asarray(leaf)
        return isinstance(leaf, jax.Array), type(leaf).__name__, array.dtype, array.shape, array.tobytes()

    found, treedef = jax.tree_util.tree_flatten(tree)
    return [flat(leaf) for leaf in found], treedef


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_leaf_is_bit_exact(tmp_path, dtype, shape):
    dtype = jnp.dtype(dtype)
    raw = np.random.default_rng(0).bytes(int(np.prod(shape)) * dtype.itemsize)  # NaN payloads and -0 as well
    array = np.frombuffer(raw, np.uint8 if dtype.kind == "b" else dtype)
    array = (array % 2).astype(bool).reshape(shape) if dtype.kind == "b" else array.reshape(shape)
    save_tree(tmp_path / "c", {"x": array}, {})
    loaded, _ = load_tree(tmp_path / "c", {"x": np.zeros(shape, dtype)})
    assert type(loaded["x"]) is np.ndarray
    assert (loaded["x"].dtype, loaded["x"].shape) == (dtype, shape)
    assert loaded["x"].tobytes() == array.tobytes()


@pytest.mark.parametrize("x64", [False, True])
def test_jax_state_is_bit_exact(tmp_path, x64):
    with jax.enable_x64(x64):
        state = make_state(3)
        save_tree(tmp_path / "c", state, {"generation": 3, "note": "é", "best": np.float32(0.1)})
        loaded, meta = load_tree(tmp_path / "c", make_state(4))
        assert leaves(loaded) == leaves(state)
        assert state.params["w"].dtype == (jnp.float64 if x64 else jnp.float32)
    assert meta == {"generation": 3, "note": "é", "best": float(np.float32(0.1))}
    assert read_meta(tmp_path / "c") == meta


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_draw_the_same_numbers(tmp_path, impl):
    keys = jax.random.split(jax.random.key(1, impl=impl), 4)
    save_tree(tmp_path / "c", keys, {})
    loaded, _ = load_tree(tmp_path / "c", keys)
    assert (jax.random.bits(loaded[2], (8,)) == jax.random.bits(keys[2], (8,))).all()
    assert jax.random.key_impl(loaded) == impl


def test_python_scalars_keep_type_and_value(tmp_path):
    values = [2**100, -1, float("inf"), -0.0, 0.1, True, False]
    save_tree(tmp_path / "c", values, {})
    loaded, _ = load_tree(tmp_path / "c", [0, 0, 0.0, 0.0, 0.0, False, False])
    assert [(type(v), repr(v)) for v in loaded] == [(type(v), repr(v)) for v in values]


def test_odd_layouts_and_weak_types(tmp_path):
    tree = {"t": np.arange(6.0).reshape(2, 3).T, "be": np.arange(3, dtype=">i4"), "weak": jnp.asarray(1.5)}
    assert tree["weak"].weak_type
    save_tree(tmp_path / "c", tree, {})
    loaded, _ = load_tree(tmp_path / "c", tree)
    np.testing.assert_array_equal(loaded["t"], tree["t"])
    np.testing.assert_array_equal(loaded["be"], tree["be"])
    assert loaded["weak"].weak_type


def test_shape_structs_are_a_template(tmp_path):
    tree = {"k": jax.random.key(0), "x": jnp.arange(3)}
    save_tree(tmp_path / "c", tree, {})
    loaded, _ = load_tree(tmp_path / "c", jax.eval_shape(lambda: tree))
    assert leaves(loaded) == leaves(tree)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"x": np.zeros(3, np.float32)}, "unexpected leaf \"['y']\""),
        ({"x": np.zeros(3, np.float32), "y": 0, "z": 0}, "no leaf \"['z']\""),
        ({"x": np.zeros((3, 1), np.float32), "y": 0}, "shape [3], expected [3, 1]"),
        ({"x": np.zeros(3, np.float64), "y": 0}, "dtype float32, expected float64"),
        ({"x": np.zeros(3, np.float32), "y": 0.0}, "kind int, expected float"),
        ({"x": [np.zeros(3, np.float32)], "y": 0}, "no leaf"),
    ],
)
def test_template_mismatch_is_named(tmp_path, template, words):
    save_tree(tmp_path / "c", {"x": np.zeros(3, np.float32), "y": 1}, {})
    assert_one_line_error(tmp_path / "c", template, words)


def assert_one_line_error(path, template, words):
    with pytest.raises(CheckpointError) as caught:
        load_tree(path, template)
    message = str(caught.value)
    assert words in message and str(path) in message and "\n" not in message


def test_missing_and_foreign_files(tmp_path):
    foreign = tmp_path / "foreign"
    assert_one_line_error(foreign, {}, "cannot be read (No such file")
    assert_one_line_error(tmp_path, {}, "cannot be read (Is a directory")
    for content in (b"", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(99), b"x" * 999, b"\x02" + bytes(7) + b"[]"):
        foreign.write_bytes(content)
        assert_one_line_error(foreign, {}, "not a checkpoint")
    foreign.write_bytes(safetensors.numpy.save({"x": np.zeros(2)}, {"polystep_rl": "[]", "sha256": ""}))
    assert_one_line_error(foreign, {}, "not a checkpoint")
    depth = b'{"__metadata__":' + b"[" * 100_000
    foreign.write_bytes(len(depth).to_bytes(8, "little") + depth)
    assert_one_line_error(foreign, {}, "not a checkpoint")


def test_a_newer_format_is_named(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT_VERSION", 99)
        save_tree(tmp_path / "c", {}, {})
    assert_one_line_error(tmp_path / "c", {}, "format version 99")


def test_what_cannot_be_saved_is_refused(tmp_path):
    for tree, meta in (({"x": "text"}, {}), ({"x": np.array([object()])}, {}), ({}, {"x": object()})):
        with pytest.raises(TypeError):
            save_tree(tmp_path / "c", tree, meta)
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_tree(tmp_path / "missing" / "c", {}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    save_tree(tmp_path / "c", {"x": 1}, {})

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save_tree(tmp_path / "c", {"x": 2}, {})
    assert load_tree(tmp_path / "c", {"x": 0})[0] == {"x": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


def test_fuzzed_files_load_right_or_not_at_all(tmp_path):
    state, file = make_state(7), tmp_path / "c"
    save_tree(file, state, {"generation": 7})
    good, expected, template = file.read_bytes(), leaves(state), make_state(8)
    rng, failures = random.Random(0), 0
    header = 8 + int.from_bytes(good[:8], "little")
    for trial in range(800):
        data = bytearray(good)
        kind = trial % 4
        if kind == 0:
            data = data[: rng.randrange(len(data))]
        elif kind == 1:
            for _ in range(rng.choice([1, 1, 2, 8])):
                data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == 2:  # the header alone, where the parsers are
            data[rng.randrange(header)] = rng.choice(b'0123456789"{}[],: \\x\xff')
        else:
            start = rng.randrange(len(data))
            data[start : start + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
        file.write_bytes(data)
        try:
            loaded, meta = load_tree(file, template)
        except CheckpointError as error:
            failures += 1
            assert "\n" not in str(error)
        else:
            assert leaves(loaded) == expected and meta == {"generation": 7}
    assert failures > 700


WRITER = """
import sys
import numpy as np
from polystep_rl.records.checkpoint import save_tree
for count in range(10**9):
    save_tree(sys.argv[1], {"x": np.full(200_000, count, np.int64), "count": count}, {"count": count})
    print(count, flush=True)
"""


def test_sigkill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    file, rng, last = tmp_path / "c", random.Random(1), -1
    template = {"x": np.zeros(200_000, np.int64), "count": 0}
    for _ in range(6):
        environment = os.environ | {"PYTHONSAFEPATH": "1"}
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True, env=environment
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(rng.uniform(0, 0.15))
            writer.send_signal(signal.SIGKILL)
            announced = writer.stdout.read().split()
        tree, meta = load_tree(file, template)
        assert (tree["x"] == meta["count"]).all() and tree["count"] == meta["count"]
        assert meta["count"] >= max([int(word) for word in announced], default=0)
        last = max(last, meta["count"])
    assert last > 0  # it got past the first save
