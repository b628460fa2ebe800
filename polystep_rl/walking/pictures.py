"""A walking robot at fixed commands: what its policy does with each, as numbers, a figure and a film."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polystep_rl.errors import ConfigError
from polystep_rl.rollout.recording import Recorded
from polystep_rl.walking.tracking import AXES

COMMANDS = {  # forward and left in m/s, turn to the left in rad/s
    "stand": (0.0, 0.0, 0.0),
    "forward": (0.5, 0.0, 0.0),
    "backward": (-0.5, 0.0, 0.0),
    "left": (0.0, 0.3, 0.0),
    "turn left": (0.0, 0.0, 0.5),
}
NEEDS = "needs more packages: pip install 'polystep-rl[play]'"
UNITS = dict(zip(AXES, ("forward, m/s", "left, m/s", "turn, rad/s"), strict=True))


def obeying(recorded: Recorded, command: Sequence[float]) -> np.ndarray:
    """Episodes (indices) that began with the command: the task replaces a part of all commands by zeros."""
    asked = np.stack([recorded.metrics[f"command_{axis}"][0] for axis in AXES], axis=-1)
    return np.flatnonzero(np.abs(asked - np.asarray(command)).max(axis=-1) < 1e-3)


def velocities(recorded: Mapping[str, Recorded], stem: Path, seconds_per_step: float, seconds: float) -> list[Path]:
    """Figure of commanded against measured velocity: a column for each command, mean and 10 to 90 % of the episodes.

    Args:
        recorded: by command; only `obeying` episodes. At the bottom, the share of them that is still up.
        stem: where to write SVG and PNG, without suffix.
        seconds_per_step: of control.
        seconds: to draw.

    Raises:
        ValueError: one line, without matplotlib.
    """
    try:
        import matplotlib
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError(f"a figure {NEEDS}") from None
    from polystep_rl.analysis.figures import RC, WIDTH, save
    from polystep_rl.analysis.palette import BLUE, VERMILLION

    steps = round(seconds / seconds_per_step)
    with matplotlib.style.context("default"), matplotlib.rc_context(RC):
        figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
        grid = figure.subplots(4, len(recorded), squeeze=False, sharex=True, sharey="row")
        for column, (name, found) in zip(grid.T, recorded.items(), strict=True):
            alive = found.alive[:steps]
            lasting = alive.any(axis=1)
            time = np.arange(1, len(alive) + 1) * seconds_per_step
            column[0].set_title(f"{name} ({alive.shape[1]})")
            for axes, axis in zip(column, AXES, strict=False):
                for kind, color, dash in (("velocity", BLUE, "-"), ("command", VERMILLION, "--")):
                    values = np.where(alive, found.metrics[f"{kind}_{axis}"][:steps], np.nan)[lasting]
                    axes.plot(time[lasting], np.nanmean(values, axis=1), dash, color=color)
                    if kind == "velocity":
                        low, high = np.nanquantile(values, (0.1, 0.9), axis=1)
                        axes.fill_between(time[lasting], low, high, color=color, alpha=0.18, linewidth=0)
                axes.set_ylim(-1.5, 1.5)
            up = np.zeros(steps)
            up[: len(alive)] = alive.mean(axis=1)
            column[3].plot(np.arange(1, steps + 1) * seconds_per_step, up, color=BLUE)
            column[3].set_ylim(-0.03, 1.03)
        for axes, label in zip(grid[:, 0], (*UNITS.values(), "share up"), strict=True):
            axes.set_ylabel(label)
        figure.supxlabel("seconds", fontsize=10)
        figure.suptitle("Commanded (dashed) and measured velocity: mean and 10 to 90 % of the episodes that are up")
        return save(figure, stem)


class Look(NamedTuple):
    """How a film is made."""

    width: int = 900  # pixels, all commands side by side
    every: int = 2  # steps a frame
    steps: int = 500  # at most


def film(model: Any, walks: Mapping[str, np.ndarray], look: Look = Look()) -> list[np.ndarray]:
    """Frames (h, w, 3) uint8 of robots side by side; one that has fallen stays on its last picture, grey.

    Args:
        model: MuJoCo's, compiled, whose qpos is the robot's.
        walks: by command, (t, nq) as `envs.locomotion.poses` gives.
        look: size and speed.

    Raises:
        ValueError: one line, where there is nothing to render with.
    """
    import mujoco

    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise ValueError(f"a film {NEEDS}") from None
    wide = max(32, look.width // len(walks) // 2 * 2)
    tall = wide * 4 // 3 // 2 * 2
    data, camera = mujoco.MjData(model), mujoco.MjvCamera()
    camera.distance, camera.azimuth, camera.elevation = 2.6, 140.0, -12.0
    shown = mujoco.MjvOption()
    shown.flags[mujoco.mjtVisFlag.mjVIS_INERTIA] = model.nmesh == 0  # bodies without a mesh as boxes
    try:
        renderer = mujoco.Renderer(model, tall, wide)
    except Exception as error:
        raise ValueError(
            f"MuJoCo cannot render here ({error}): on a machine without a screen, set MUJOCO_GL=egl or osmesa"
        ) from None

    @functools.cache
    def picture(name: str, step: int) -> np.ndarray:
        walk = walks[name]
        pose, fallen = walk[min(step, len(walk) - 1)], step >= len(walk)
        data.qpos[:] = pose
        mujoco.mj_forward(model, data)
        camera.lookat[:] = pose[0], pose[1], 0.65
        renderer.update_scene(data, camera, shown)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False  # slow where no GPU renders
        image = Image.fromarray(renderer.render())
        image = image.convert("L").convert("RGB") if fallen else image
        ImageDraw.Draw(image).text((6, 4), name, fill=(0, 0, 0))
        return np.asarray(image)

    longest = min(look.steps, max(map(len, walks.values())))
    frames: list[np.ndarray] = []
    with renderer:
        for step in range(0, longest, look.every):
            tiles = [picture(name, min(step, len(walk))) for name, walk in walks.items()]
            frames.append(np.concatenate(tiles, axis=1))
    return frames


def write_film(path: Path, frames: list[Any], seconds_per_frame: float, width: int) -> None:
    """Write RGB frames (h, w, 3) uint8 as a GIF or MP4 of the given width. ConfigError for another ending."""
    from PIL import Image

    if path.suffix.lower() not in (".gif", ".mp4"):
        raise ConfigError(f"`gif` {path}: expected a name that ends in .gif or .mp4")
    pictures = [Image.fromarray(frame) for frame in frames]
    height = round(pictures[0].height * width / pictures[0].width / 2) * 2
    pictures = [picture.resize((width // 2 * 2, height), Image.Resampling.LANCZOS) for picture in pictures]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".gif":
        # GIF times are whole hundredths of a second, and most viewers slow down what is shorter than two of them.
        duration = max(20, round(seconds_per_frame * 100) * 10)
        first, *rest = [picture.quantize(64, dither=Image.Dither.NONE) for picture in pictures]
        first.save(path, save_all=True, append_images=rest, duration=duration, loop=0, optimize=True)
        return
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg  # noqa: F401
        import numpy as np
    except ImportError:
        raise ValueError("writing MP4 needs more packages: pip install 'polystep-rl[video]', or write a .gif") from None
    imageio.mimwrite(path, [np.asarray(picture) for picture in pictures], fps=1 / seconds_per_frame)
