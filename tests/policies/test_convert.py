"""Foreign networks: our float32 policy acts like a NumPy forward pass of the given one; odd files are one line."""

import json

import numpy as np
import pytest
import safetensors.numpy

from polystep_rl.policies import ForeignMLP, PolicyFileError, from_foreign, load_foreign, mlp_policy

LOW, HIGH = (-1.0, 0.5, -3.0), (2.0, 4.0, 0.0)


def foreign(seed=0, hidden=(16, 8), activation="tanh", squash="none", outputs=3, box=True, groups=()):
    rng = np.random.default_rng(seed)
    sizes = (5, *hidden, outputs)
    weights = tuple(rng.normal(size=(m, k)) / np.sqrt(k) for k, m in zip(sizes, sizes[1:], strict=False))
    biases = tuple(0.5 * rng.normal(size=len(w)) for w in weights)
    offset, scale = rng.normal(size=5), np.exp(rng.normal(size=5))
    limits = (LOW, HIGH) if box else ((), ())
    return ForeignMLP(weights, biases, activation, squash, offset, scale, *limits, groups)


def numpy_outputs(net, obs):
    x = (obs - np.asarray(net.obs_offset)) / np.asarray(net.obs_scale)
    for index, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        x = x @ w.T + b
        if index < len(net.weights) - 1:
            x = np.tanh(x) if net.activation == "tanh" else np.maximum(x, 0)
    return x


def ours(net, obs):
    spec, params = from_foreign(net)
    assert spec.precision == "float32"
    policy = mlp_policy(spec)
    return np.asarray(policy.act_deployed(policy.deploy(params), obs.T)).T


OBS = (np.random.default_rng(1).normal(size=(500, 5)) * 2).astype(np.float32)


@pytest.mark.parametrize("squash", ["none", "clip", "tanh"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (16, 8)], ids=str)
def test_a_box_action_is_that_of_the_network(hidden, activation, squash):
    net = foreign(0, hidden, activation, squash)
    y, low, high = numpy_outputs(net, OBS), np.asarray(LOW), np.asarray(HIGH)
    want = (low + high) / 2 + (high - low) / 2 * np.tanh(y) if squash == "tanh" else np.clip(y, low, high)
    np.testing.assert_allclose(ours(net, OBS), want, atol=1e-5)
    inside = (want > low) & (want < high)
    assert 0.1 < inside.mean() and (squash == "tanh" or inside.mean() < 0.95)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_discrete_choices_are_those_of_the_network(activation):
    net = foreign(1, activation=activation, box=False)
    np.testing.assert_array_equal(ours(net, OBS), numpy_outputs(net, OBS).argmax(axis=1))
    net = foreign(1, activation=activation, outputs=7, box=False, groups=(3, 4))
    y = numpy_outputs(net, OBS)
    np.testing.assert_array_equal(ours(net, OBS), np.stack([y[:, :3].argmax(1), y[:, 3:].argmax(1)], 1))


def test_mistakes_are_one_line():
    net = foreign()
    for bad, message in [
        (net._replace(weights=net.weights[:2]), "2 weights and 3 biases"),
        (net._replace(weights=(), biases=()), "expected a pair for every layer"),
        (net._replace(weights=(net.weights[0][0], *net.weights[1:])), r"layer 0: weight \(5,\)"),
        (net._replace(weights=(net.weights[0], net.weights[1][:, 1:], net.weights[2])), "layer 1: reads 15 units"),
        (net._replace(biases=(*net.biases[:2], np.array([0, np.nan, 1]))), "layer 2: the weights must be finite"),
        (net._replace(biases=(*net.biases[:2], np.array([0, 1e99, 1]))), "layer 2: the weights are too large"),
        (net._replace(action_high=(2.0, 1e99, 0.0)), "action_high must be finite"),
        (net._replace(squash="sigmoid"), "squash 'sigmoid': expected one of none, clip, tanh"),
        (net._replace(activation="elu"), "unknown activation 'elu'"),
        (net._replace(action_low=(0.0,)), "action_low must have 3 numbers"),
        (net._replace(action_low=(), action_high=(), squash="clip"), "squash 'clip' needs a box"),
        (net._replace(obs_scale=(1.0, 2.0)), "obs_scale must be a number or have 5 numbers"),
        (net._replace(obs_scale=0.0), "obs_scale must be positive"),
        (net._replace(action_low=(), action_high=(), groups=(1, 1)), "groups"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            from_foreign(bad)
        assert "\n" not in str(error.value)


def written(folder, net, **changes):
    tensors = {}
    for index, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        tensors |= {f"layers.{index}.weight": np.float32(w), f"layers.{index}.bias": np.float32(b)}
    described = {name: getattr(net, name) for name in ForeignMLP._fields[2:]} | changes
    described = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in described.items() if v is not None}
    safetensors.numpy.save_file(tensors, folder / "net.safetensors")
    (folder / "net.json").write_text(json.dumps(described))
    return folder / "net"


@pytest.mark.parametrize("box", [True, False])
def test_files_make_the_round_trip(tmp_path, box):
    net = foreign(2, activation="relu", box=box)
    stem = written(tmp_path, net)
    for path in (stem, stem.with_suffix(".json"), stem.with_suffix(".safetensors")):
        np.testing.assert_allclose(ours(load_foreign(path), OBS), ours(net, OBS), atol=1e-5)
    written(tmp_path, net, obs_offset=None, obs_scale=2, groups=None)
    assert load_foreign(stem).obs_offset == 0.0 and load_foreign(stem).obs_scale == 2


def test_odd_files_are_one_line(tmp_path):
    net = foreign()
    stem = tmp_path / "net"

    def refused():
        with pytest.raises(PolicyFileError) as error:
            load_foreign(stem)
        assert "\n" not in str(error.value) and str(error.value).startswith(str(tmp_path))
        return str(error.value)

    assert "net.safetensors: no such file" in refused()
    for changes, message in [
        ({"activation": None}, "the field 'activation' is missing"),
        ({"activation": 3}, "activation must be a name"),
        ({"activation": "elu"}, "unknown activation"),
        ({"speed": 3}, "unknown field 'speed'"),
        ({"action_low": 0.0}, "action_low must be a list of numbers"),
        ({"action_low": ["a"]}, "action_low must be a list of numbers"),
        ({"groups": [1.5, 1.5]}, "groups must be a list of integers"),
        ({"obs_scale": [1.0]}, "obs_scale must be a number or have 5"),
        ({"obs_scale": [[1.0]]}, "obs_scale must be a list of numbers"),
    ]:
        written(tmp_path, net, **changes)
        assert message in refused()
    written(tmp_path, net)
    text = (tmp_path / "net.json").read_text()
    for bad in ("", "[1]", "[" * 100_000, "{"):
        (tmp_path / "net.json").write_text(bad)
        assert "net.json: " in refused()
    (tmp_path / "net.json").unlink()
    assert "net.json: no such file" in refused()
    (tmp_path / "net.json").write_text(text)
    safetensors.numpy.save_file({"layers.0.weight": np.ones((2, 2)), "w": np.ones(2)}, tmp_path / "net.safetensors")
    assert "expected layers.0.weight, layers.0.bias" in refused()
    for bad in (b"", b"\0" * 8, b"\xff" * 64, b"PK\x03\x04" * 9):
        (tmp_path / "net.safetensors").write_bytes(bad)
        assert "net.safetensors: not a safetensors file" in refused()
