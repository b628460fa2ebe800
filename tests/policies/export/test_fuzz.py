"""Ten thousand damaged bundles: each loads as what it says or is refused in one line, and what loads runs cleanly."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from support import sides
from support.policies import observations, random_policy

from polystep_rl.policies import PolicyFileError, io, read_policy
from polystep_rl.policies.export import bundle, native
from polystep_rl.policies.export.c import c_source
from polystep_rl.policies.runtime import Network, load

COUNT = 2_500  # of each kind
NUMBERS = (0, -1, 1, 2, 3, 7, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-300, 1e300, 3.5e38, None, True, "x", [], {}, [[1]])


@pytest.fixture
def exported(tmp_path):
    """A bundle with sides, which have most fields."""
    policy, params = sides.policy_and_params("binary", (8,))
    folder = tmp_path / "bundle"
    folder.mkdir()
    obs = observations(policy.spec, 64)
    obs = obs[np.isfinite(obs).all(axis=1)]
    tests = bundle.Vectors(obs, Network(policy.spec, params).actions(obs).astype(np.float32))
    meta = bundle.describe(policy.spec, {"env": "none", "name": "policy"}, tuple("abcdefgh"), 0.02)
    bundle.write_c(folder, "policy", policy.spec, params, meta, tests)
    bundle.write_vectors(folder, "policy", policy.spec, tests)
    bundle.write_makefile(folder, "policy")
    bundle.write_policy(folder, policy.spec, params, meta)
    return folder


def mutated(data, rng):
    """Bytes with some flipped, inserted, removed, doubled or cut off."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at, kind = int(rng.integers(len(data) or 1)), int(rng.integers(5))
        if kind == 0 and data:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 9))]
        elif kind == 3:
            del data[at:]
        else:
            data[at:at] = data[at : at + int(rng.integers(1, 64))]
    return bytes(data)


def checked(folder):
    """The policy, its files checked; or None where that is refused in one line."""
    try:
        policy = load(folder)
        bundle.check_files(folder, policy.metadata)
    except PolicyFileError as error:
        assert "\n" not in str(error) and 0 < len(str(error)) <= 500, error
        return None
    return policy


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors", "*"])
def test_damaged_bytes_are_refused_in_one_line(exported, name):
    rng = np.random.default_rng(0)
    names = sorted(path.name for path in exported.iterdir()) if name == "*" else [name]
    whole = {each: (exported / each).read_bytes() for each in names}
    saved, refused = read_policy(exported), 0
    for _ in range(COUNT):
        chosen = names[int(rng.integers(len(names)))]
        changed = mutated(whole[chosen], rng)
        (exported / chosen).write_bytes(changed)
        policy = checked(exported)
        refused += policy is None
        if policy is not None:  # spaces in the JSON, at most
            assert policy.spec == saved.spec and policy.metadata == saved.meta
            assert chosen == "policy.json" or changed == whole[chosen]
        (exported / chosen).write_bytes(whole[chosen])
    assert refused > 0.95 * COUNT and checked(exported) is not None


def places(value, path=()):
    """Every place in a document."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def changed(document, rng):
    """A copy with a value of its spec replaced, moved a little, removed or repeated."""
    document = json.loads(json.dumps(document))
    choices = [path for path in places(document["spec"]) if path]
    path = choices[int(rng.integers(len(choices)))]
    parent = document["spec"]
    for key in path[:-1]:
        parent = parent[key]
    kind, old = int(rng.integers(4)), parent[path[-1]]
    if kind == 0 and isinstance(parent, dict):
        del parent[path[-1]]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(path[-1], old)
    elif kind == 2 and isinstance(old, (int, float)) and not isinstance(old, bool):
        parent[path[-1]] = type(old)(old + rng.integers(-2, 3)) if isinstance(old, int) else old * 10 ** rng.normal()
    else:
        parent[path[-1]] = NUMBERS[int(rng.integers(len(NUMBERS)))]
    return document


def signed(folder, document, tensors):
    """Written as if it had been saved: all checksums are right."""
    document["params_sha256"] = io._params_digest(tensors)
    document["sha256"] = io._document_digest(document)
    text = json.dumps(document)
    (folder / "policy.safetensors").write_bytes(safetensors.numpy.save(tensors, metadata={"policy": text}))
    (folder / "policy.json").write_text(text)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("kind", ["sides", "box", "discrete", "int8"])
def test_a_changed_policy_with_right_checksums_is_refused_or_runs_within_bounds(tmp_path, kind):
    if kind == "sides":
        policy, params = sides.policy_and_params("binary", (8,))
    else:
        precision = "int8" if kind == "int8" else "binary"
        policy, params = random_policy(0, precision, (6, 5), "discrete" if kind == "discrete" else "box", 4, 3)
    io.save_policy(tmp_path, policy.spec, params, {"env": "none"})
    document = json.loads((tmp_path / "policy.json").read_text())
    tensors = safetensors.numpy.load_file(tmp_path / "policy.safetensors")
    rng, compiled, seen = np.random.default_rng(1), 0, set()
    for _ in range(COUNT // 4):
        own = dict(tensors)
        if rng.random() < 0.3:  # parameters that are no numbers, or huge
            name = sorted(own)[int(rng.integers(len(own)))]
            own[name] = np.where(rng.random(own[name].shape) < 0.3, rng.choice([np.nan, np.inf, -3e38, 0]), own[name])
            own[name] = own[name].astype(np.float32)
        signed(tmp_path, changed(document, rng), own)
        try:
            saved = read_policy(tmp_path)
        except PolicyFileError as error:
            assert "\n" not in str(error) and len(str(error)) <= 500
            seen.add(str(error).partition(": ")[2][:25])
            continue
        obs = observations(saved.spec, 100)
        actions = np.atleast_2d(Network(saved.spec, saved.params).actions(obs))
        assert np.isfinite(actions).all()
        if compiled < 6:
            compiled += 1
            wanted = actions.astype(native.action_type(saved.spec))
            made = c_source(saved.spec, saved.params, "policy", (obs[:4], wanted[:4]))
            (tmp_path / "policy.h").write_text(made.header)
            (tmp_path / "policy.c").write_text(made.source)
            with native.Program(tmp_path, "policy", saved.spec, "gcc", ("-O1", *native.SANITIZERS)) as program:
                np.testing.assert_array_equal(program.act(obs), wanted)
    assert compiled == 6 and len(seen) > 3
