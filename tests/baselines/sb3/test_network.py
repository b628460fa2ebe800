"""Networks in PyTorch: gradients go straight through the integers, where they are wanted, and stop at the bounds."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")


from support.sb3 import cartpole, network, observations, pendulum  # noqa: E402

from polystep_rl.baselines.sb3.network import straight_through  # noqa: E402
from polystep_rl.policies import precision  # noqa: E402


@pytest.mark.parametrize("name", ["int8", "binary"])
@pytest.mark.parametrize("values", [False, True])
def test_scale_and_offset_do_not_change_the_order(name, values):
    spec = cartpole(name, (16, 16))
    net = network(spec, values=values)
    obs = torch.from_numpy(observations(spec, np.zeros((1, 4))))
    with torch.no_grad():
        net.log_scale.fill_(1.7)
        if values:
            net.offset.fill_(-2.0)
        raw, out = net.raw(obs), net(obs)
    expected = raw / precision.plan(spec)[-1].bias_unit * math.exp(1.7) + (-20.0 if values else 0.0)
    torch.testing.assert_close(out, expected)
    assert torch.equal(raw, torch.round(raw)) and torch.equal(net.act(obs), out.argmax(1))


def test_straight_through_has_the_exact_value_of_one_and_the_gradient_of_the_other():
    soft = torch.tensor([1e7 / 3, 0.1, -0.2], requires_grad=True)
    out = straight_through(torch.tensor([3.0, -0.7, 0.3]), soft * 2)
    assert out.tolist() == torch.tensor([3.0, -0.7, 0.3]).tolist()
    out.sum().backward()
    assert soft.grad.tolist() == [2, 2, 2]


@pytest.mark.parametrize(("name", "head"), [("int8", "d"), ("binary", "d"), ("int8", "box"), ("binary", "box")])
def test_without_estimators_nothing_of_an_integer_policy_has_a_gradient(name, head):
    spec = pendulum(name) if head == "box" else cartpole(name)
    obs = torch.randn(64, spec.obs_size)
    for gradients in ("none", "ste"):
        net = network(spec, gradients)
        (net(obs) ** 2).sum().add(sum(p.sum() * 0 for p in net.parameters())).backward()
        moved = [bool(p.grad.abs().max() > 0) for p in (*net.weights, *net.biases)]
        assert all(moved) if gradients == "ste" else not any(moved)
        assert net.log_scale is None or net.log_scale.grad.abs() > 0


@pytest.mark.parametrize("name", ["int8-act", "binary-act"])
def test_without_estimators_only_the_last_float_layer_has_a_gradient(name):
    net = network(cartpole(name), "none")
    (net(torch.randn(64, 4)) ** 2).sum().backward()
    first, last = net.weights[0].grad, net.weights[1].grad
    assert (first is None or not first.any()) and last.abs().max() > 0


def test_the_straight_through_gradient_is_that_of_the_float_policy_where_nothing_saturates():
    spec = cartpole("int8", (8,))._replace(obs_offset=(0.0,) * 4)  # zero points are rounded
    net = network(spec)
    first, last = precision.plan(spec)
    rng = np.random.default_rng(0)
    obs = np.asarray(spec.obs_offset) + np.asarray(spec.obs_scale) * rng.integers(-40, 40, (256, 4)) / 32  # no ties
    coefficients = torch.from_numpy(rng.normal(size=(256, 2)))
    with torch.no_grad():
        for weight, size in zip(net.weights, (4, 8), strict=True):
            weight.copy_(torch.from_numpy(rng.integers(-16, 17, weight.shape) / 32) / math.sqrt(size))
    (net(torch.from_numpy(obs.astype(np.float32))) * coefficients).sum().backward()

    w = [weight.detach().double().requires_grad_() for weight in net.weights]
    b = [bias.detach().double().requires_grad_() for bias in net.biases]
    x = torch.from_numpy((obs - spec.obs_offset) / np.asarray(spec.obs_scale))
    hidden = (x @ w[0].T + b[0]) * (first.bias_unit * first.mult / 2**first.shift)
    assert hidden.abs().max() < 126
    y = (hidden / precision.HIDDEN_RMS["tanh"]) @ w[1].T + b[1]
    (y * net.log_scale.exp().item() * coefficients).sum().backward()
    for mine, reference in zip((*net.weights, *net.biases), (*w, *b), strict=True):
        # the last weights see hidden integers that are rounded in the forward pass; the others no rounding at all
        error, rounded = (mine.grad - reference.grad).norm() / reference.grad.norm(), mine is net.weights[1]
        assert error < (0.06 if rounded else 1e-5)


@pytest.mark.parametrize("name", ["int8", "binary"])
def test_gradients_of_a_linear_integer_policy_are_exactly_the_inputs(name):
    spec = cartpole(name, ())
    net = network(spec)
    x = torch.tensor([[0.25, -1.0, 0.5, 0.125]])
    obs = x * torch.tensor(spec.obs_scale) + torch.tensor(spec.obs_offset)
    net(obs)[0, 0].backward()
    torch.testing.assert_close(net.weights[0].grad[0], x[0] * net.log_scale.exp().detach(), rtol=0, atol=2e-3)
    assert not net.weights[0].grad[1].any()


def test_gradients_stop_where_units_saturate_and_latents_are_kept_in_range():
    net = network(cartpole("int8", (1,)))
    with torch.no_grad():
        net.biases[0].fill_(3.0)  # 3 deviations: the unit is at 127
    net(torch.zeros(1, 4)).sum().backward()
    assert not net.weights[0].grad.any() and net.weights[1].grad.any()
    for name, limit in (("int8", 127 / 32), ("binary", 1.0)):
        net = network(cartpole(name))
        with torch.no_grad():
            net.weights[0].fill_(100.0)
            net.biases[1].fill_(-100.0)
        net.project()
        latents = net.latents()
        np.testing.assert_allclose(latents["0"]["w"], limit, rtol=1e-6)
        np.testing.assert_allclose(latents["1"]["b"], -4.0, rtol=0.05)
