"""The page of a policy without a browser: its arithmetic and its CartPole in Node, where there is one, and its text."""

import json
import re
import shutil
import subprocess

import jax
import numpy as np
import pytest
from support.policies import observations, random_policy, spec

from polystep_rl.envs.classic.cartpole import CartPole, CartPoleState
from polystep_rl.policies import integers, mlp_policy
from polystep_rl.policies.export.web import parameter_bytes, web_page
from polystep_rl.policies.forward import quantised_input
from polystep_rl.policies.runtime import actions
from polystep_rl.types import Sides

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="needs node")

SCRIPT = """
const { readFileSync, writeFileSync } = require("node:fs");
const policy = compile(JSON.parse(readFileSync("network.json", "utf8")));
const bytes = readFileSync("obs.bin");
const obs = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
const rows = Array.from({ length: obs.length / 4 }, (_, i) => obs.subarray(4 * i, 4 * i + 4));
writeFileSync("actions.bin", Uint8Array.from(rows, policy.act));
writeFileSync("bits.bin", Uint8Array.from(rows.slice(0, 5000).flatMap((row) => policy.bits(row).flat())));
"""


def page(precision="binary", hidden=(8,), metadata=None, **changes):
    policy, params = random_policy(0, precision, hidden, action_size=2)
    return web_page(policy.spec._replace(**changes), params, metadata or {})


def network(text):
    return json.loads(re.search(r'id="integers">(.*?)</script>', text)[1])


