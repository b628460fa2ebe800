"""Ray itself: how it is reached, what is said where it is not, and that one which was started here ends."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import all_gone

from polystep_rl.envs import make_any
from polystep_rl.envs.host.gymnasium_env import GymnasiumEnv
from polystep_rl.envs.host.ray_cluster import ray_address

pytest.importorskip("ray")


HERE = str(Path(__file__).resolve().parents[2])
LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
slow = pytest.mark.slow


@pytest.mark.parametrize(
    "workers, address",
    [("ray", ""), ("ray:auto", "auto"), ("ray:10.0.0.1:6379", "10.0.0.1:6379"), ("ray://a:10001", "ray://a:10001")],
)
def test_addresses(workers, address):
    assert ray_address(workers) == address


@pytest.mark.parametrize(
    "workers, message",
    [
        ("ray:", "expected ray, ray:auto, ray:HOST:PORT or ray://HOST:PORT"),
        ("spark", "expected ray, ray:auto"),
        ("ray:nowhere", "no Ray cluster at nowhere: expected HOST:PORT"),
        ("ray:127.0.0.1:9", r"no Ray cluster at 127.0.0.1:9: .*refused"),
        ("ray://127.0.0.1:9", r"no Ray cluster at ray://127.0.0.1:9: .*refused"),
    ],
)
def test_what_cannot_be_reached_is_said_in_one_line(workers, message):
    with pytest.raises(ValueError, match=message) as error:
        GymnasiumEnv("CartPole-v1", workers=workers).lanes(1, 1, 0)
    assert "\n" not in str(error.value)


def test_a_missing_ray_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"^`workers` ray needs Ray: pip install 'polystep-rl\[ray\]'$"):
        make_any("CartPole-v1", "gymnasium", None, (), None, "ray")


PARENT = """
import os, signal, sys, time
import numpy as np
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from polystep_rl.envs.host.gymnasium_env import GymnasiumEnv
pool = GymnasiumEnv("CartPole-v1", workers="ray:local").lanes(2, 1, 0)
pool.send(0, np.arange(2), np.zeros(2, np.int32), np.zeros(2, int))
pool.recv(0)
def parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
def family():
    parents = {int(name): parent(name) for name in os.listdir("/proc") if name.isdecimal()}
    found, last = {os.getpid()}, 0
    while len(found) > last:
        last = len(found)
        found |= {pid for pid, its in parents.items() if its in found}
    # Two helpers of Ray's take a minute to believe that a parent that was killed is gone.
    patient = {pid for pid in found if "Agent" in Path(f"/proc/{pid}/cmdline").read_text()}
    return found - {os.getpid()} - (patient if sys.argv[2] == "kill" else set())
print(*family(), flush=True)
if sys.argv[2] == "close":
    pool.close()
    import ray
    assert not ray.is_initialized() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    print("closed", flush=True)
if sys.argv[2] != "exit":
    time.sleep(100)
"""


@slow
@LINUX
@pytest.mark.parametrize("end", ["close", "exit", "kill"])
def test_a_ray_that_was_started_for_a_pool_ends_with_it(end):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, HERE, end], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) >= 3 and all(map(Path.exists, (Path(f"/proc/{pid}") for pid in pids)))
        if end == "close":
            assert parent.stdout.readline() == "closed\n"
        elif end == "kill":
            parent.kill()
        assert all_gone(pids)
    finally:
        parent.kill()
        output, errors = parent.communicate(timeout=60)
    assert output == errors == ""
