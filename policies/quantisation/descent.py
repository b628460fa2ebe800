"""Coordinate descent over the integers of a policy, end to end: imitate given outputs without any gradient.

One weight at a time, in a random order, is changed (a binary one in one bit, an int8 one by a random step), or one
bias; the change stays if the mean loss over the calibration observations falls. The loss of a discrete head is the
cross-entropy of softmax(outputs / temperature) with the float policy's choice, of each group; that of a box head is
the squared error of the action in units of the box. Only rows in which the changed unit itself changes are computed
anew, so a trial costs far less than a forward pass. Where the sides of a body share the network, each side of an
observation is a row, and its own outputs are what is imitated.
"""

from __future__ import annotations

import numpy as np

from polystep_rl.policies.deployed import integer_weights
from polystep_rl.policies.forward import activate, finite, quantised_input
from polystep_rl.policies.precision import LayerPlan, plan, weight_unit
from polystep_rl.policies.quantisation.layerwise import Layers
from polystep_rl.types import QMAX, WEIGHT_UNIT, PolicySpec

TRIALS = 20_000  # changes that are tried
ROWS = 2_000  # observations that are used: the first ones
TEMPERATURE = 0.25  # of the softmax, in standard deviations of an output of a random policy


class _Network:
    """Integer weights and the outputs of all layers for all observations, kept up to date."""

    def __init__(self, spec: PolicySpec, params: Layers, obs: np.ndarray, target: np.ndarray) -> None:
        self.spec, self.plans = spec, plan(spec)
        arrays = [integer_weights(p, params[str(i)]["w"], params[str(i)]["b"]) for i, p in enumerate(self.plans)]
        self.w = [w.astype(np.float32) for w, _ in arrays]
        self.b = [b.astype(np.float32) for _, b in arrays]
        self.target = target
        self.x = [quantised_input(spec, obs).astype(np.float32)]
        self.acc: list[np.ndarray] = []
        for index, layer in enumerate(self.plans):
            self.acc.append(self.x[-1] @ self.w[index].T + self.b[index])
            self.x.append(activate(layer, self.acc[-1]).astype(np.float32))
        self.losses = self.loss(self.acc[-1], self.x[-1], slice(None))

    def loss(self, acc: np.ndarray, q: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
        """Loss of each row."""
        target = self.target[rows]
        if self.spec.head == "box":
            return ((q / QMAX - target) ** 2).mean(axis=1)
        logits = acc / np.float32(TEMPERATURE * self.plans[-1].deviation)
        ends = np.cumsum(self.spec.groups or (self.spec.action_size,))
        total = np.zeros(len(acc), np.float32)
        for g, part in enumerate(np.split(logits, ends[:-1], axis=1)):
            part = part - part.max(axis=1, keepdims=True)
            total += np.log(np.exp(part).sum(axis=1)) - part[np.arange(len(part)), target[:, g]]
        return total

    def attempt(self, layer: int, unit: int, column: np.ndarray) -> bool:
        """Whether new accumulators (n,) of one unit lower the loss; if so they are taken."""
        new = activate(self.plans[layer], column).astype(np.float32)
        last = layer == len(self.plans) - 1
        rows = np.flatnonzero(column != self.acc[layer][:, unit] if last else new != self.x[layer + 1][:, unit])
        if not len(rows):
            return False
        changed = []  # (acc, x) of the layers after, in those rows
        if last:
            acc = self.acc[layer][rows]
            acc[:, unit] = column[rows]
            changed.append((acc, activate(self.plans[layer], acc).astype(np.float32)))
        else:
            delta = new[rows] - self.x[layer + 1][rows, unit]
            acc = self.acc[layer + 1][rows] + delta[:, None] * self.w[layer + 1][:, unit]
            changed.append((acc, activate(self.plans[layer + 1], acc).astype(np.float32)))
            for index in range(layer + 2, len(self.plans)):
                acc = changed[-1][1] @ self.w[index].T + self.b[index]
                changed.append((acc, activate(self.plans[index], acc).astype(np.float32)))
        losses = self.loss(*changed[-1], rows)
        if losses.sum() >= self.losses[rows].sum() - 1e-5:
            return False
        self.losses[rows] = losses
        self.acc[layer][:, unit], self.x[layer + 1][:, unit] = column, new
        for index, (acc, x) in enumerate(changed, start=layer if last else layer + 1):
            self.acc[index][rows], self.x[index + 1][rows] = acc, x
        return True


def descend(
    spec: PolicySpec, params: Layers, observations: np.ndarray, target: np.ndarray, trials: int = TRIALS, seed: int = 0
) -> Layers:
    """Latents of an int8 or binary policy after coordinate descent from given ones.

    Args:
        spec: the policy.
        params: its latents.
        observations: (n, o), finite.
        target: what to imitate: (n, groups) int actions of a discrete or multidiscrete head (one group for discrete),
            or (n, a) box actions in units of the box, in [-1, 1]; of S sides (S, n, m), in the same units.
        trials: changes to try; 0 returns the latents as they are.
        seed: of the order.

    Returns:
        NumPy float32 latents; a weight whose sign was flipped keeps the size of its latent.
    """
    obs = finite(observations, spec.obs_size)[:ROWS]
    target = target[: len(obs)] if spec.sides is None else np.concatenate(target[:, : len(obs)])
    network, rng = _Network(spec, params, obs, target), np.random.default_rng(seed)
    sizes = [w.size + len(b) for w, b in zip(network.w, network.b, strict=True)]
    ends = np.cumsum(sizes)
    for start in range(0, trials, int(ends[-1])):
        taken = 0
        for at in rng.permutation(int(ends[-1]))[: trials - start]:
            layer = int(np.searchsorted(ends, at, side="right"))
            taken += _try(network, layer, int(at - (ends[layer] - sizes[layer])), rng)
        if not taken:
            break
    return _latents(network, params)


def _try(network: _Network, layer: int, at: int, rng: np.random.Generator) -> bool:
    """Try to change one weight, or one bias, of a layer."""
    w, b, plan_ = network.w[layer], network.b[layer], network.plans[layer]
    if at >= w.size:
        unit = at - w.size
        step = np.rint(rng.normal() * plan_.deviation / 4)
        new = np.float32(np.clip(b[unit] + step, -plan_.bias_max, plan_.bias_max))
        if network.attempt(layer, unit, network.acc[layer][:, unit] + (new - b[unit])):
            b[unit] = new
            return True
        return False
    unit, column = divmod(at, w.shape[1])
    old = w[unit, column]
    new = _neighbour(plan_, old, rng)
    if network.attempt(layer, unit, network.acc[layer][:, unit] + (new - old) * network.x[layer][:, column]):
        w[unit, column] = new
        return True
    return False


def _neighbour(layer: LayerPlan, old: np.float32, rng: np.random.Generator) -> np.float32:
    """Another value of a weight: near it in int8, with one of its one-bit weights changed in binary."""
    if layer.weight_max == QMAX:
        return np.float32(np.clip(old + np.rint(rng.normal() * WEIGHT_UNIT / 4), -QMAX, QMAX))
    step = 2 if rng.random() * 2 * layer.weight_max < layer.weight_max - old else -2  # each bit is as likely
    return np.float32(old + step)


def _latents(network: _Network, params: Layers) -> Layers:
    result = {}
    for index, layer in enumerate(network.plans):
        w, old = network.w[index], params[str(index)]["w"]
        latent = w * np.abs(old) if layer.weight_max == 1 else w / weight_unit(layer.weight_max)
        result[str(index)] = {
            "w": latent.astype(np.float32),
            "b": (network.b[index] / layer.bias_unit).astype(np.float32),
        }
    return result