def in_node(text, folder, script):
    """Runs a script after the page's own, without what touches the page, in a folder that holds the network."""
    own = text.partition("// --- policy")[2].partition("\n")[2].partition("// --- page ---")[0]
    (folder / "network.json").write_text(json.dumps(network(text)))
    (folder / "run.js").write_text(own + script)
    done = subprocess.run([NODE, "run.js"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def hidden_bits(numbers, policy_spec, obs):
    """(n, hidden units of all layers): 1 where a unit is above 0, from the documented integers."""
    x, found = quantised_input(policy_spec, obs).astype(np.int64), [np.zeros((len(obs), 0), bool)]
    for layer in numbers["layers"][:-1]:
        acc = np.tile(x, numbers["weight_copies"]) @ layer["weight"].astype(np.int64).T + layer["bias"]
        x = np.where(acc >= 0, 1, -1)
        if layer["activation"] != "sign":
            x = np.clip((acc * layer["mult"] + (2 ** layer["shift"] >> 1)) >> layer["shift"], layer["low"], 127)
        found.append(x > 0)
    return np.concatenate(found, axis=1)


# --- arithmetic --------------------------------------------------------------------------------------------------
SHAPES = [(), (8,), (16,), (40,), (16, 8)]
CASES = [(precision, hidden, "tanh", 1) for precision in ("int8", "binary") for hidden in SHAPES]
CASES += [("int8", (16, 8), "relu", 1)]
CASES += [("binary", hidden, "tanh", copies) for hidden, copies in (((), 4), ((16, 8), 4), ((40,), 4), ((9, 5), 3))]


@needs_node
@pytest.mark.parametrize("precision, hidden, activation, copies", CASES, ids=str)
def test_actions_and_bits_are_those_of_the_policy(precision, hidden, activation, copies, tmp_path):
    policy_spec = spec(precision, hidden, action_size=2, activation=activation)._replace(weight_copies=copies)
    policy = mlp_policy(policy_spec)
    params = {i: {"w": 2 * p["w"], "b": 3 * p["b"]} for i, p in policy.init(jax.random.key(len(hidden))).items()}
    numbers, obs = integers(policy_spec, params), observations(policy_spec, 20_000)
    assert numbers["input"]["zero_point"].all()
    obs.tofile(tmp_path / "obs.bin")
    in_node(web_page(policy_spec, params, {}), tmp_path, SCRIPT)
    found = np.fromfile(tmp_path / "actions.bin", np.uint8)
    np.testing.assert_array_equal(found, actions(policy_spec, params, obs)[:, 0])
    np.testing.assert_array_equal(found, jax.jit(jax.vmap(policy.act, (None, 0)))(params, obs))
    assert set(found) == {0, 1}
    bits = np.fromfile(tmp_path / "bits.bin", np.uint8).reshape(5000, -1)
    np.testing.assert_array_equal(bits, hidden_bits(numbers, policy_spec, obs[:5000]))


@needs_node
def test_rounding_and_counting(tmp_path):
    script = """
    const ties = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999999999999994, 8388607.5, -8388608.5, Infinity, -Infinity];
    const words = [0, 1, 0x80000000, 0xffffffff, 0x12345678, -1].map((word) => popcount(word));
    console.log(JSON.stringify([ties.map((x) => String(rint(x) + 0)), words]));
    """
    rounded, counted = json.loads(in_node(page(), tmp_path, script))
    assert [float(x) for x in rounded] == [-2, -2, 0, 0, 2, 2, 0, 8388608, -8388608, np.inf, -np.inf]
    assert counted == [0, 1, 1, 32, 13, 32]


# --- simulation --------------------------------------------------------------------------------------------------
@needs_node
def test_dynamics_are_those_of_the_environment(tmp_path):
    """Whole episodes of random actions, beside the float32 environment: 400 of them, to where each ends."""
    env, count, length = CartPole(), 400, 40
    states, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), count))
    chosen = np.random.default_rng(0).integers(0, 2, (count, length))
    starts, step, ours, ended = np.stack(states, 1), jax.jit(jax.vmap(env.step)), [], []
    for t in range(length):
        result = step(CartPoleState(*states), chosen[:, t])
        states = result.state
        ours.append(np.stack(states, 1))
        ended.append(np.asarray(result.terminated))
    (tmp_path / "start.json").write_text(json.dumps([starts.tolist(), chosen.tolist()]))
    script = """
    const [starts, chosen] = JSON.parse(require("node:fs").readFileSync("start.json", "utf8"));
    console.log(JSON.stringify(starts.map((start, i) => {
      let t = 0;
      const sim = new Simulation(() => chosen[i][t]), states = [];
      for (sim.reset(start); t < chosen[i].length && !sim.fallen; t++) {
        sim.step();
        states.push(sim.state);
      }
      return { states, fallen: sim.fallen, steps: sim.steps, falls: sim.falls, episodes: sim.episodes };
    })));
    """
    steps = 0
    for i, theirs in enumerate(json.loads(in_node(page(), tmp_path, script))):
        path, ends = np.stack(ours)[:, i], np.stack(ended)[:, i]
        alive = int(ends.argmax()) + 1 if ends.any() else length
        assert (len(theirs["states"]), theirs["steps"]) == (alive, alive)
        assert theirs["falls"] == theirs["episodes"] == theirs["fallen"] == ends.any()
        np.testing.assert_allclose(theirs["states"], path[:alive], atol=1e-4)
        steps += alive
    assert steps > 5000


@needs_node
def test_the_counters(tmp_path):
    script = """
    const sim = new Simulation(([, speed, angle, rate]) => (angle + 0.3 * rate + 0.05 * speed > 0 ? 1 : 0));
    const seen = () => [sim.steps, sim.best, sim.episodes, sim.falls];
    const found = [];
    sim.reset([0, 0, 0.01, 0]);
    for (const count of [499, 1, 1, 600]) { sim.advance(count); found.push(seen()); }
    sim.push = 30;
    while (!sim.fallen) sim.step();
    const short = sim.steps;
    sim.push = 0;
    sim.advance(2);
    found.push(seen());
    sim.restart();
    found.push(seen());
    console.log(JSON.stringify([found, short]));
    """
    found, short = json.loads(in_node(page(), tmp_path, script))
    assert short < 200
    assert found == [
        [499, 499, 0, 0],
        [500, 500, 1, 0],
        [1, 500, 1, 0],  # the next episode goes on where the pole is
        [101, 500, 2, 0],
        [2, 500, 3, 1],
        [0, 0, 0, 0],
    ]


