"""EnvPool's lanes: the simulator's own episodes, whatever subset of lanes is stepped."""

import jax
import numpy as np
import pytest

envpool = pytest.importorskip("envpool")

from polystep_rl.envs import make_any  # noqa: E402
from polystep_rl.envs.envpool_env import EnvPoolEnv, envpool_ids  # noqa: E402
from polystep_rl.policies import make_policy  # noqa: E402
from polystep_rl.rollout.host import HostEvaluator, HostLayout  # noqa: E402
from polystep_rl.rollout.score import Horizon  # noqa: E402

IDS = ("CartPole-v1", "LunarLander-v3", "Hopper-v5")


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """EnvPool imports libraries that warn."""
    yield


def actions(env, k, rng):
    return np.stack([env.spec.action_space.sample() for _ in range(k)])


def play(env, width, ticks, seed=3, subset=lambda t, width: np.arange(width)):
    """Ticks of the lanes that `subset` names, resetting at the start and after the end of an episode."""
    env.spec.action_space.seed(0)
    lanes, fresh, out = env.lanes(width, 1, seed), np.ones(width, bool), []
    sampled = [actions(env, width, None) for _ in range(ticks)]
    for t in range(ticks):
        which = subset(t, width)
        lanes.send(0, which, sampled[t][which], np.where(fresh[which], 1, -1))
        tick = lanes.recv(0)
        fresh[which] = tick.terminated | tick.truncated
        out.append((which, tick))
    lanes.close()
    return out


@pytest.mark.parametrize("env_id", IDS)
def test_equals_envpool_itself(env_id):
    env = EnvPoolEnv(env_id, max_episode_steps=12, crn=False)
    seed = int(np.random.SeedSequence(3).generate_state(1).astype(np.int64)[0] % (2**31 - 1))
    pool = envpool.make(env_id, env_type="gymnasium", num_envs=4, seed=seed, max_episode_steps=12)
    env.spec.action_space.seed(0)
    sampled = [actions(env, 4, None) for _ in range(30)]
    for (_, tick), action in zip(play(env, 4, 30), sampled, strict=True):
        obs, reward, terminated, truncated, info = pool.step(action.astype(pool.action_space.dtype))
        np.testing.assert_array_equal(tick.obs, np.asarray(obs, np.float32).reshape(4, -1))
        np.testing.assert_allclose(tick.reward, reward)
        np.testing.assert_array_equal(tick.terminated | tick.truncated, terminated | truncated)
        assert (tick.reward[info["elapsed_step"] == 0] == 0).all()


@pytest.mark.parametrize("env_id", IDS)
def test_spec_is_gymnasiums(env_id):
    gymnasium = pytest.importorskip("gymnasium")
    if env_id.startswith("Hopper"):
        pytest.importorskip("mujoco")
    if env_id.startswith("Lunar"):
        pytest.importorskip("Box2D")
    original, spec = gymnasium.make(env_id), EnvPoolEnv(env_id).spec
    assert spec.observation_space.shape == (np.prod(original.observation_space.shape),)
    assert spec.horizon == original.spec.max_episode_steps
    assert spec.action_space.shape == original.action_space.shape
    original.close()


def test_lanes_do_not_disturb_each_other():
    """A lane's episodes depend on what that lane was sent: others may rest or run."""
    env = EnvPoolEnv("CartPole-v1", crn=False)
    every = play(env, 6, 40)
    odd = play(env, 6, 40, subset=lambda t, width: np.arange(1, width, 2))
    for (_, all_lanes), (which, some) in zip(every, odd, strict=True):
        np.testing.assert_array_equal(all_lanes.obs[which], some.obs)
        np.testing.assert_array_equal(all_lanes.terminated[which], some.terminated)


def test_an_episode_can_be_cut():
    """A reset in the middle of an episode begins another, beside lanes that are stepped in the same tick."""
    env = EnvPoolEnv("CartPole-v1", crn=False)
    lanes, every = env.lanes(3, 1, 0), np.arange(3)
    zeros = np.zeros(3, np.int32)
    lanes.send(0, every, zeros, np.ones(3, np.int64))
    start = lanes.recv(0).obs
    lanes.send(0, every, zeros, np.full(3, -1))
    moved = lanes.recv(0)
    lanes.send(0, every, zeros, np.array([-1, 5, -1]))
    tick = lanes.recv(0)
    assert tick.reward.tolist() == [1.0, 0.0, 1.0] and moved.reward.tolist() == [1.0] * 3
    assert np.abs(tick.obs[1]).max() <= 0.05 and (tick.obs[1] != start[1]).any()
    for lane in (0, 2):  # the pushed pole goes on falling
        assert abs(tick.obs[lane, 3]) > abs(moved.obs[lane, 3])
    lanes.close()


def test_a_pool_is_a_function_of_its_seed():
    env = EnvPoolEnv("LunarLander-v3", max_episode_steps=40, crn=False)
    first, again, other = (play(env, 3, 60, seed) for seed in (1, 1, 2))
    assert all((a.obs == b.obs).all() for (_, a), (_, b) in zip(first, again, strict=True))
    assert any((a.obs != b.obs).any() for (_, a), (_, b) in zip(first, other, strict=True))


