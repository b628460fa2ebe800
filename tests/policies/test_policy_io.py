"""Policy files: a round trip is exact, a save is atomic, and damage is one line, never a crash or a wrong policy."""

import json
import os

import jax
import numpy as np
import pytest
import safetensors.numpy
from support.policies import observations, random_policy

from polystep_rl.policies import PRECISIONS, PolicyFileError, io, mlp_policy, read_policy, save_policy

META = {"env": "CartPole-v1", "seed": 3, "return": 500.0, "nan": float("nan"), "array": np.arange(2)}


def same(saved, policy, params):
    equal = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), saved.params, params)
    return saved.spec == policy.spec and jax.tree.all(equal)


def refused(path):
    with pytest.raises(PolicyFileError) as caught:
        read_policy(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 400
    return str(caught.value)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_round_trip(tmp_path, precision):
    policy, params = random_policy(0, precision, (16, 3), "box")
    stem = save_policy(tmp_path, policy.spec, params, META)
    assert stem == tmp_path / "policy" and sorted(os.listdir(tmp_path)) == ["policy.json", "policy.safetensors"]
    for path in (tmp_path, stem, tmp_path / "policy.json", tmp_path / "policy.safetensors"):
        saved = read_policy(path)
        assert same(saved, policy, params)
    assert saved.meta == {"env": "CartPole-v1", "seed": 3, "return": 500.0, "nan": None, "array": [0, 1]}
    obs, again = observations(policy.spec, 500).T, mlp_policy(saved.spec)
    one, two = (p.act_deployed(p.deploy(q), obs) for p, q in ((policy, params), (again, saved.params)))
    np.testing.assert_array_equal(one, two)


def test_files_from_before_the_optional_fields_load_with_their_defaults(tmp_path):
    policy, params = random_policy(0, "int8", (4,))
    save_policy(tmp_path, policy.spec, params, {})
    document = json.loads((tmp_path / "policy.json").read_text())
    for name in ("groups", "activation", "squash"):
        del document["spec"][name]
    document["sha256"] = io._document_digest(document)
    (tmp_path / "policy.json").write_text(json.dumps(document))
    assert same(read_policy(tmp_path), policy, params)
    del document["spec"]["head"]
    document["sha256"] = io._document_digest(document)
    (tmp_path / "policy.json").write_text(json.dumps(document))
    assert "the spec must have the fields" in refused(tmp_path)


@pytest.mark.parametrize("precision, head", [("int8", "multidiscrete"), ("float32", "box")])
def test_the_optional_fields_make_the_round_trip(tmp_path, precision, head):
    policy, params = random_policy(0, precision, (4,), head, 4, 5, "relu")
    chosen = policy.spec._replace(squash="clip" if head == "box" else "tanh")
    save_policy(tmp_path, chosen, params, {})
    assert read_policy(tmp_path).spec == chosen


def test_a_save_that_does_not_fit_writes_nothing(tmp_path):
    policy, params = random_policy(0, "int8", (16,))
    with pytest.raises(ValueError, match="not saved: the arrays"):
        save_policy(tmp_path, policy.spec, {"0": params["0"]}, {})
    with pytest.raises(ValueError, match="not saved: array 0.w"):
        save_policy(tmp_path, policy.spec._replace(hidden=(4,)), params, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("killed_at", [1, 2])
def test_a_save_killed_at_a_rename_leaves_one_whole_policy(tmp_path, monkeypatch, killed_at):
    old, new = random_policy(0, "int8", (4,)), random_policy(1, "binary", (6,))
    save_policy(tmp_path, old[0].spec, old[1], {})
    replace, calls = os.replace, []

    def dies(source, target):
        calls.append(target)
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        save_policy(tmp_path, new[0].spec, new[1], {})
    assert same(read_policy(tmp_path), *(old if killed_at == 1 else new))
    assert len(os.listdir(tmp_path)) == 2


def test_foreign_and_missing_files(tmp_path):
    assert "no such file" in refused(tmp_path)
    policy, params = random_policy(0, "binary", (8,))
    save_policy(tmp_path, policy.spec, params, {})
    tensors, text = tmp_path / "policy.safetensors", tmp_path / "policy.json"
    whole, document = tensors.read_bytes(), json.loads(text.read_text())
    text.unlink()
    assert "policy.json: no such file" in refused(tmp_path)
    for foreign in (b"", b"{}", b"[1]", b"[" * 100_000, b"\xff\xfe", b'{"format": "other"}', b"1" * 9_999):
        text.write_bytes(foreign)
        assert "policy.json: " in refused(tmp_path)
    text.write_text(json.dumps(document | {"version": 2}))
    assert "version 2; this release reads 1" in refused(tmp_path)
    document["spec"]["obs_scale"][0] *= 2
    text.write_text(json.dumps(document))
    assert "damaged or edited" in refused(tmp_path)
    for foreign in (
        b"",
        b"\0" * 8,
        b"\xff" * 64,
        b"PK\x03\x04" * 9,
        safetensors.numpy.save({"w": np.ones(3)}),
        whole[:-1],
    ):
        tensors.write_bytes(foreign)
        assert "policy.safetensors: not a policy's safetensors file" in refused(tmp_path)


def test_fuzz(tmp_path):
    """600 mutations of either file: the right policy or one line."""
    rng = np.random.default_rng(0)
    policy, params = random_policy(0, "int8", (4,), "box")
    save_policy(tmp_path, policy.spec, params, META)
    loaded = 0
    for name in ("policy.safetensors", "policy.json"):
        path = tmp_path / name
        whole = path.read_bytes()
        for _ in range(300):
            data, at, kind = bytearray(whole), int(rng.integers(len(whole))), rng.integers(5)
            if kind == 0:
                data[at] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                del data[at:]
            elif kind == 2:
                data[at:at] = rng.bytes(int(rng.integers(1, 9)))
            elif kind == 3:
                del data[at : at + int(rng.integers(1, 9))]
            else:
                data[at : at + 4] = rng.choice([b'"}}]', b"1e99", b"null", b"\0\0\0\0", b"9999"])
            path.write_bytes(data)
            try:
                saved = read_policy(tmp_path)
            except PolicyFileError as error:
                assert "\n" not in str(error)
            else:
                assert same(saved, policy, params)
                loaded += 1
        path.write_bytes(whole)
    assert loaded < 200 and same(read_policy(tmp_path), policy, params)
