"""The built wheel holds the package, all of it, and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "polystep_rl": "polystep_rl",
    "envs": "polystep_rl/envs",
    "policies": "polystep_rl/policies",
    "baselines": "polystep_rl/baselines",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel built from a copy of the sources, so that nothing that lies around gets in."""
    pytest.importorskip("pip")
    if int(metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs setuptools 77 or newer")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in [*FOLDERS, "tests", "scripts"]:
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        out,
        source,
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_nothing_but_the_package_lands_in_site_packages(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"polystep_rl"}
    assert len(tops) == 2


def test_every_source_file_is_in_the_wheel(wheel):
    expected = {
        f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".yaml", ".json", ".html", ".typed", ".c", ".h", ".ld"}
    }
    found = {name for name in wheel.namelist() if name.startswith("polystep_rl/")}
    assert "polystep_rl/py.typed" in found and "polystep_rl/envs/__init__.py" in found
    assert found == expected


def test_metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    facts = message_from_string(wheel.read(name).decode())
    assert facts["License-Expression"] == "Apache-2.0"
    assert facts["Requires-Python"] == ">=3.11"
    extras = {"play", "video", "baselines", "mujoco", "box2d", "envpool", "ray", "humanoid", "export", "track", "tune"}
    extras |= {"fpga", "test", "all"}
    assert set(facts.get_all("Provides-Extra")) == extras
    core = [line for line in facts.get_all("Requires-Dist") if "extra ==" not in line]
    assert not [line for line in core if line.startswith(("torch", "evosax", "mujoco", "matplotlib", "scipy"))]


def test_the_wheel_alone_imports(wheel, tmp_path):
    wheel.extractall(tmp_path)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "import polystep_rl, polystep_rl.envs, polystep_rl.envs.classic, polystep_rl.policies, polystep_rl.baselines; "
        "print(polystep_rl.__file__, polystep_rl.envs.__file__, *polystep_rl.__path__, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, tmp_path], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert all(Path(line).is_relative_to(tmp_path) for line in done.stdout.splitlines())
