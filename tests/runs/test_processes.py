"""One run by several processes: the same run as that of one process, and all of them end together."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import assert_one_line
from support.processes import ended, free_port, start

from polystep_rl.records.metrics import read_metrics
from polystep_rl.runs import relay

GONE_SECONDS = 30  # docs/scale.md: within which the others have ended
QUICK = ("--eval-episodes", 7, "--test-episodes", 9, "--stop-reward", "None", "--quiet")
ACROBOT = ("--env", "Acrobot-v1", "--policy", "binary", "--eval-freq", 60_000, *QUICK)
HOST = ("--env", "CartPole-v1", "--simulator", "gymnasium", "--workers", 0, "--policy", "int8", "--observation-scale",
        "running", "--total-timesteps", "None", "--generations", 10, "--eval-freq", 3_000, *QUICK)  # fmt: skip


def test_one_run_by_one_two_and_one_process(cli: Callable, assert_same_run: Callable, tmp_path: Path) -> None:
    """Begun by two processes, continued by one, and by two again, of which one does not see the run folder."""
    whole, shared, elsewhere = tmp_path / "whole", tmp_path / "shared", tmp_path / "elsewhere"
    elsewhere.mkdir()
    full = cli("train", *ACROBOT, "--total-timesteps", 450_000, "--run-dir", whole)
    assert full.code == 0, full.err
    flags = (*ACROBOT, "--total-timesteps", 150_000, "--run-dir", shared, "--json")
    leader, other = ended(start([flags, flags]))
    assert leader[0] == other[0] == 0, leader[2] + other[2]
    assert json.loads(leader[1])["run_dir"] == str(shared) and leader[1].count("\n") == 1
    assert other[1] == "" and leader[2] + other[2] == ""
    middle = cli("train", "--resume", shared, "--total-timesteps", 300_000, "--quiet")
    assert middle.code == 0, middle.err
    again = ("--resume", "shared", "--total-timesteps", 450_000, "--quiet")
    for code, _, err in ended(start([again, again], [tmp_path, elsewhere])):
        assert code == 0 and err == "", err
    assert_same_run(whole, shared)
    assert not list(elsewhere.iterdir())
    assert len(read_metrics(whole / "metrics.csv")) > 12


@pytest.mark.slow
def test_host_simulators_of_two_processes(cli: Callable, assert_same_run: Callable, tmp_path: Path) -> None:
    """Each steps its share of the candidates, or of the episodes where there is one candidate."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    outcome = cli("train", *HOST, "--run-dir", alone)
    assert outcome.code == 0, outcome.err
    for code, _, err in ended(start([(*HOST, "--run-dir", shared)] * 2)):
        assert code == 0 and err == "", err
    assert_same_run(alone, shared)


@pytest.mark.parametrize(
    "killed, sent", [(1, signal.SIGKILL), pytest.param(0, signal.SIGKILL, marks=pytest.mark.slow), (1, signal.SIGINT)]
)
def test_when_one_ends_all_end(killed: int, sent: int, cli: Callable, tmp_path: Path) -> None:
    """In time, with one line; what was checkpointed goes on. An interrupt of one is one of all."""
    run = tmp_path / "run"
    endless = (*ACROBOT, "--total-timesteps", "None", "--wall-seconds", 200, "--run-dir", run)
    processes = start([endless] * 2)
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    processes[killed].send_signal(sent)
    began = time.monotonic()
    outcomes = ended(processes, GONE_SECONDS)
    assert time.monotonic() - began < GONE_SECONDS
    if sent == signal.SIGINT:
        assert [code for code, *_ in outcomes] == [130, 130]
        assert f"--resume {run}" in outcomes[0][2] and outcomes[1][2] == ""
    else:
        code, out, err = outcomes[1 - killed]
        assert code != 0 and out == ""
        said = r"polystep-rl: error: (process \d of 2|another process of this run) has gone.*\n"
        assert re.fullmatch(said, err) and (f"process {killed} of 2" in err or "another process" in err), err
    generations = len(read_metrics(run / "metrics.csv")) - 30  # what no checkpoint knows is done again
    resumed = cli("train", "--resume", run, "--generations", max(generations, 1), "--quiet", "--json")
    assert resumed.code == 0 and resumed.json["env_steps"] > 0, resumed.err


