"""Files of stable-baselines3: our float32 policy acts like ``model.predict``, and nothing is unpickled."""

import warnings
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sb3 = pytest.importorskip("stable_baselines3")

import gymnasium  # noqa: E402
from gymnasium import spaces  # noqa: E402

from polystep_rl.baselines.sb3.import_model import read_sb3  # noqa: E402
from polystep_rl.policies import mlp_policy  # noqa: E402
from polystep_rl.policies.convert import ForeignMLP, from_foreign  # noqa: E402

BOX = spaces.Box(np.float32([-7 / 3, -2.5]), np.float32([1.1, 4.0]))
BUFFER = {"buffer_size": 10}
CASES = {
    "ppo-discrete": (sb3.PPO, spaces.Discrete(3), {"n_steps": 8, "batch_size": 8}),
    "ppo-box": (sb3.PPO, BOX, {"n_steps": 8, "batch_size": 8}),
    "ppo-multidiscrete": (sb3.PPO, spaces.MultiDiscrete([2, 4]), {"n_steps": 8, "batch_size": 8}),
    "a2c-box-relu": (sb3.A2C, BOX, {"policy_kwargs": {"activation_fn": torch.nn.ReLU, "net_arch": [9, 7]}}),
    "ppo-linear": (sb3.PPO, BOX, {"n_steps": 8, "batch_size": 8, "policy_kwargs": {"net_arch": []}}),
    "dqn": (sb3.DQN, spaces.Discrete(4), BUFFER),
    "sac": (sb3.SAC, BOX, {**BUFFER, "policy_kwargs": {"net_arch": [32, 32]}}),
    "td3": (sb3.TD3, BOX, {**BUFFER, "policy_kwargs": {"net_arch": [32, 16], "activation_fn": torch.nn.Tanh}}),
    "ddpg": (sb3.DDPG, BOX, {**BUFFER, "policy_kwargs": {"net_arch": [16]}}),
}


class Nothing(gymnasium.Env):
    """Spaces, and nothing else."""

    def __init__(self, action_space, observation_space=None):
        self.action_space = action_space
        self.observation_space = observation_space or spaces.Box(-np.inf, np.inf, (5,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(5, np.float32), {}


def saved(path, algorithm, action_space, arguments, observation_space=None):
    """A model with weights larger than those of the start, saved."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = algorithm("MlpPolicy", Nothing(action_space, observation_space), device="cpu", seed=0, **arguments)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save(path)
    return model


@pytest.mark.parametrize("case", CASES)
def test_the_policy_acts_like_the_model(tmp_path, case, monkeypatch):
    path = tmp_path / "model.zip"
    model = saved(path, *CASES[case])
    monkeypatch.setattr("pickle.loads", None)
    monkeypatch.setattr("cloudpickle.loads", None)
    spec, params = from_foreign(ForeignMLP(**read_sb3(path)))
    policy = mlp_policy(spec)
    obs = (2 * np.random.default_rng(0).normal(size=(400, 5))).astype(np.float32)
    got = np.asarray(policy.act_deployed(policy.deploy(params), obs.T)).T
    want = model.predict(obs, deterministic=True)[0]
    if spec.head == "box":
        np.testing.assert_allclose(got, want, atol=1e-5)
        assert np.all(want.std(axis=0) > 0.01)
    else:
        np.testing.assert_array_equal(got, want)
        assert len(np.unique(want)) > 1


def test_what_the_file_does_not_say_is_an_argument(tmp_path):
    path = tmp_path / "model.zip"
    saved(path, *CASES["ppo-box"])
    read = read_sb3(path, activation="relu", action_low=(-1.0, -1.0), action_high=(1.0, 2.0))
    assert (read["activation"], read["action_low"], read["action_high"]) == ("relu", (-1.0, -1.0), (1.0, 2.0))
    assert read_sb3(path)["action_low"] == (-2.3333333, -2.5) and read_sb3(path)["activation"] == "tanh"


@pytest.mark.parametrize(
    ("algorithm", "space", "arguments", "message"),
    [
        (sb3.PPO, spaces.Discrete(3, start=1), {}, "must count from 0"),
        (sb3.PPO, spaces.MultiBinary(3), {}, "action space is MultiBinary"),
        (sb3.PPO, BOX, {"policy_kwargs": {"activation_fn": torch.nn.ELU}}, "activation ELU: only Tanh and ReLU"),
        (sb3.SAC, BOX, {**BUFFER, "use_sde": True}, "without gSDE"),
        (sb3.PPO, BOX, {"use_sde": True, "policy_kwargs": {"squash_output": True}}, "squash_output is not read"),
    ],
)
def test_other_policies_are_refused_in_one_line(tmp_path, algorithm, space, arguments, message):
    path = tmp_path / "model.zip"
    saved(path, algorithm, space, arguments)
    with pytest.raises(ValueError, match=message) as error:
        read_sb3(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(path))


def test_other_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "model.zip"
    contents = [b"", b"PK\x03\x04" * 9, None, {"data": b"{}"}, {"data": b"[", "policy.pth": b""}]
    contents += [{"data": b"[]", "policy.pth": b"x"}, {"data": b"{}", "policy.pth": b"\x80\x02]q\x00."}]
    for content in contents:
        path.unlink(missing_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in content.items():
                    archive.writestr(name, data)
        with pytest.raises(ValueError) as error:
            read_sb3(path)
        assert "\n" not in str(error.value) and str(error.value).startswith(str(path)), content
