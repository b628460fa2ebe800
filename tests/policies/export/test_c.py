"""Exported C acts like the policy in JAX: bit for bit with integers, to rounding with floats; on gcc and on clang."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from support import sides
from support.cases import mostly_slow
from support.policies import observations, random_policy

from polystep_rl.policies import PRECISIONS, integers, mlp_policy
from polystep_rl.policies.export import native
from polystep_rl.policies.export.arrays import packed_nibbles, packed_rows
from polystep_rl.policies.export.c import c_source
from polystep_rl.policies.export.vectors import Comparer, random_observations

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
CHECKED = ("-O1", *native.SANITIZERS)
COUNT = 3_000
SHAPES = [
    ((), "discrete", 4, 2),
    ((), "box", 33, 7),
    ((16,), "discrete", 6, 3),
    ((5,), "box", 3, 2),
    ((130,), "discrete", 4, 5),
    ((32, 33), "box", 8, 2),
    ((16, 20), "multidiscrete", 4, 6),
    ((1, 1), "box", 1, 1),
    ((9,), "discrete", 41, 3),  # so many inputs that tables are made one at a time
]
QUICK = (SHAPES[2], SHAPES[5], SHAPES[6])  # a head each


def wanted(policy, params, obs):
    found = np.asarray(policy.act_deployed(policy.deploy(params), obs.T))
    return found[:, None] if found.ndim == 1 else np.ascontiguousarray(found.T)


def written(folder, policy, params, name="policy", count=8, obs=None):
    obs = observations(policy.spec, count) if obs is None else obs
    made = c_source(policy.spec, params, name, (obs, wanted(policy, params, obs)))
    (folder / f"{name}.h").write_text(made.header)
    (folder / f"{name}.c").write_text(made.source)
    return made


def assert_same(tmp_path, policy, params, obs, compiler="gcc", flags=CHECKED):
    written(tmp_path, policy, params)
    with native.Program(tmp_path, "policy", policy.spec, compiler, flags) as program:
        got = program.act(obs)
        assert program.selftest() == 0
    np.testing.assert_array_equal(got, wanted(policy, params, obs))
    assert got.dtype == (np.float32 if policy.spec.head == "box" else np.int32)


@needs_gcc
@pytest.mark.parametrize("precision", ["int8", "binary"])
@pytest.mark.parametrize(
    "shape", mostly_slow([(shape,) for shape in SHAPES], lambda case: case[0] in QUICK), ids=map(str, SHAPES)
)
def test_integer_policies_are_bit_exact_under_the_sanitizers(tmp_path, precision, shape):
    policy, params = random_policy(1, precision, *shape)
    assert_same(tmp_path, policy, params, observations(policy.spec, COUNT))


@needs_gcc
@pytest.mark.parametrize("copies, squash, gain", [(3, "tanh", 1.0), (4, "table", 2.0), (16, "table", 0.5)])
@pytest.mark.parametrize("hidden", [(), (16, 40)], ids=str)
def test_weight_copies_tables_and_gains(tmp_path, hidden, copies, squash, gain):
    policy, params = random_policy(2, "binary", hidden, "box", 5, 3)
    policy = mlp_policy(policy.spec._replace(weight_copies=copies, squash=squash, gain=gain))
    assert_same(tmp_path, policy, params, observations(policy.spec, COUNT))


@needs_gcc
@pytest.mark.parametrize("activation, squash", [("relu", "tanh"), ("tanh", "table")])
def test_int8_variants(tmp_path, activation, squash):
    policy, params = random_policy(3, "int8", (24,), "box", 5, 3, activation)
    policy = mlp_policy(policy.spec._replace(squash=squash))
    assert_same(tmp_path, policy, params, observations(policy.spec, COUNT))


@needs_gcc
@pytest.mark.parametrize("precision", ["int8", "binary"])
@pytest.mark.parametrize("hidden", [(), (16,)], ids=str)
def test_sides_share_a_network(tmp_path, precision, hidden):
    policy, params = sides.policy_and_params(precision, hidden, seed=4)
    obs = observations(policy.spec, COUNT)
    obs[: COUNT // 2] = sides.phases(obs[: COUNT // 2])
    assert_same(tmp_path, policy, params, obs)


@needs_gcc
def test_zero_points_at_the_end_of_their_range_and_products_of_every_size(tmp_path):
    policy, params = random_policy(5, "int8", (8,), "discrete", 4, 3)
    far = 32 * np.array([1.0, 3.0, 0.7, 1e-3])
    spec = policy.spec._replace(obs_scale=tuple(far / 32), obs_offset=tuple(far / 32 * [524_000, -524_000, 1.5, 9]))
    policy = mlp_policy(spec)
    rng = np.random.default_rng(0)
    near = np.asarray(spec.obs_offset) + np.asarray(spec.obs_scale) * rng.normal(size=(COUNT, 4))
    bits = rng.integers(0, 2**32, size=(COUNT, 4), dtype=np.uint32).view(np.float32)  # every exponent, NaNs included
    small = np.abs(bits) < np.finfo(np.float32).tiny  # XLA counts these as 0
    obs = np.concatenate([near.astype(np.float32), np.where(small, np.float32(0), bits)])
    assert_same(tmp_path, policy, params, obs)


@needs_gcc
@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p not in ("int8", "binary")])
@pytest.mark.parametrize("head", mostly_slow(["discrete", "box", "multidiscrete"], lambda head: head == "box"))
def test_float_policies_agree_to_rounding(tmp_path, precision, head):
    policy, params = random_policy(6, precision, (16, 8), head, 4, 5)
    obs = random_observations(policy.spec, COUNT, np.random.default_rng(0))
    comparer = Comparer(policy.spec, params)
    settled = obs[comparer.settled(obs, wanted(policy, params, obs))]
    assert len(settled) > 0.98 * COUNT
    written(tmp_path, policy, params, obs=settled[:8])
    with native.Program(tmp_path, "policy", policy.spec, "gcc", CHECKED) as program:
        got = program.act(obs)
        assert program.selftest() == 0
        odd = np.array([[np.nan] * 4, [np.inf] * 4, [-np.inf] * 4], np.float32)
        assert np.isfinite(program.act(odd)).all()
    wrong = comparer.wrong(obs, wanted(policy, params, obs), got)
    assert wrong.mean() <= (0 if precision == "float32" else 0.01)  # a rounded unit may fall to the other side


@needs_gcc
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_float_sides_agree_to_rounding(tmp_path, precision):
    policy, params = sides.policy_and_params(precision, (16,), seed=4)
    obs = sides.phases(np.random.default_rng(0).normal(size=(500, 8)))
    written(tmp_path, policy, params, obs=obs[:8])
    with native.Program(tmp_path, "policy", policy.spec, "gcc", CHECKED) as program:
        np.testing.assert_allclose(program.act(obs), wanted(policy, params, obs), atol=1e-5)


@needs_gcc
def test_the_integer_entry_point_is_the_float_one_after_quantisation(tmp_path):
    policy, params = random_policy(7, "binary", (16,), "box", 5, 2)
    written(tmp_path, policy, params)
    main = tmp_path / "main.c"
    main.write_text("""