@pytest.mark.parametrize(
    "other, said",
    [
        (("--seed", 1), "seed is 1 here and 0 in process 0: give every process the same settings"),
        ((), "is not empty; choose another run folder"),
    ],
    ids=["settings", "folder"],
)
def test_what_one_cannot_do_ends_all(other: tuple, said: str, tmp_path: Path) -> None:
    """Each with one line that says why."""
    run = tmp_path / "run"
    run.mkdir()
    if not other:
        (run / "file").touch()
    flags = (*ACROBOT, "--run-dir", run)
    outcomes = ended(start([flags, (*flags, *other)]))
    for code, out, err in outcomes:
        assert code in (1, 2) and out == "" and err.count("\n") == 1 and said in err, err
        assert err.startswith("polystep-rl: error: ")
    assert sum("failed: " in err for *_, err in outcomes) == 1, "one failed, the other was told so"
    assert not (run / "config.yaml").exists()


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--num-processes", 2), "--num-processes 2 without --coordinator"),
        (("--process-id", 0), "--process-id 0 without --coordinator"),
        (("--coordinator", "here"), "--coordinator here: expected host:port"),
        (("--coordinator", "here:99999"), "--coordinator here:99999: expected host:port"),
        (("--coordinator", "here:1234"), "needs --num-processes and --process-id"),
        (("--coordinator", "here:1234", "--num-processes", 2), "needs --num-processes and --process-id"),
        (("--coordinator", "here:1234", "--num-processes", 0, "--process-id", 0), "--num-processes 0: expected at le"),
        (("--coordinator", "here:1234", "--num-processes", 2, "--process-id", 2), "--process-id 2: expected 0 to 1"),
        (("--coordinator", "here:1234", "--num-processes", 2, "--process-id", 0, "--algo", "ppo"), "with ppo"),
        (("--coordinator", "auto", "--seeds", "0-3"), "--seeds 0-3 with --coordinator"),
    ],
)
def test_flags_that_do_not_fit_together(flags: tuple, said: str, cli: Callable) -> None:
    assert_one_line(cli("train", *flags), 2, said)


def test_no_such_host_no_cluster_and_nobody_there() -> None:
    """Each in one line. How long processes wait for each other is five minutes; here it is five seconds."""
    for waits, flags, said in (
        (300, ("--coordinator", "host.invalid:1234", "--num-processes", "2", "--process-id", "1"), "no such host"),
        (300, ("--coordinator", "auto"), "no cluster found"),
        (5, ("--coordinator", f"localhost:{free_port()}", "--num-processes", "2", "--process-id", "0"), "did not meet"),
    ):
        code = "import sys; from polystep_rl.cli import main; from polystep_rl.runs import cluster\n"
        code += f"cluster.JOIN_SECONDS = {waits}\nsys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-P", "-c", code, "train", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode in (1, 2) and said in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("polystep-rl: error: ")


def test_the_relay_says_in_one_line_what_jax_says_in_many() -> None:
    fatal = (
        "W1130 08:30:39.801127 3307 preemption_sync_manager.cc:147] Failed: UNAVAILABLE: Socket closed\n"
        "Additional GRPC error information from remote target\n"
        "F1130 08:30:39.801237 3307 client.h:80] Terminating process because the JAX distributed service detected\n"
        "1\n\nRPC: /xla.coordination.CoordinationService/PollForError\n"
        "*** Check failure stack trace: ***\n    @     0x7f9cc5440634  absl::lts_20260107::log_internal\n"
    )
    command = [sys.executable, "-I", "-S", relay.__file__]

    def relayed(text: str) -> str:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=20).stdout

    assert relayed("[Gloo] Rank 0 is connected to 1 peer ranks.\nhello\n\n1\n") == "hello\n\n1\n"
    assert re.fullmatch("hello\npolystep-rl: error: another process .* has gone.*\n", relayed("hello\n" + fatal))
    ours = "polystep-rl: error: process 0 of 2 has gone\n"
    assert relayed(fatal + ours) == relayed(ours + fatal) == ours
