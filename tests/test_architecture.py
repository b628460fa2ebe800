"""The folders are the architecture: who may import whom, how long a file may be, and no pickle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# folder -> (import name, what else of ours it may import)
TABLE = {
    "polystep_rl": ("polystep_rl", set()),
    "envs": ("polystep_rl.envs", {"polystep_rl.types", "polystep_rl.xla"}),
    "policies": ("polystep_rl.policies", {"polystep_rl.types", "polystep_rl.xla"}),
    "baselines": ("polystep_rl.baselines", {"polystep_rl.types", "polystep_rl.evaluate", "polystep_rl.rundir"}),
}
OUTER = {"polystep_rl.envs", "polystep_rl.policies", "polystep_rl.baselines"}
ANYTHING = {"polystep_rl.cli"}  # the composition root
PICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
LONGEST = 350  # lines

FILES = [path for folder in TABLE for path in sorted((ROOT / folder).rglob("*.py"))]
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))


def module_name(path: Path) -> str:
    """The import name of a source file; a package's is that of its ``__init__``."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([TABLE[folder][0], *(part for part in rest if part != "__init__")])


def imports(source: str, module: str, is_package: bool = False) -> set[str]:
    """Every name imported, at any depth: ``a.b`` for ``import a.b``, ``a.b.c`` for ``from a.b import c``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package and node.level == 1 else (is_package - node.level)]
                base = ".".join([*parents, base]).rstrip(".")
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def forbidden(names: set[str], folder: str, module: str) -> set[str]:
    """Those of the imported names that the table does not allow in that module."""
    own, others = TABLE[folder]
    ours = {name for name in names if within(name, "polystep_rl")}
    if any(within(module, root) for root in ANYTHING):
        return set()
    if module == "polystep_rl":  # the face of the package: `load_policy`
        return {name for name in ours if not within(name, "polystep_rl.policies")}
    if folder == "polystep_rl":
        closed = OUTER | (ANYTHING if module != "polystep_rl.__main__" else set())
        return {name for name in ours if any(within(name, package) for package in closed)}
    return {name for name in ours if not any(within(name, package) for package in others | {own})}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_table(path):
    module = module_name(path)
    names = imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    assert not forbidden(names, path.relative_to(ROOT).parts[0], module)


@pytest.mark.parametrize("path", FILES + SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_nothing_is_pickled(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= LONGEST
    assert not {name for name in imports(source, "x") if name.split(".")[0] in PICKLERS}


def test_all_folders_were_read():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(TABLE)


@pytest.mark.parametrize(
    ("folder", "module", "source"),
    [
        ("polystep_rl", "polystep_rl.train", "from polystep_rl.envs.registry import make"),
        ("polystep_rl", "polystep_rl.train", "def f():\n    from polystep_rl import policies"),
        ("polystep_rl", "polystep_rl.train", "from .envs import registry"),
        ("polystep_rl", "polystep_rl.train", "from . import cli"),
        ("polystep_rl", "polystep_rl.train", "import importlib\nimportlib.import_module('polystep_rl.baselines.sb3')"),
        ("envs", "polystep_rl.envs.registry", "from polystep_rl.policies import mlp"),
        ("envs", "polystep_rl.envs.classic.cartpole", "from ... import rollout"),
        ("envs", "polystep_rl.envs.registry", "import polystep_rl"),
        ("policies", "polystep_rl.policies.mlp", "import polystep_rl.envs"),
        ("baselines", "polystep_rl.baselines.sb3", "from polystep_rl.polystep import polystep"),
    ],
)
def test_wrong_arrows_are_found(folder, module, source):
    assert forbidden(imports(source, module), folder, module)


@pytest.mark.parametrize(
    ("folder", "module", "source"),
    [
        ("polystep_rl", "polystep_rl.cli", "from polystep_rl.envs.registry import make"),
        ("polystep_rl", "polystep_rl.__main__", "from polystep_rl.cli import main"),
        ("polystep_rl", "polystep_rl.train", "from polystep_rl import evaluate\nimport polystep_rl.types"),
        ("envs", "polystep_rl.envs.classic.cartpole", "from ..registry import x\nfrom polystep_rl.types import Step"),
        ("baselines", "polystep_rl.baselines.sb3", "from polystep_rl import evaluate\nimport numpy"),
    ],
)
def test_right_arrows_pass(folder, module, source):
    assert not forbidden(imports(source, module), folder, module)