def test_evaluation_counts_living_steps():
    env = make_any("CartPole-v1", "envpool")
    assert env.simulator == "envpool" and env.crn and not make_any("CartPole-v1", "envpool", crn=False).crn
    policy = make_policy(env.spec, (4,), "binary")
    params = jax.vmap(policy.init)(jax.random.split(jax.random.key(0), 20))
    with HostEvaluator(env, policy, 3, HostLayout(lanes=24)) as evaluator:
        found = evaluator(jax.random.key(1), params, lambda x: x)
    np.testing.assert_array_equal(found.returns, found.lengths)  # a reward of 1 for every step
    assert found.env_steps == found.lengths.sum() and found.lengths.min() >= 8


@pytest.mark.parametrize("env_id", IDS)
def test_common_random_numbers(env_id):
    """Identical candidates get identical costs, whatever the lanes, and episodes differ from each other."""
    env = EnvPoolEnv(env_id, max_episode_steps=60)
    policy = make_policy(env.spec, (4,), "float32")
    same = jax.tree.map(lambda x: jax.numpy.stack([x] * 12), policy.init(jax.random.key(0)))
    results = []
    for lanes in (36, 8):
        with HostEvaluator(env, policy, 3, HostLayout(lanes=lanes)) as evaluator:
            results.append(evaluator(jax.random.key(1), same, lambda x: x))
            again = evaluator(jax.random.key(1), same, lambda x: x)
    for found in (*results, again):
        assert (found.returns == results[0].returns[0]).all()
    assert len(set(results[0].returns[0].tolist())) == 3 or env_id == "CartPole-v1"
    with HostEvaluator(EnvPoolEnv(env_id, max_episode_steps=60, crn=False), policy, 3) as evaluator:
        other = evaluator(jax.random.key(1), same, lambda x: x)
    assert len(set(other.returns[:, 0].tolist())) > 1


@pytest.mark.parametrize("crn", [True, False])
def test_episodes_cut_by_the_evaluator(crn):
    """A lane that is cut in the middle of an episode begins the next one with a reset."""
    env, short = EnvPoolEnv("Hopper-v5", crn=crn), EnvPoolEnv("Hopper-v5", crn=crn, max_episode_steps=7)
    policy = make_policy(env.spec, (), "float32")
    params = jax.vmap(policy.init)(jax.random.split(jax.random.key(0), 10))
    with (
        HostEvaluator(env, policy, 4, HostLayout(lanes=8), horizon=Horizon(7)) as cut,
        HostEvaluator(short, policy, 4, HostLayout(lanes=8)) as ended,
    ):
        one, two = (evaluator(jax.random.key(1), params, lambda x: x) for evaluator in (cut, ended))
    assert (one.lengths == 7).all() and (two.lengths == 7).all()
    if crn:
        np.testing.assert_array_equal(one.returns, two.returns)
    else:
        np.testing.assert_allclose(one.returns.mean(), two.returns.mean(), atol=0.3)  # other starts


def test_actions_are_never_nan_nor_outside_the_box():
    env = EnvPoolEnv("Hopper-v5")
    lanes = env.lanes(2, 1, 0)
    native = lanes._native(np.array([[np.nan, 5, -5], [0.5, np.inf, -np.inf]], np.float32))
    assert native.tolist() == [[0, 1, -1], [0.5, 1, -1]] and native.dtype == np.float64
    lanes.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Hoper-v5",), "did you mean Hopper-v5"),
        (("Hopper-v5", {"healthy_rewrd": 0}), "has no option 'healthy_rewrd': did you mean 'healthy_reward'?"),
        (("Hopper-v5", {"num_threads": 1}), "EnvPool's option 'num_threads' cannot be given"),
        (("Hopper-v5", {"seed": 3}), "EnvPool's option 'seed' cannot be given"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        EnvPoolEnv(*arguments)
    assert message in str(error.value)


def test_auto_takes_jax_then_envpool_then_gymnasium():
    assert not hasattr(make_any("CartPole-v1"), "lanes")
    assert make_any("LunarLander-v3").simulator == "envpool"
    assert "FrozenLake-v1" in envpool_ids() and make_any("FrozenLake-v1", workers="0").simulator == "gymnasium"
    assert make_any("CartPole-v1", wrappers=["FlattenObservation"], workers="0").simulator == "gymnasium"
    with pytest.raises(ValueError, match="`wrapper` needs `simulator` gymnasium"):
        make_any("CartPole-v1", "envpool", wrappers=["FlattenObservation"])


def test_a_single_core_has_one_group(monkeypatch):
    """Nothing takes turns there; without common random numbers the groups decide the episodes, so they stay."""
    env = EnvPoolEnv("CartPole-v1", max_episode_steps=60)
    policy = make_policy(env.spec, (4,), "binary")
    params = jax.vmap(policy.init)(jax.random.split(jax.random.key(0), 40))
    results, groups = [], []
    for cores in ({0, 1}, {0}):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: cores)
        with HostEvaluator(env, policy, 2, collect_moments=True) as evaluator:
            results.append(evaluator(jax.random.key(1), params, lambda x: x))
        pools = [EnvPoolEnv("CartPole-v1", crn=crn).lanes(16, 2, 0) for crn in (True, False)]
        groups.append([(pool.groups, pool.width) for pool in pools])
    assert groups == [[(2, 16), (2, 16)], [(1, 32), (2, 16)]]
    np.testing.assert_array_equal(results[0].returns, results[1].returns)
    np.testing.assert_array_equal(results[0].obs_moments.m2, results[1].obs_moments.m2)
