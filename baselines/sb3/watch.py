"""A callback that watches stable-baselines3's training: counts, reports, the budget, and the observations."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from polystep_rl.baselines.arithmetic import InputScales

CALIBRATION = 4096  # most recent training observations that post-training quantisation sees
RETURNS_WINDOW = 100  # episodes in rollout/ep_rew_mean, as in stable-baselines3


class Watch(BaseCallback):
    """Counts, reports at every multiple of eval_freq, and stops exactly at the budget.

    With ``scales``, the policy reads observations in the units that follow from all those before the present rollout.
    """

    def __init__(
        self,
        last: int,
        rollout: int,
        eval_freq: int,
        report: Callable[[int, dict[str, float]], bool],
        scales: InputScales | None = None,
    ) -> None:
        super().__init__()
        self.last, self.rollout, self.eval_freq, self.report = last, rollout, eval_freq, report
        self.scales = scales
        self.returns: list[float] = []
        self.ends: list[int] = []
        self.updates = 0
        self.interrupted = False
        self.seen: deque[np.ndarray] = deque()

    def _init_callback(self) -> None:
        self.seen = deque(maxlen=max(1, CALIBRATION // self.training_env.num_envs))
        critic = getattr(self.model, "critic", None)  # SAC and TD3: its updates are the gradient steps of SB3
        (critic or self.model.policy).optimizer.register_step_post_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.updates += 1

    def metrics(self) -> dict[str, float]:
        recent = self.returns[-RETURNS_WINDOW:]
        mean = float(np.mean(recent)) if recent else float("nan")
        return {"rollout/ep_rew_mean": mean, "episodes": float(len(self.returns)), "updates": float(self.updates)}

    def _on_rollout_start(self) -> None:
        if self.scales is not None:
            self.model.policy.network.scale_inputs(**self.scales.scales())

    def _on_step(self) -> bool:
        steps, n_envs = self.num_timesteps, self.training_env.num_envs
        self.seen.append(self.locals["new_obs"])
        if self.scales is not None:
            self.scales.add(self.locals["obs_tensor"].numpy())
        for info in self.locals["infos"]:
            if "episode" in info:
                self.returns.append(float(info["episode"]["r"]))
                self.ends.append(steps)
        if steps >= self.last:  # a complete rollout is still learned from; the rest of another would break the budget
            return self.last % self.rollout == 0
        if steps // self.eval_freq > (steps - n_envs) // self.eval_freq:
            self.interrupted = self.report(steps, self.metrics())
        return not self.interrupted
