"""A policy as ONNX and QONNX acts as in JAX: exactly where it is integers, to rounding where it is floats."""

import jax
import numpy as np
import pytest
from support.cases import mostly_slow
from support.policies import observations, random_policy

from polystep_rl.policies import integers, mlp_policy
from polystep_rl.policies.forward import normalised
from polystep_rl.policies.precision import action_plan
from polystep_rl.policies.runtime import Network
from polystep_rl.types import PolicySpec, Sides

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from polystep_rl.policies.export.graph import IR_VERSION  # noqa: E402
from polystep_rl.policies.export.onnx import onnx_model  # noqa: E402
from polystep_rl.policies.export.qonnx import qonnx_model  # noqa: E402

COUNT = 4000
# Two joints of each side, one without and one with a change of sign; 4 is of both, 5 of nobody.
SIDES = Sides(
    inputs=((0, 1, 2, 3), (0, 1, 3, 2)),
    input_signs=((1, 1, 1, 1), (1, -1, 1, 1)),
    phase=((4, 6), (5, 7)),
    outputs=((0, 1, 4), (2, 3, 4)),
    output_signs=((1, 1, 1), (1, -1, -1)),
)
TABLE = {"squash": "table"}
EXACT = {
    "int8-linear-discrete": ("int8", (), "discrete", 4, 3, "tanh", {}),
    "int8-linear-box": ("int8", (), "box", 7, 5, "tanh", {}),
    "int8-box": ("int8", (16,), "box", 4, 3, "tanh", {}),
    "int8-two-multidiscrete": ("int8", (16, 8), "multidiscrete", 6, 5, "tanh", {}),
    "int8-two-relu-box": ("int8", (16, 8), "box", 6, 2, "relu", {}),
    "int8-wide-relu-discrete": ("int8", (130,), "discrete", 9, 4, "relu", {}),
    "int8-table-gain": ("int8", (16,), "box", 4, 3, "tanh", TABLE | {"gain": 2.5}),
    "int8-gain": ("int8", (), "box", 4, 3, "tanh", {"gain": 0.3}),
    "int8-far-offset": ("int8", (8,), "box", 3, 2, "tanh", {"obs_offset": (3e4, -1e4, 0.0), "obs_scale": (0.1, 2, 1)}),
    "binary-linear-discrete": ("binary", (), "discrete", 4, 3, "tanh", {}),
    "binary-two-box": ("binary", (16, 8), "box", 6, 4, "tanh", {}),
    "binary-wide-table": ("binary", (130,), "box", 11, 6, "tanh", TABLE),
    "binary-copies-box": ("binary", (), "box", 5, 3, "tanh", TABLE | {"weight_copies": 4, "gain": 0.5}),
    "binary-copies-multidiscrete": ("binary", (16,), "multidiscrete", 5, 5, "tanh", {"weight_copies": 4}),
}
QUICK = [name for i, name in enumerate(EXACT) if i % 3 == 0]
WITH_SIDES = {
    "int8": ("int8", (), {}),
    "int8-hidden-table": ("int8", (16,), TABLE),
    "binary-table": ("binary", (), TABLE),
    "binary-copies-hidden": ("binary", (12, 8), {"weight_copies": 4}),
}


def made(precision, hidden, head, obs_size, action_size, activation, changes):
    policy, params = random_policy(len(hidden), precision, hidden, head, obs_size, action_size, activation)
    return mlp_policy(policy.spec._replace(**changes)), params


def with_sides(precision, hidden, changes):
    box, offset = ((-1.0,) * 6, (1.0, 2.0, 1.0, 0.5, 1.0, 1.0)), (0.1, 0.2, -0.3, 0.4, *(0.0,) * 4)
    scale = (0.5, 0.25, 2.0, 2.0, *(1.0,) * 4)
    policy = mlp_policy(PolicySpec(8, hidden, precision, "box", 6, *box, offset, scale, sides=SIDES, **changes))
    params = policy.init(jax.random.key(3))
    return policy, {i: {"w": p["w"], "b": 8 * p["b"]} for i, p in params.items()}


