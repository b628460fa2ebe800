"""Facts of a task that a deployed controller needs: names of the observations, time between two actions."""

from __future__ import annotations

_XY = ("x", "y")
_G1_PARTS = (
    ("linear_velocity", 3),  # m/s, of the pelvis, in its frame
    ("gyro", 3),  # rad/s
    ("gravity", 3),  # where down is, in the frame of the pelvis
    ("command", 3),  # m/s forward, m/s left, rad/s left
    ("joint_position", 29),  # rad, from the default pose
    ("joint_velocity", 29),  # rad/s
    ("last_action", 29),
)
NAMES: dict[str, tuple[str, ...]] = {
    "CartPole-v1": ("cart_position_m", "cart_velocity_m_s", "pole_angle_rad", "pole_velocity_rad_s"),
    "Acrobot-v1": ("cos_theta1", "sin_theta1", "cos_theta2", "sin_theta2", "theta1_rad_s", "theta2_rad_s"),
    "Pendulum-v1": ("cos_theta", "sin_theta", "theta_rad_s"),
    "MountainCar-v0": ("position", "velocity"),
    "MountainCarContinuous-v0": ("position", "velocity"),
    "LunarLander-v3": (
        *(f"position_{axis}" for axis in _XY),
        *(f"velocity_{axis}" for axis in _XY),
        "angle_rad",
        "angular_velocity",
        "left_leg_contact",
        "right_leg_contact",
    ),
    "G1JoystickFlatTerrain": (
        *(f"{part}_{i}" for part, size in _G1_PARTS for i in range(size)),
        *("cos_phase_left", "cos_phase_right", "sin_phase_left", "sin_phase_right"),
    ),
}
NAMES["G1JoystickRoughTerrain"] = NAMES["G1JoystickFlatTerrain"]

CONTROL_DT = {  # s
    "CartPole-v1": 0.02,
    "Acrobot-v1": 0.2,
    "Pendulum-v1": 0.05,
    "LunarLander-v3": 0.02,
    "HalfCheetah-v5": 0.05,
    "Hopper-v5": 0.008,
    "Swimmer-v5": 0.04,
    "Humanoid-v5": 0.015,
    "G1JoystickFlatTerrain": 0.02,
    "G1JoystickRoughTerrain": 0.02,
}


def observation_names(env: str, size: int) -> tuple[str, ...]:
    """Names of the observations (o,) in order; ``observation_0`` and so on where they are unknown."""
    names = NAMES.get(env, ())
    return names if len(names) == size else tuple(f"observation_{i}" for i in range(size))


def control_dt(env: str) -> float | None:
    """Seconds between two actions; None where the task has no time."""
    return CONTROL_DT.get(env)