# --- what the page says ------------------------------------------------------------------------------------------
def test_one_line_for_what_it_cannot_play():
    both = Sides(((0, 1), (2, 3)), ((1, 1), (1, 1)), ((0, 1), (2, 3)), ((0,), (1,)), ((1,), (1,)))
    for changes, said in (
        ({"precision": "float32"}, "given a float32 policy, expected int8 or binary"),
        ({"precision": "binary-act"}, "given a binary-act policy, expected int8 or binary"),
        ({"obs_size": 3}, "given 3 observations, expected 4"),
        ({"action_size": 3}, "given a discrete head of 3, expected a discrete head of 2"),
        ({"head": "box"}, "given a box head of 2, expected a discrete head of 2"),
        ({"sides": both}, "given a network that sides share, expected one without sides"),
        ({"metadata": {"env": "Acrobot-v1"}}, "given the environment 'Acrobot-v1', expected CartPole-v1"),
        ({"metadata": {"env": "a\nb" + "c" * 999}}, r"given the environment 'a\\nbc{77}', expected CartPole-v1"),
    ):
        with pytest.raises(ValueError, match=f"^the page plays CartPole-v1: {said}$"):
            page(**changes)


def test_metadata_is_shown():
    text = page(hidden=(16, 8), metadata={"env": "CartPole-v1", "seed": 1234, "env_steps": 181460, "return": 499.26})
    facts = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", text))
    assert facts == {
        "environment": "CartPole-v1",
        "precision": "binary",
        "network": "4–16–8–2",
        "seed": "1234",
        "env steps": "181,460",
        "return": "499.3",
    }
    without = re.findall(r"<dt>([^<]*)</dt><dd>", page(metadata={"seed": None, "eval_return": None}))
    assert without == ["environment", "precision", "network"]


def test_metadata_stays_text():
    hostile = "</script><b>{{NETWORK}}&"
    text = page(metadata={"seed": hostile, "return": hostile, "env_steps": ["<i>"], "other": hostile})
    assert text.count("&lt;/script&gt;&lt;b&gt;{{NETWORK}}&amp;") == 2
    assert "<b>{{" not in text and "<i>" not in text
    assert text.count("</script>") == page().count("</script>") == 2


def test_no_other_file_is_needed():
    text = page()
    assert not re.search(r"\{\{[A-Z_]+\}\}", text)
    assert re.findall(r"https?://[^\"' ]+", text) == ["http://www.w3.org/2000/svg"]  # a name, which nothing loads
    assert not re.search(r"@import|url\(|<script src|<link rel=\"stylesheet", text)


@pytest.mark.parametrize("precision, weights", [("binary", 64 // 8 + 128 // 8 + 16 // 8), ("int8", 64 + 128 + 16)])
def test_bytes_are_counted(precision, weights):
    policy, params = random_policy(0, precision, (16, 8), action_size=2)
    numbers = integers(policy.spec, params)
    for layer, bias in zip(numbers["layers"], (127, 128, -32769), strict=True):
        layer["bias"] = np.full_like(layer["bias"], bias)
    biases = 16 * 1 + 8 * 2 + 2 * 4
    assert parameter_bytes(numbers) == {"weights": weights, "biases": biases, "inputs": 4 * 4 + 4 * 2}
    numbers["input"]["zero_point"] = np.array([0, 0, 32768, 0], np.int32)
    assert parameter_bytes(numbers)["inputs"] == 4 * 4 + 4 * 4
    numbers["input"]["zero_point"] = np.zeros(4, np.int32)
    assert parameter_bytes(numbers)["inputs"] == 4 * 4


def test_bytes_of_copies_and_of_float32():
    text = page(hidden=(), weight_copies=3)
    shown = dict(re.findall(r'id="(bytes|float-bytes)">([^<]*)<', text))
    assert shown == {"bytes": str(3 * 8 // 8 + 2 + 24), "float-bytes": str(4 * (8 + 2 + 8))}
    assert network(text)["copies"] == 3
