"""Measurements of MuJoCo Playground's velocity-tracking tasks beside the observation, the same in both simulators.

A critic's observation (``privileged_state``) holds the true state that the policy sees only with noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polystep_rl.types import Sides

PRIVILEGED = "privileged_state"
G1 = ("G1JoystickFlatTerrain", "G1JoystickRoughTerrain")
JOINTS = 29
RANGES = ("lin_vel_x", "lin_vel_y", "ang_vel_yaw")  # options of the task: m/s forward, m/s left, rad/s left

# First index of each part of G1's privileged observation, and its size.
_PARTS = {
    "command": (9, 3),
    "gyro": (103, 3),  # rad/s, of the pelvis, in its frame
    "gravity": (109, 3),  # where down is, in the frame of the pelvis
    "linvel": (112, 3),  # m/s, of the pelvis, in its frame
    "joints": (118, JOINTS),  # rad, from the default pose
    "joint_velocity": (147, JOINTS),  # rad/s
    "height": (176, 1),  # m, of the pelvis
    "torque": (177, JOINTS),  # N m
}

_GAIT_INPUTS = ((0, 1), (1, -1), (3, -1), (4, 1), (5, -1), (6, 1), (7, -1), (9, 1), (10, -1), (11, -1))  # index, mirror


def is_tracked(task: str) -> bool:
    """Whether a task's velocities and commands are measured."""
    return task.removesuffix("-v1") in G1


def commanded(command: Sequence[float]) -> dict[str, Any]:
    """Options of the task that give one command (3,), or none, and no pushes.

    The task replaces a tenth of all commands by zeros.
    """
    values = dict(zip(RANGES, map(float, command), strict=True))
    return {"push_enable": False, **{f"{name}_{end}": x for name, x in values.items() for end in ("min", "max")}}


def measured(task: str, privileged: Any) -> dict[str, Any]:
    """Named measurements from a privileged observation.

    Args:
        task: Playground's name of the task.
        privileged: (..., 216), a NumPy or JAX array.

    Returns:
        ``command_x``, ``command_y`` and ``velocity_x``, ``velocity_y`` (m/s, in the frame of the pelvis),
        ``command_yaw`` and ``velocity_yaw`` (rad/s), ``height`` (m, of the pelvis), ``power`` (W, the sum of
        |torque * joint velocity|), each (...); what `poses` reads: ``joints`` (..., 29), ``gravity``,
        ``linear_velocity`` and ``angular_velocity`` (..., 3). Nothing for tasks other than G1's.
    """
    if not is_tracked(task):
        return {}

    def part(name: str) -> Any:
        first, size = _PARTS[name]
        return privileged[..., first : first + size]

    command, linvel, gyro = part("command"), part("linvel"), part("gyro")
    return {
        "command_x": command[..., 0],
        "command_y": command[..., 1],
        "command_yaw": command[..., 2],
        "velocity_x": linvel[..., 0],
        "velocity_y": linvel[..., 1],
        "velocity_yaw": gyro[..., 2],
        "height": part("height")[..., 0],
        "power": abs(part("torque") * part("joint_velocity")).sum(-1),
        "joints": part("joints"),
        "gravity": part("gravity"),
        "linear_velocity": linvel,
        "angular_velocity": gyro,
    }


def poses(measured: Mapping[str, np.ndarray], default: np.ndarray, seconds_per_step: float) -> np.ndarray:
    """Positions of the robot in every step of an episode, as MuJoCo's qpos, from the output of `measured`.

    Joints, height, roll and pitch are those of the simulator; heading and position on the floor are not measured, and
    are integrated from the velocities, starting at 0.

    Args:
        measured: of t steps of one episode, each (t, ...).
        default: (29,) rad, the default pose.
        seconds_per_step: of control.

    Returns:
        (t, 36): position (m), orientation (unit quaternion, w first), joints (rad).
    """
    up = -measured["gravity"] / np.linalg.norm(measured["gravity"], axis=-1, keepdims=True)
    roll, pitch = np.arctan2(up[:, 1], up[:, 2]), np.arcsin(np.clip(-up[:, 0], -1, 1))
    _, q, r = measured["angular_velocity"].T
    turning = (q * np.sin(roll) + r * np.cos(roll)) / np.maximum(np.cos(pitch), 0.1)  # rad/s, of the heading
    yaw = np.cumsum(turning) * seconds_per_step
    half = np.stack([roll, pitch, yaw]) / 2
    (cr, cp, cy), (sr, sp, sy) = np.cos(half), np.sin(half)
    quaternion = [
        cr * cp * cy + sr * sp * sy,
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
    ]
    vx, vy, vz = measured["linear_velocity"].T
    ahead = vx * np.cos(pitch) + (vy * np.sin(roll) + vz * np.cos(roll)) * np.sin(pitch)
    left = vy * np.cos(roll) - vz * np.sin(roll)
    x = np.cumsum(ahead * np.cos(yaw) - left * np.sin(yaw)) * seconds_per_step
    y = np.cumsum(ahead * np.sin(yaw) + left * np.cos(yaw)) * seconds_per_step
    root = np.stack([x, y, measured["height"], *quaternion], axis=-1)
    return np.concatenate([root, default + measured["joints"]], axis=-1)


def gait_sides(task: str) -> Sides:
    """Legs of G1 that are each other's mirror image, each with the phase of its own stride (types.Sides).

    A leg sees the noisy velocity (forward, left), angular velocity (roll, pitch, yaw), gravity (forward, left) of the
    pelvis and the command, and makes the targets of its six joints and a part of the waist's three; arms stay.

    Raises:
        ValueError: a task whose gait is not known.
    """
    if not is_tracked(task):
        raise ValueError(f"{task}: the gait of this task is not known; expected one of {', '.join(G1)}")
    observations, mirrored = zip(*_GAIT_INPUTS, strict=True)
    legs, signs = tuple(range(6)), (1, -1, -1, 1, 1, -1)  # hip pitch, roll, yaw, knee, ankle pitch, roll
    waist, waist_signs = (12, 13, 14), (-1, -1, 1)  # yaw, roll, pitch
    return Sides(
        inputs=(observations, observations),
        input_signs=((1,) * len(observations), mirrored),
        phase=((99, 101), (100, 102)),
        outputs=((*legs, *waist), (*(leg + 6 for leg in legs), *waist)),
        output_signs=((1,) * 9, (*signs, *waist_signs)),
    )