#include "policy.h"
#include <stdio.h>
int main(void)
{
    int8_t input[POLICY_INPUT_SIZE];
    policy_action_int8 action[POLICY_ACTION_SIZE];
    while (fread(input, sizeof input, 1, stdin) == 1) {
        policy_step_int8(input, action);
        fwrite(action, sizeof action, 1, stdout);
    }
    return 0;
}
""")
    command = ["gcc", *native.WARNINGS, f"-I{tmp_path}", str(main), str(tmp_path / "policy.c"), "-o", tmp_path / "main"]
    subprocess.run(command, check=True)
    inputs = np.random.default_rng(0).integers(-127, 128, size=(2_000, 5)).astype(np.int8)
    done = subprocess.run([tmp_path / "main"], input=inputs.tobytes(), capture_output=True, check=True)
    q = np.frombuffer(done.stdout, np.int8).reshape(-1, 2)
    spec = policy.spec
    obs = (inputs * np.asarray(spec.obs_scale) / 32 + np.asarray(spec.obs_offset)).astype(np.float32)
    from polystep_rl.policies.forward import quantised_input
    from polystep_rl.policies.runtime import Network

    seen = quantised_input(spec, obs)
    assert (seen == inputs).mean() > 0.2  # an offset falls between two integers: shifted by one at most
    rows = (seen == inputs).all(axis=1)
    assert rows.sum() > 20
    np.testing.assert_array_equal(q[rows], Network(spec, params).outputs(obs)[rows])


@needs_gcc
@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_policies_link_into_one_program_of_c_or_cpp(tmp_path, precision):
    for name, seed in (("one", 0), ("two", 1)):
        written(tmp_path, *random_policy(seed, precision, (8,), "box", 3, 2), name=name)
    source = '#include "one.h"\n#include "two.h"\nint main(void) { return one_selftest() + two_selftest(); }\n'
    (tmp_path / "main.c").write_text(source)
    files = [str(tmp_path / f"{name}.c") for name in ("main", "one", "two")]
    for compiler in ("gcc", "clang"):
        if shutil.which(compiler) is None:
            continue
        subprocess.run([compiler, *native.WARNINGS, *files, "-lm", "-o", tmp_path / "main"], check=True)
    plus = shutil.which("g++")
    if plus is not None:
        command = [plus, "-x", "c++", "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", *files, "-lm"]
        subprocess.run([*command, "-o", tmp_path / "main"], check=True)
    assert subprocess.run([tmp_path / "main"]).returncode == 0


@pytest.mark.parametrize("precision, calls", [("int8", 0), ("binary", 0), ("float32", 1)])
def test_integer_sources_have_no_floating_point_but_one_multiplication(tmp_path, precision, calls):
    policy, params = random_policy(8, precision, (16, 16), "discrete", 4, 3)
    made = c_source(policy.spec, params, "p", (np.zeros((1, 4), np.float32), np.zeros((1, 1), np.int32)))
    code = re.sub(r"/\*.*?\*/", "", made.source, flags=re.S).split("#ifndef P_NO_SELFTEST")[0]
    floats = [line for line in code.splitlines() if "float" in line and "static const float" not in line]
    if precision != "float32":
        assert [line.strip() for line in floats] == [
            "static int32_t p_quantise(float obs, float multiplier, int32_t zero_point)",
            "const float product = obs * multiplier;",
            "void p_step(const float *obs, p_action *action)",
        ]
    assert ("tanhf" in code) == bool(calls) and "malloc" not in code and "double" not in code


def test_a_broken_weight_is_caught_by_the_selftest(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    policy, params = random_policy(9, "binary", (16,), "box", 4, 3)
    written(tmp_path, policy, params, count=32)
    source = (tmp_path / "policy.c").read_text()
    found = re.search(r"policy_weight0\[\d+\] = \{\s*(0x[0-9a-f]{8})u", source)
    flipped = f"0x{int(found[1], 16) ^ 0x00100010:08x}"
    (tmp_path / "policy.c").write_text(source.replace(found[1], flipped, 1))
    assert native.Library(tmp_path, "policy", policy.spec).selftest() > 0


def test_parameters_of_a_binary_policy_are_few(tmp_path):
    policy, params = random_policy(0, "binary", (16,), "discrete", 4, 2)
    bounded = mlp_policy(policy.spec._replace(obs_offset=(0.0,) * 4))
    made = written(tmp_path, bounded, params)
    biases = [layer["bias"] for layer in integers(bounded.spec, params)["layers"]]
    biases[1] = biases[1] + 16  # all products agree
    widths = [1 if np.abs(bias).max() < 128 else 2 for bias in biases]
    assert made.parameter_bytes == 16 * 4 // 8 + 2 * 4 + 4 * 4 + 16 * widths[0] + 2 * widths[1]
    assert f"#define POLICY_PARAMETER_BYTES {made.parameter_bytes}" in made.header


@pytest.mark.parametrize("copies", [1, 3])
def test_packed_weights_are_the_weights(copies):
    rng = np.random.default_rng(0)
    weight = rng.choice([-1, 1], size=(11, 37 * copies)).astype(np.int8)
    rows, nibbles = packed_rows(weight, copies), packed_nibbles(weight, copies)
    for (unit, copy, i), sign in np.ndenumerate(weight.reshape(11, copies, 37)):
        assert (rows[unit, copy, i // 32] >> (i % 32)) & 1 == (sign > 0)
        assert (nibbles[i // 4, copy, unit // 8] >> (4 * (unit % 8) + i % 4)) & 1 == (sign > 0)


@pytest.mark.parametrize("name", ["", "2fast", "a-b", "int", "x" * 49, "naïve", "a b", "class"])
def test_names_that_c_cannot_have(name):
    policy, params = random_policy(0, "binary", (4,))
    with pytest.raises(ValueError, match="expected a C identifier"):
        c_source(policy.spec, params, name, (np.zeros((1, 4), np.float32), np.zeros((1, 1), np.int32)))


@needs_gcc
def test_a_compiler_that_refuses_is_one_line(tmp_path):
    policy, params = random_policy(0, "binary", (4,))
    written(tmp_path, policy, params)
    (tmp_path / "policy.c").write_text("this is no C\n")
    with pytest.raises(native.NativeError) as caught:
        native.Library(tmp_path, "policy", policy.spec)
    assert "\n" not in str(caught.value) and "error" in str(caught.value)
    with pytest.raises(native.NativeError, match="nosuchcc: not found"):
        native.Program(tmp_path, "policy", policy.spec, "nosuchcc")
