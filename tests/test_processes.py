"""What several processes share: shares that make a whole, and numbers that travel as they are."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from support.processes import free_port

from polystep_rl.processes import agreed, everyone, from_leader, joined_parts, own_copy, part_of, same_everywhere

CHILD = """
import sys, jax, numpy as np
from polystep_rl import processes
jax.config.update("jax_num_cpu_devices", 1 + int(sys.argv[2]))  # another number in each
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
me = jax.process_index()
rng = np.random.default_rng(me)
tree = {"a": rng.normal(size=(2, 3)), "b": np.int64(2**40 + me), "c": np.array([me == 0, True]), "d": np.zeros(0)}
found = processes.everyone(tree)
for k in range(2):
    rng = np.random.default_rng(k)
    assert (found["a"][k] == rng.normal(size=(2, 3))).all() and found["a"].dtype == np.float64
    assert found["b"][k] == 2**40 + k and found["c"][k].tolist() == [k == 0, True] and found["d"].shape == (2, 0)
assert processes.from_leader(b"abc" if me == 0 else None) == b"abc"
assert processes.from_leader(None if me == 0 else b"x") is None
assert processes.from_leader(b"") == b""
assert processes.agreed(1.5 + me, 3 + me, me == 1) == (1.5, 3, True)
assert processes.leads() == (me == 0)
key = jax.random.key(3)
assert processes.same_everywhere({"x": np.arange(3), "key": key}, "same")
assert not processes.same_everywhere(np.arange(3) + me)
assert not processes.same_everywhere(jax.random.key(me))
assert not processes.same_everywhere(np.arange(3), str(me))
out = processes.jitted(lambda x: (2 * x, key))(np.arange(3.0))
assert out[0].tolist() == [0, 2, 4] and jax.random.key_data(out[1]).tolist() == jax.random.key_data(key).tolist()
jax.distributed.shutdown()
"""


def test_two_processes() -> None:
    port = str(free_port())
    command = [sys.executable, "-P", "-c", CHILD, port]
    started = [subprocess.Popen([*command, str(k)], stderr=subprocess.PIPE, text=True) for k in range(2)]
    for process in started:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err


def test_alone() -> None:
    assert everyone(np.arange(3)).tolist() == [[0, 1, 2]]
    assert from_leader(b"x") == b"x" and from_leader(None) is None
    assert agreed(1.0, 2, True) == (1.0, 2, True)
    assert same_everywhere(np.arange(3))
    key = jax.random.key(0)
    assert own_copy(key) is key


@pytest.mark.parametrize("n, episodes, count", [(7, 3, 1), (7, 3, 2), (7, 3, 5), (7, 3, 7), (1, 9, 4), (2, 2, 5)])
def test_shares_make_the_whole(n: int, episodes: int, count: int) -> None:
    """Every pair is in one share, at its place once they are joined; none has more than its size."""
    whole = np.arange(1, n * episodes + 1, dtype=float).reshape(n, episodes)
    parts = []
    for index in range(count):
        share = part_of(n, episodes, index, count)
        own = whole[share.candidates, share.episodes]
        assert own.shape[0] <= share.shape[0] and own.shape[1] <= share.shape[1]
        part = np.zeros(share.shape)
        part[: own.shape[0], : own.shape[1]] = own
        parts.append(part)
    assert sum((part > 0).sum() for part in parts) == n * episodes
    assert (joined_parts(np.stack(parts), n, episodes) == whole).all()
