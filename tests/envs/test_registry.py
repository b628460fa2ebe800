"""Names: what make finds, and the one line that it says where it finds nothing."""

import pytest

from polystep_rl import envs
from polystep_rl.envs.classic.cartpole import CartPole
from polystep_rl.types import Env


@pytest.mark.parametrize("env_id", envs.registered_ids())
def test_every_registered_id_makes_a_valid_environment(env_id):
    env = envs.make(env_id)
    assert isinstance(env, Env) and env.spec.id == env_id
    envs.check_env(env)


def test_register_adds_an_environment_with_its_arguments():
    envs.register("test/Mine-v0", CartPole)
    envs.register("test/Mine-v0", CartPole)  # the same again is harmless: modules are reloaded in notebooks
    assert "test/Mine-v0" in envs.registered_ids()
    assert envs.make("test/Mine-v0", sutton_barto_reward=True).sutton_barto_reward


def test_import_path_makes_an_environment():
    assert envs.make("polystep_rl.envs.classic.cartpole:CartPole").spec.id == "CartPole-v1"


@pytest.mark.parametrize(
    "env_id, message",
    [
        ("Cartpole-v1", r"unknown environment 'Cartpole-v1': did you mean CartPole-v1"),
        ("pendulum", r"did you mean Pendulum-v1"),
        ("xyzzy", r"unknown environment 'xyzzy': known ids: Acrobot-v1, "),
        ("no_such_module:Env", r"cannot import environment 'no_such_module:Env': No module named"),
        (":Env", r"must look like 'module:ClassName'"),
        ("polystep_rl.envs.classic.cartpole:CartPol", r"has no 'CartPol'; did you mean CartPole\?"),
        ("polystep_rl.envs.classic.cartpole:DT", r"is a float, not a class or a function"),
        ("builtins:dict", r"gave a dict, which lacks spec, reset or step"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(env_id, message):
    with pytest.raises(ValueError, match=message) as error:
        envs.make(env_id)
    assert "\n" not in str(error.value)


def test_wrong_argument_is_said_in_one_line():
    with pytest.raises(ValueError, match=r"'Pendulum-v1' cannot be made .* unexpected keyword argument 'gravity'"):
        envs.make("Pendulum-v1", gravity=1.0)


@pytest.mark.parametrize(
    "env_id, factory, message",
    [
        ("CartPole-v1", dict, "already registered"),
        ("a:b", CartPole, "without spaces or colons"),
        ("", CartPole, "non-empty"),
        ("test/Other-v0", 3, "callable or an import path"),
        ("test/Other-v0", "no_colon", "callable or an import path"),
    ],
)
def test_what_cannot_be_registered_is_refused(env_id, factory, message):
    with pytest.raises(ValueError, match=message):
        envs.register(env_id, factory)
