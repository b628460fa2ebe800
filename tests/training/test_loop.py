"""The training loop: budgets, streams, learning on probes, and runs that do not depend on how they were cut up."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import mostly_slow
from support.evaluators import Wrapped
from support.training import Record
from support.trees import same

from polystep_rl.envs import make
from polystep_rl.errors import TrainError
from polystep_rl.policies import make_policy
from polystep_rl.rollout.device import DeviceEvaluator, evaluate_params
from polystep_rl.rollout.score import Horizon
from polystep_rl.runs.polystep import build_strategy
from polystep_rl.settings.run import SearchConfig
from polystep_rl.training import state
from polystep_rl.training.loop import train
from polystep_rl.training.programs import initial_progress
from polystep_rl.training.state import Budget, Observer, Progress, Result, streams
from polystep_rl.types import Evaluation, Evaluator, Proposal, Strategy

SEARCH = SearchConfig(subspace_size=8, particle_dim=8, epsilon=0.2, step_radius=1.0, probe_radius=2.0, episodes=8)
ADAM = SearchConfig(subspace="full", particle_dim=4, redraw_every=0, optimizer="adam", learning_rate=0.3, episodes=4)


class Task:
    """Everything but the settings."""

    def __init__(
        self,
        env_id: str,
        precision: str,
        search: SearchConfig = SEARCH,
        hidden: tuple[int, ...] = (8,),
        horizon: Horizon = Horizon(),
    ):
        self.env = make(env_id)
        self.policy = make_policy(self.env.spec, hidden, precision, 0.0, 0.25)
        self.strategy = build_strategy(search)
        self.evaluate = DeviceEvaluator(self.env, self.policy, search.episodes, horizon=horizon)
        self.centre = DeviceEvaluator(self.env, self.policy, 64)

    def start(self, seed: int = 0) -> Progress:
        keys = streams(seed)
        return initial_progress(self.strategy, self.policy.init(keys.policy), keys.strategy)

    def train(
        self, settings: Budget, observer: Observer | None = None, progress: Progress | None = None, seed: int = 0
    ) -> Result:
        progress = self.start(seed) if progress is None else progress
        return train(self.strategy, self.evaluate, self.centre, streams(seed), progress, settings, observer)


@pytest.fixture(scope="module")
def cartpole() -> Task:
    return Task("CartPole-v1", "binary")


# --- learning ------------------------------------------------------------------------------------------------------
QUICK = [("probe/ContextualBandit-v0", "binary"), ("probe/DelayedReward-v0", "float32")]
MORE = [
    ("probe/ContextualBandit-v0", "float32"),
    ("probe/DelayedReward-v0", "int8"),
    ("probe/DelayedReward-v0", "binary"),
]


@pytest.mark.parametrize("env_id, precision", mostly_slow(QUICK + MORE, QUICK[:1].__contains__), ids=str)
def test_learns_discrete_probes(env_id: str, precision: str) -> None:
    task = Task(env_id, precision)
    result = task.train(Budget(60_000, eval_freq=1000, stop_reward=task.env.best_return))
    assert result.stopped_by == "stop_reward"
    fresh = evaluate_params(task.centre, streams(0).test, result.progress.best_params)
    assert float(fresh.returns.mean()) == task.env.best_return


@pytest.mark.parametrize("env_id, enough", [("probe/Target-v0", -0.02), ("probe/Integrator-v0", -0.38)])
def test_learns_continuous_probes(env_id: str, enough: float) -> None:
    search = dataclasses.replace(
        SEARCH, step_radius_final=0.1, probe_radius_final=0.2, schedule_generations=150, episodes=16
    )
    task = Task(env_id, "float32", search)
    result = task.train(Budget(400_000, eval_freq=5000, stop_reward=enough))
    assert result.stopped_by == "stop_reward", float(result.progress.best_return)
    fresh = evaluate_params(task.centre, streams(0).test, result.progress.best_params)
    blind = {"probe/Target-v0": -1 / 6, "probe/Integrator-v0": -4 / 3}[env_id]
    assert blind < float(fresh.returns.mean()) - 0.1
    np.testing.assert_allclose(fresh.returns.mean(), task.env.best_return, atol=0.1)


# --- budgets -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("total", [1, 5000, 20_000, 33_333])
def test_env_steps_stay_within_the_budget(cartpole: Task, total: int) -> None:
    seen = Record()
    result = cartpole.train(Budget(total, eval_freq=10**9), seen)
    progress, steps = result.progress, [row["env_steps"] for row in seen.rows]
    assert result.stopped_by == "total_timesteps"
    assert progress.generation >= 1 and progress.env_steps == steps[-1]
    assert progress.env_steps <= total or progress.generation == 1
    assert progress.candidates == progress.generation * 16


def test_a_generation_that_does_not_fit_is_undone(cartpole: Task) -> None:
    """Budgets just below what a generation needs, so that the length of the last does not tell."""
    seen = Record()
    cartpole.train(Budget(None, generations=12, eval_freq=10**9), seen)
    ends = [row["env_steps"] for row in seen.rows]
    lengths = np.diff([0, *ends])
    longer = next(i for i in range(1, len(ends)) if lengths[i] > lengths[i - 1])
    result = cartpole.train(Budget(ends[longer] - 1, eval_freq=10**9))
    assert result.stopped_by == "total_timesteps" and result.progress.env_steps == ends[longer - 1]
    before = cartpole.train(Budget(None, generations=longer, eval_freq=10**9))
    assert same(result.progress.state, before.progress.state)


def test_other_budgets(cartpole: Task) -> None:
    result = cartpole.train(Budget(None, generations=7))
    assert (result.stopped_by, result.progress.generation) == ("generations", 7)
    result = cartpole.train(Budget(None, wall_seconds=1.0, eval_freq=10**9))
    assert result.stopped_by == "wall_seconds" and result.wall_seconds >= 1.0
    result = cartpole.train(Budget(None, generations=1000, eval_freq=10**9), Record(interrupt_after=3))
    assert result.stopped_by == "interrupt" and 3 <= result.progress.generation < 1000
    for bad in (Budget(None), Budget(10, eval_freq=0)):
        with pytest.raises(ValueError, match="budget|eval_freq"):
            cartpole.train(bad)


def test_stop_reward_needs_two_evaluations_in_a_row() -> None:
    """The centre's returns are played from a list."""
    played: list[float] = []
    script = [0.0, 5.0, 0.0, 5.0, 5.0, 5.0]

    def centre(key: Any, candidates: Any, decode: Any) -> Evaluation:
        value = jax.pure_callback(
            lambda: (played.append(script[len(played)]), np.float32(played[-1]))[1],
            jax.ShapeDtypeStruct((), np.float32),
        )
        out = task.evaluate(key, candidates, decode)
        return out._replace(returns=jnp.full_like(out.returns, value))

    task = Task("probe/Bandit-v0", "float32")
    task.centre = Wrapped(centre)
    seen = Record()
    result = task.train(Budget(100_000, eval_freq=500, stop_reward=5.0), seen)
    assert result.stopped_by == "stop_reward"
    assert [row["eval/mean_reward"] for row in seen.rows if row["eval/mean_reward"] is not None] == script[:5]
    assert result.progress.best_return == 5.0 and result.progress.evaluations == 5


