"""`export` and `verify`: whatever is exported acts like the trained policy, and damage is one line."""

import json
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from support.commands import assert_one_line, done

import polystep_rl
from polystep_rl.policies import make_policy, save_policy
from polystep_rl.policies.io import PolicyFileError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
FEW = ("--random", "3000", "--on-policy", "500", "--episodes", "4", "--json")
TASKS = [
    ("CartPole-v1", "binary", (8,)),
    ("Acrobot-v1", "int8", (16,)),
    ("Pendulum-v1", "binary", (16, 8)),
    ("MountainCarContinuous-v0", "float32", (8,)),
]


@pytest.fixture(scope="module")
def bundle(trained, cli, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "cartpole"
    assert cli("export", trained, "--out", folder, "--episodes", "5").code == 0
    return folder


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copy")


def random_file(env_id, precision, hidden, stem):
    from polystep_rl.envs import make

    policy = make_policy(make(env_id).spec, hidden, precision)
    params = jax.tree.map(lambda x: 3 * x, policy.init(jax.random.key(1)))
    return save_policy(stem, policy.spec, params, {"env": env_id, "seed": 1})


def test_the_bundle_of_a_run(bundle, cli, trained):
    names = {path.name for path in bundle.iterdir()}
    assert names >= {
        "policy.h",
        "policy.c",
        "policy.onnx",
        "policy.json",
        "policy.safetensors",
        "report.md",
        "Makefile",
    }
    assert names >= {"test_vectors.npz", "test_vectors.json", "test_vectors.h"}
    meta = json.loads((bundle / "policy.json").read_text())["meta"]
    assert meta["env"] == "CartPole-v1" and meta["control_dt"] == 0.02 and meta["seed"] == 0
    assert meta["observation"]["names"][2] == "pole_angle_rad" and len(meta["observation"]["scale"]) == 4
    assert meta["return"]["episodes"] == 5 and meta["packages"]["jax"] == jax.__version__
    assert re.search(r"deployed code, compiled C \| (\S+) ", (bundle / "report.md").read_text())
    found = done(cli("verify", bundle, *FEW))
    assert found["verdict"] == "bit-exact" and found["return_deployed"] == found["return_trained"]
    assert {"gcc -O0, random", "gcc -O3, on-policy", "onnxruntime, random", "C, closed loop"} <= set(found["checks"])
    made = subprocess.run(["make", "-C", bundle, "test"], capture_output=True, text=True)
    assert made.returncode == 0 and "self-test: 0 mismatches; 64 vectors: 0 mismatches" in made.stdout, made.stderr
    assert done(cli("verify", bundle, *FEW))["verdict"] == "bit-exact"  # what was built is nobody's damage
    assert done(cli("eval", bundle, "--episodes", "4", "--json"))["episodes"] == 4


@pytest.mark.parametrize("env_id, precision, hidden", TASKS)
def test_every_kind_of_policy(cli, tmp_path, env_id, precision, hidden):
    stem = random_file(env_id, precision, hidden, tmp_path / "some")
    assert done(cli("export", stem, "--name", "some_name", "--episodes", "2", "--json"))["parameter_bytes"] > 0
    folder = tmp_path / "some_bundle"
    assert "some_name_step" in (folder / "some_name.h").read_text()
    found = done(cli("verify", folder, *FEW))
    assert found["verdict"] == ("within 1e-5" if precision == "float32" else "bit-exact"), found
    obs = np.load(folder / "test_vectors.npz")
    policy = polystep_rl.load_policy(folder)
    got = policy(obs["obs"])
    np.testing.assert_allclose(got.reshape(obs["action"].shape), obs["action"], atol=1e-5, rtol=0)
    assert policy.metadata["env"] == env_id


def test_verify_says_where_it_differs(copy, cli):
    saved = json.loads((copy / "policy.json").read_text())
    source = (copy / "policy.c").read_text()
    wrong = re.sub(r"0x([0-9a-f]{8})u", lambda m: f"0x{int(m[1], 16) ^ 0xFF0:08x}u", source, count=1)
    assert wrong != source
    (copy / "policy.c").write_text(wrong)
    assert_one_line(cli("verify", copy, *FEW), 1, "policy.c: damaged or edited")
    import hashlib

    from polystep_rl.policies import io

    saved["meta"]["files"]["policy.c"] = hashlib.sha256(wrong.encode()).hexdigest()  # as one who means it would
    saved["sha256"] = io._document_digest(saved)
    (copy / "policy.json").write_text(json.dumps(saved))
    outcome = cli("verify", copy, *FEW)
    assert outcome.code == 1 and outcome.json["verdict"] == "different"
    assert outcome.json["checks"]["gcc -O0, random"]["first"].startswith("obs [")
    assert outcome.json["selftest_mismatches"] > 0 and not outcome.json["checks"]["onnxruntime, random"]["wrong"]


@pytest.mark.parametrize("to, file", [("c", "policy.c"), ("onnx", "policy.onnx"), ("web", "policy.html")])
def test_single_formats(cli, trained, tmp_path, to, file):
    found = done(cli("export", trained, "--to", to, "--out", tmp_path / "out", "--json"))
    assert file in found["files"] and (tmp_path / "out" / file).stat().st_size > 1000


def test_qonnx(cli, trained, tmp_path):
    found = done(cli("export", trained, "--to", "qonnx", "--out", tmp_path, "--json"))
    assert found["files"] == ["policy.qonnx.onnx"]


def test_a_foreign_policy_is_quantised_and_exported(cli, tmp_path):
    import safetensors.numpy

    weight = np.array([[0.0, 0.0, 0.0, 0.0], [0.2, 0.5, 6.0, 1.5]], np.float32)  # it balances
    tensors = {"layers.0.weight": weight, "layers.0.bias": np.zeros(2, np.float32)}
    (tmp_path / "mine.safetensors").write_bytes(safetensors.numpy.save(tensors))
    (tmp_path / "mine.json").write_text('{"activation": "tanh"}')
    assert_one_line(cli("export", tmp_path / "mine.json"), 2, "name it with --env")
    given = (tmp_path / "mine.json", "--env", "CartPole-v1", "--policy", "int8", "--episodes", "8")
    assert done(cli("export", *given, "--json"))["return_deployed"] == "500"
    assert done(cli("verify", tmp_path / "mine_bundle", *FEW))["verdict"] == "bit-exact"


@pytest.mark.parametrize(
    "given, codes, said",
    [
        (("no/such/run",), 2, "no/such/run: no such run folder or policy file"),
        (("RUN", "--to", "rust"), 2, "--to"),
        (("RUN", "--name", "2fast"), 2, "--name '2fast': expected a C identifier"),
        (("RUN", "--episodes", "0"), 2, "--episodes 0: expected at least 1"),
        (("RUN", "--policy", "int8"), 2, "only a float32 policy is quantised"),
        (("RUN", "--env", "Acrobot-v1"), 2, "is a policy for CartPole-v1"),
    ],
)
def test_bad_usage_of_export(cli, trained, tmp_path, given, codes, said):
    given = [trained if part == "RUN" else part for part in given]
    assert_one_line(cli("export", *given, "--out", tmp_path / "out"), codes, said.replace("--name '", "--name '"))


def test_bad_usage_of_verify(cli, trained, copy, tmp_path):
    assert_one_line(cli("verify", tmp_path / "none"), 2, "no such folder")
    assert_one_line(cli("verify", trained), 1, "not a bundle")
    assert_one_line(cli("verify", copy, "--episodes", "0"), 2, "--episodes 0: expected a positive number")
    (copy / "policy.onnx").unlink()
    assert_one_line(cli("verify", copy), 1, "policy.onnx: cannot be read")


def test_load_policy_needs_neither_jax_nor_gymnasium(bundle, trained):
    code = f"""
import sys
for name in ("jax", "gymnasium", "optax"):
    sys.modules[name] = None
import numpy as np, polystep_rl
for path in ({str(bundle)!r}, {str(trained)!r}):
    policy = polystep_rl.load_policy(path)
    policy.reset()
    one = policy(np.zeros(4))
    many = policy(np.zeros((3, 4)))
    assert isinstance(one, int) and many.shape == (3,) and many.dtype == np.int32 and set(many) == {{one}}
    action, state = policy.predict(np.zeros(4), deterministic=True)
    assert action == one and state is None and policy.predict(np.zeros((3, 4)))[0].shape == (3,)
    assert policy.metadata["env"] == "CartPole-v1" and policy.spec.obs_size == 4
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_load_policy_of_nothing_and_observations_that_do_not_fit(bundle, tmp_path):
    with pytest.raises(PolicyFileError, match="no such run folder or policy file"):
        polystep_rl.load_policy(tmp_path / "none")
    with pytest.raises(ValueError, match=r"observation of shape \(3,\): this policy reads \(4,\)"):
        polystep_rl.load_policy(bundle)(np.zeros(3))