def seen(policy):
    """Observations with everything in them, half of those of sides with cosines and sines in their range."""
    obs = observations(policy.spec, COUNT)
    if policy.spec.sides is not None:
        obs[::2, 4:] = np.random.default_rng(1).uniform(-1.1, 1.1, (COUNT // 2, 4))
    return obs


def in_jax(policy, params, obs):
    found = np.asarray(policy.act_deployed(policy.deploy(params), obs.T))
    return found.T if found.ndim == 2 else found


def in_onnx(model, obs):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["action"], {"obs": obs})[0]


def in_qonnx(model, obs, monkeypatch):
    pytest.importorskip("qonnx")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    monkeypatch.setattr(onnx, "IR_VERSION", IR_VERSION)  # of its models of single nodes: onnxruntime may lag behind
    return execute_onnx(ModelWrapper(model).transform(InferShapes()), {"obs": obs})["action"]


def exported(tool, policy, params, obs, monkeypatch):
    """Actions (n, ...) of the exported model."""
    if tool == "onnx":
        return in_onnx(onnx_model(policy.spec, params), obs)
    return in_qonnx(qonnx_model(policy.spec, params, batch=len(obs)), obs, monkeypatch)


def check_exact(tool, policy, params, obs, monkeypatch):
    want, found = in_jax(policy, params, obs), exported(tool, policy, params, obs, monkeypatch)
    assert found.dtype == want.dtype and found.shape == want.shape
    assert len(np.unique(want, axis=0)) >= min(3, policy.spec.action_size)
    np.testing.assert_array_equal(found, want)


TOOLS = pytest.mark.parametrize("tool", ["onnx", "qonnx"])


@TOOLS
@pytest.mark.parametrize("case", mostly_slow(EXACT, QUICK.__contains__))
def test_integers_are_exact(case, tool, monkeypatch):
    policy, params = made(*EXACT[case])
    assert integers(policy.spec, params)["input"]["zero_point"].any()
    check_exact(tool, policy, params, seen(policy), monkeypatch)


@TOOLS
@pytest.mark.parametrize("case", WITH_SIDES)
def test_sides_are_exact(case, tool, monkeypatch):
    policy, params = with_sides(*WITH_SIDES[case])
    check_exact(tool, policy, params, seen(policy), monkeypatch)


@pytest.mark.parametrize("case", WITH_SIDES)
def test_sides_share_their_weights(case):
    policy, params = with_sides(*WITH_SIDES[case])
    hidden = len(policy.spec.hidden)
    for model, kind in (
        (onnx_model(policy.spec, params), "MatMulInteger"),
        (qonnx_model(policy.spec, params), "MatMul"),
    ):
        products = [node.input[1] for node in model.graph.node if node.op_type == kind]
        assert len(products) == 2 * (hidden + 1) and len(set(products)) == hidden + 1


@TOOLS
@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_extreme_weights_do_not_saturate(precision, tool, monkeypatch):
    """All inputs and weights at their ends, where the products of uint8 by int8 would leave 16 bits."""
    policy, params = random_policy(0, precision, (), "discrete", 64, 8)
    rng = np.random.default_rng(0)
    params["0"]["w"] = np.where(rng.random((8, 64)) < 0.9, 9, -9).astype(np.float32)
    obs = np.where(rng.random((COUNT, 64)) < 0.9, np.float32(3e38), np.float32(-3e38))
    check_exact(tool, policy, params, obs, monkeypatch)


@pytest.mark.parametrize("precision, kinds", [("int8", {"UINT8"}), ("binary", {"INT8"})])
def test_products_are_of_bytes_that_cannot_saturate(precision, kinds):
    """Whatever the processor of the test: uint8 by uint8, or by int8 of 1 and -1."""
    policy, params = made(precision, (16,), "discrete", 4, 3, "tanh", {})
    weights = [i for i in onnx_model(policy.spec, params).graph.initializer if i.name.startswith("weight")]
    assert {onnx.TensorProto.DataType.Name(i.data_type) for i in weights} == kinds and len(weights) == 2
    if precision == "binary":
        assert {int(x) for i in weights for x in np.unique(onnx.numpy_helper.to_array(i))} == {-1, 1}


FLOATS = [((), {}), ((16,), {}), ((16, 8), {"activation": "relu"}), ((130,), {}), ((16,), {"squash": "clip"})]


@pytest.mark.parametrize("hidden, changes", FLOATS, ids=str)
@pytest.mark.parametrize("precision", mostly_slow(["float32", "int8-act", "binary-act"], lambda x: x != "int8-act"))
def test_floats_agree_to_rounding(precision, hidden, changes):
    changes = {} if precision == "binary-act" and "activation" in changes else changes
    policy, params = made(precision, hidden, "box", 6, 4, "tanh", changes)
    obs = seen(policy)
    found = in_onnx(onnx_model(policy.spec, params), obs)
    assert found.dtype == np.float32 and found.shape == (COUNT, 4)
    wide = np.abs(normalised(policy.spec, obs)).max(axis=1)  # sums of large terms have large errors
    error = np.abs(found - in_jax(policy, params, obs)).max(axis=1) / np.maximum(1, wide / 100)
    if precision == "float32":
        assert error.max() < 1e-5
    assert np.mean(error < 1e-5) > 0.998  # a rounded unit may fall to the other side


@pytest.mark.parametrize("head", ["discrete", "multidiscrete"])
@pytest.mark.parametrize("precision", ["float32", "int8-act", "binary-act"])
def test_floats_choose_the_same(precision, head):
    policy, params = made(precision, (16,), head, 6, 5, "tanh", {})
    obs = seen(policy)
    found, want = in_onnx(onnx_model(policy.spec, params), obs), in_jax(policy, params, obs)
    assert found.dtype == np.int32 and found.shape == want.shape
    y = Network(policy.spec, jax.tree.map(np.asarray, params)).outputs(obs)
    parts = np.split(y, np.cumsum(policy.spec.groups)[:-1], axis=1) if policy.spec.groups else [y]
    clear = [np.diff(np.sort(part, axis=1)[:, -2:], axis=1)[:, 0] > 1e-5 for part in parts]
    same = (found == want).reshape(COUNT, -1).T
    if precision == "float32":
        assert all((ok | ~sure).all() for ok, sure in zip(same, clear, strict=True))
    assert np.mean(same) > 0.998


@pytest.mark.parametrize("hidden", [(), (16,)], ids=str)
def test_float_sides(hidden):
    policy, params = with_sides("float32", hidden, {})
    obs = seen(policy)
    np.testing.assert_allclose(in_onnx(onnx_model(policy.spec, params), obs), in_jax(policy, params, obs), atol=1e-5)


@pytest.mark.parametrize("tool, precision", [("onnx", "float32"), ("onnx", "int8"), ("qonnx", "int8")])
def test_equals_go_to_the_first(tool, precision, monkeypatch):
    policy, params = random_policy(0, precision, (), "multidiscrete", 4, 5)
    params = jax.tree.map(lambda p: np.repeat(np.asarray(p)[:1], len(p), axis=0), params)
    assert not exported(tool, policy, params, seen(policy), monkeypatch).any()


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_one_observation_is_a_row_of_many(precision):
    policy, params = made(precision, (16,), "box", 4, 3, "tanh", {})
    obs, model = seen(policy)[:20], onnx_model(policy.spec, params)
    ones = np.concatenate([in_onnx(model, obs[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(in_onnx(model, obs), ones, atol=1e-6 if precision == "float32" else 0)


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_one_observation_in_qonnx(precision, monkeypatch):
    policy, params = made(precision, (16,), "box", 4, 3, "tanh", {})
    for obs in seen(policy)[:3, None]:
        check = in_qonnx(qonnx_model(policy.spec, params), obs, monkeypatch)
        np.testing.assert_array_equal(check, in_jax(policy, params, obs))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_input_scales_of_the_parameters_count(precision):
    policy, params = made(precision, (16,), "box", 4, 3, "tanh", {})
    offset, scale = np.float32([1, -2, 0.5, 0]), np.float32([0.5, 2, 1, 4])
    carried = params | {"input": {"offset": offset, "scale": scale}}
    other = policy.spec._replace(obs_offset=tuple(offset.tolist()), obs_scale=tuple(scale.tolist()))
    assert onnx_model(policy.spec, carried) == onnx_model(other, params) != onnx_model(policy.spec, params)


def test_metadata_comes_back(tmp_path):
    policy, params = made("int8", (16,), "discrete", 4, 3, "tanh", {})
    said = {"env_id": "CartPole-v1", "seed": "3", "spec": '{"hidden": [16]}'}
    for model in (onnx_model(policy.spec, params, said), qonnx_model(policy.spec, params, said)):
        path = tmp_path / "policy.onnx"
        onnx.save(model, path)
        assert {prop.key: prop.value for prop in onnx.load(path).metadata_props} == said
    session = ort.InferenceSession(onnx_model(policy.spec, params, said).SerializeToString())
    assert session.get_modelmeta().custom_metadata_map == said
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [("obs", ["N", 4], "tensor(float)")]
    assert [(i.name, i.shape, i.type) for i in session.get_outputs()] == [("action", ["N"], "tensor(int32)")]


def test_the_widths_are_said_in_qonnx():
    pytest.importorskip("qonnx")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_datatypes import InferDataTypes

    for precision, weight, hidden in (("int8", "INT8", "UINT7"), ("binary", "BIPOLAR", "BIPOLAR")):
        policy, params = made(precision, (16,), "discrete", 4, 3, "relu" if precision == "int8" else "tanh", {})
        model = ModelWrapper(qonnx_model(policy.spec, params)).transform(InferDataTypes())
        products = [node for node in model.graph.node if node.op_type == "MatMul"]
        types = [[model.get_tensor_datatype(name).name for name in node.input] for node in products]
        assert types == [["INT8", weight], [hidden, weight]]


@pytest.mark.parametrize("hidden, activation", [((), "tanh"), ((16,), "tanh"), ((16, 8), "relu")], ids=str)
@pytest.mark.parametrize("changes", [{}, TABLE], ids=str)
def test_quantise_dequantise_is_near(hidden, activation, changes):
    """Outputs are not rounded, and hidden units differ where half a step is rounded to even."""
    policy, params = made("int8", hidden, "box", 6, 4, activation, changes)
    model, obs = onnx_model(policy.spec, params, qdq=True), seen(policy)
    steps = np.abs(in_onnx(model, obs) - in_jax(policy, params, obs)) / action_plan(policy.spec).step
    steep = 2.7 if changes else 1.0  # of the table, where it is steepest
    assert np.quantile(steps, 0.999) < 0.55 * steep + 0.5 * bool(changes)  # what is rounded here, and by the table
    assert steps.max() < (0.5 + len(hidden)) * steep + 0.5 * bool(changes) + 1e-3
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == len(hidden) + 1 and kinds.count("DequantizeLinear") == 2 * len(hidden) + 2
    assert {i.data_type for i in model.graph.initializer if i.name.startswith("weight")} == {onnx.TensorProto.INT8}


def test_quantise_dequantise_chooses_alike():
    policy, params = made("int8", (16, 8), "discrete", 6, 4, "tanh", {})
    obs = seen(policy)
    same = in_onnx(onnx_model(policy.spec, params, qdq=True), obs) == in_jax(policy, params, obs)
    assert same.mean() > 0.995


def test_what_cannot_be_is_said_in_a_line():
    for precision in ("float32", "int8-act", "binary-act"):
        policy, params = made(precision, (), "box", 4, 3, "tanh", {})
        with pytest.raises(ValueError, match=f"int8 or binary policies, not {precision}$"):
            qonnx_model(policy.spec, params)
    for (policy, params), said in (
        (made("binary", (), "box", 4, 3, "tanh", {}), "not binary$"),
        (made("float32", (), "box", 4, 3, "tanh", {}), "not float32$"),
        (with_sides("int8", (), {}), "not int8 with sides$"),
    ):
        with pytest.raises(ValueError, match=said):
            onnx_model(policy.spec, params, qdq=True)