# --- randomness ----------------------------------------------------------------------------------------------------
def test_streams_never_meet() -> None:
    def used(seed: int) -> dict[str, set]:
        keys = streams(seed)
        data = lambda key: tuple(np.asarray(jax.random.key_data(key)).tolist())  # noqa: E731
        several = {
            name: jax.vmap(lambda i, k=getattr(keys, name): jax.random.fold_in(k, i))(jnp.arange(500))
            for name in ("strategy", "episodes", "evaluation")
        }
        out = {name: set(map(tuple, np.asarray(jax.random.key_data(k)).tolist())) for name, k in several.items()}
        return out | {"test": {data(keys.test)}, "policy": {data(keys.policy)}}

    everything = [keys for seed in (0, 1) for keys in used(seed).values()]
    for a, b in itertools.combinations(everything, 2):
        assert not a & b


def test_evaluation_draws_other_episodes_than_training_and_test(cartpole: Task) -> None:
    """What is handed to the evaluators, recorded."""
    drawn: dict[str, list] = {"train": [], "centre": []}

    def spy(name: str, evaluator: Evaluator) -> Evaluator:
        def evaluate(key: Any, candidates: Any, decode: Any) -> Evaluation:
            jax.debug.callback(lambda k: drawn[name].append(tuple(k.tolist())), jax.random.key_data(key))
            return evaluator(key, candidates, decode)

        return Wrapped(evaluate)

    task = Task("probe/Bandit-v0", "float32")
    task.evaluate, task.centre = spy("train", task.evaluate), spy("centre", task.centre)
    task.train(Budget(None, generations=6, eval_freq=256))
    jax.effects_barrier()
    assert len(drawn["train"]) == 6 and len(drawn["centre"]) == 3
    assert len(set(drawn["train"]) | set(drawn["centre"])) == 9
    assert tuple(np.asarray(jax.random.key_data(streams(0).test)).tolist()) not in drawn["train"] + drawn["centre"]


def test_the_same_seed_gives_the_same_run(cartpole: Task) -> None:
    settings = Budget(40_000, eval_freq=10_000)
    first, second, other = Record(), Record(), Record()
    a, b = cartpole.train(settings, first), cartpole.train(settings, second)
    cartpole.train(settings, other, seed=1)
    assert first.table() == second.table() and same(a.progress, b.progress)
    assert first.table() != other.table()


