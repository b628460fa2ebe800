"""The robot models of MuJoCo Playground without what is only seen.

Their meshes and textures are tens of megabytes that only rendering needs: the tasks collide primitives, and every body
carries its own inertia. Without them EnvPool makes a lane in milliseconds instead of half a second, and Playground,
which otherwise clones a repository of meshes, needs no network. The physics is the same to the last bit.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from xml.etree import ElementTree

MODELS = Path("mujoco", "playground", "assets", "mujoco_playground", "_src", "locomotion")  # in EnvPool's assets
ROBOTS = ("Apollo", "BerkeleyHumanoid", "G1", "Go1", "H1", "Op3", "Spot", "T1")  # whose models are in that folder
KEPT = (".xml", ".png")  # height fields are pictures, too


def without_visuals(xml: str) -> str:
    """An MJCF text without meshes, without geoms that show one, and without textures.

    What is removed must not collide, and bodies must carry their inertia, as in Playground's locomotion models.
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
    for file in sorted(models.rglob("*")):
        if file.suffix not in KEPT or not file.is_file():
            continue
        copy = target / MODELS / file.relative_to(models)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".xml":
            copy.write_text(without_visuals(file.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            shutil.copyfile(file, copy)
    return str(target)