def test_chunks_do_not_matter(cartpole: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Budget(60_000, eval_freq=15_000)
    by_chunks, one_by_one = Record(), Record()
    a = cartpole.train(settings, by_chunks)
    monkeypatch.setattr(state, "CHUNK_SECONDS", 0.0)
    b = cartpole.train(settings, one_by_one)
    assert max(by_chunks.chunks) > 1 and set(one_by_one.chunks) == {1}
    assert by_chunks.table() == one_by_one.table() and same(a.progress, b.progress)


def test_training_episodes_grow_over_the_budget() -> None:
    task, record = Task("CartPole-v1", "float32", horizon=Horizon(8, 128)), Record()
    task.train(Budget(40_000, eval_freq=10_000), record)
    lengths = [row["rollout/ep_len_mean"] for row in record.rows]
    assert 5 < lengths[0] <= 8, "nearly all of a first generation's are cut"
    before = [0, *(row["env_steps"] for row in record.rows)]
    for steps, length in zip(before, lengths, strict=False):
        assert length <= round(8 * 16 ** (steps / 40_000)) + 0.5
    assert max(lengths) > 4 * 8
    assert max(row["eval/mean_ep_length"] or 0 for row in record.rows) > 128, "evaluations are never cut"


@pytest.mark.parametrize(
    "search, horizon",
    [(SEARCH, Horizon()), (ADAM, Horizon()), (SEARCH, Horizon(10, 300))],
    ids=["plain", "adam", "growing episodes"],
)
def test_going_on_from_a_checkpoint_is_an_uninterrupted_run(search: SearchConfig, horizon: Horizon) -> None:
    task = Task("CartPole-v1", "binary", search, horizon=horizon)
    settings = Budget(80_000, eval_freq=20_000)
    whole, part, rest = Record(), Record(), Record()
    end = task.train(settings, whole)
    task.train(settings, part)
    middle = part.saved[1]
    assert 0 < middle.env_steps < end.progress.env_steps
    on_host = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.array(x), middle)
    resumed = task.train(settings, rest, on_host)
    assert whole.table()[int(middle.generation) :] == rest.table()
    assert same(end.progress, resumed.progress)


def test_a_longer_budget_extends_the_run(cartpole: Task) -> None:
    whole = cartpole.train(Budget(60_000, eval_freq=10_000)).progress
    half = cartpole.train(Budget(30_000, eval_freq=10_000)).progress
    assert same(cartpole.train(Budget(60_000, eval_freq=10_000), progress=half).progress, whole)


# --- what goes wrong -----------------------------------------------------------------------------------------------
def broken(share: float, search: SearchConfig = SEARCH) -> Task:
    """A task in which this share of the returns is NaN."""
    task = Task("probe/Bandit-v0", "float32", search)
    honest = task.evaluate

    def evaluate(key: Any, candidates: Any, decode: Any) -> Evaluation:
        from polystep_rl.rollout.score import finite_cost

        out = honest(key, candidates, decode)
        bad = jnp.arange(out.returns.size).reshape(out.returns.shape) < share * out.returns.size
        returns = jnp.where(bad, jnp.nan, out.returns)
        cost, nonfinite = finite_cost(returns)
        return out._replace(returns=returns, cost=cost, nonfinite=nonfinite)

    task.evaluate = Wrapped(evaluate)
    return task


def test_more_than_half_nonfinite_stops_the_run() -> None:
    with pytest.raises(TrainError, match="generation 1: more than half of the returns were NaN or infinite"):
        broken(0.51).train(Budget(None, generations=3))


def test_up_to_half_nonfinite_is_counted() -> None:
    seen = Record()
    result = broken(0.5).train(Budget(None, generations=3), seen)
    assert result.progress.generation == 3
    assert [row["rollout/nonfinite"] for row in seen.rows] == [64] * 3
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result.progress.best_params))


def test_an_evaluation_that_is_not_finite_is_never_the_best() -> None:
    task = Task("probe/Bandit-v0", "float32")
    honest = task.centre

    def centre(key: Any, candidates: Any, decode: Any) -> Evaluation:
        out = honest(key, candidates, decode)
        return out._replace(returns=jnp.full_like(out.returns, jnp.inf))

    task.centre = Wrapped(centre)
    result = task.train(Budget(None, generations=4, eval_freq=100))
    assert result.progress.evaluations > 0 and result.progress.best_return == -np.inf


def test_one_generation_compiles_once(cartpole: Task) -> None:
    traced = []

    def ask(key: Any, state: Any) -> Proposal:
        traced.append(1)
        return honest.ask(key, state)

    honest = cartpole.strategy
    task = Task("CartPole-v1", "binary")
    task.strategy = Strategy(honest.init, ask, honest.decode, honest.tell, honest.params)
    task.train(Budget(None, generations=9, eval_freq=3000))
    assert len(traced) <= 2  # for the shapes of the log, and to compile
