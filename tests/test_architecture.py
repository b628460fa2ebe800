"""The rooms of the house: who may import whom, no circle of modules, how long a file may be, and no pickle."""

import ast
import itertools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Folder at the root -> import name; all of them are one package when installed.
ROOTS = {
    "polystep_rl": "polystep_rl",
    "envs": "polystep_rl.envs",
    "policies": "polystep_rl.policies",
    "baselines": "polystep_rl.baselines",
}
# Room -> the other rooms that it imports from; docs/architecture.md has the picture. "ground" is the files of
# polystep_rl/ itself, which import nothing but each other; "face" is polystep_rl/__init__.py, whose names are lazy.
TABLE = {
    "ground": set(),
    "search": {"ground"},
    "rollout": {"ground"},
    "training": {"ground", "rollout"},
    "settings": {"ground"},
    "records": {"ground", "settings"},
    "analysis": {"ground", "records"},
    "envs": {"ground", "envs.host", "envs.robots"},
    "envs.classic": {"ground"},
    "envs.host": {"ground"},
    "envs.robots": {"ground"},
    "policies": {"ground", "policies.quantisation"},
    "policies.quantisation": {"ground", "policies"},
    "policies.export": {"ground", "policies"},
    "baselines": {"ground"},
    "baselines.sb3": {"ground", "baselines"},
    "runs": {
        *("ground", "search", "rollout", "training", "settings", "records"),
        *("envs", "envs.host", "envs.robots", "policies", "policies.quantisation", "baselines", "baselines.sb3"),
    },
    "deploy": {"ground", "runs", "rollout", "training", "analysis", "envs", "policies", "policies.export"},
    "walking": {"ground", "runs", "rollout", "training", "analysis", "envs.robots"},
    "cli": {
        *("face", "ground", "settings", "records", "analysis", "runs", "training", "deploy", "walking"),
        *("envs", "envs.host", "envs.robots", "policies.export"),
    },
    "face": {"ground", "search", "settings", "runs", "envs", "policies"},
}
PICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
LONGEST = 350  # lines
LARGEST = 0.2  # of the lines of all rooms


def module_name(path: Path) -> str:
    """The import name of a source file; a package's is that of its ``__init__``."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([ROOTS[folder], *(part for part in rest if part != "__init__")])


MODULES = {module_name(path): path for folder in ROOTS for path in sorted((ROOT / folder).rglob("*.py"))}
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))


def room(module: str, is_package: bool) -> str:
    """The room that a module lies in; the presets, which are data, lie with the settings."""
    if module == "polystep_rl.__main__":
        return "cli"
    if module == "polystep_rl":
        return "face"
    package = module if is_package else module.rpartition(".")[0]
    found = package.removeprefix("polystep_rl").removeprefix(".") or "ground"
    return "settings" if found == "settings.presets" else found


def room_of(module: str) -> str:
    return room(module, MODULES[module].name == "__init__.py")


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


def ours(source: str, module: str, is_package: bool = False) -> set[str]:
    """The modules of ours that a source imports from, itself left out."""
    found = set()
    for name in imports(source, module, is_package):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        found |= {name} - {"", module}
    return found


def graph() -> dict[str, set[str]]:
    """Module -> the modules that it imports from."""
    return {
        module: ours(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
        for module, path in MODULES.items()
    }


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Every set of modules that import each other in a circle (Tarjan's strongly connected components)."""
    index, low, stack, found, count = {}, {}, [], [], itertools.count()

    def visit(module: str) -> None:
        index[module] = low[module] = next(count)
        stack.append(module)
        for other in sorted(arrows[module]):
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            members = [stack.pop()]
            while members[-1] != module:
                members.append(stack.pop())
            found.append(sorted(members))

    for module in arrows:
        if module not in index:
            visit(module)
    return [members for members in found if len(members) > 1]


def forbidden(source: str, module: str, is_package: bool = False) -> set[str]:
    """The rooms that a source imports from and the table does not allow it."""
    own = room(module, is_package)
    return {room_of(other) for other in ours(source, module, is_package)} - {own} - TABLE[own]


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_table(module):
    path = MODULES[module]
    assert not forbidden(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")


def test_nothing_is_granted_that_nobody_uses():
    used: dict[str, set[str]] = {name: set() for name in TABLE}
    for module, others in graph().items():
        used[room_of(module)] |= {room_of(other) for other in others} - {room_of(module)}
    assert used == TABLE


def test_no_modules_import_each_other_in_a_circle():
    assert circles(graph()) == []


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_no_room_is_a_hall():
    lines = dict.fromkeys(TABLE, 0)
    for module, path in MODULES.items():
        lines[room_of(module)] += path.read_text(encoding="utf-8").count("\n")
    largest = max(lines, key=lines.get)
    assert lines[largest] <= LARGEST * sum(lines.values()), largest
    assert min(lines.values()) > 0  # every room of the table exists


@pytest.mark.parametrize("path", [*MODULES.values(), *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_nothing_is_pickled(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= LONGEST
    assert not {name for name in imports(source, "x") if name.split(".")[0] in PICKLERS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_use_the_library_and_not_its_command_line(path):
    assert not {name for name in imports(path.read_text(encoding="utf-8"), "x") if name.startswith("polystep_rl.cli")}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("polystep_rl.training.loop", "from polystep_rl.envs.registry import make"),
        ("polystep_rl.training.loop", "def f():\n    from polystep_rl import policies"),
        ("polystep_rl.training.loop", "from ..envs import registry"),
        ("polystep_rl.training.loop", "from .. import cli"),
        ("polystep_rl.runs.train", "import importlib\nimportlib.import_module('polystep_rl.analysis.stats')"),
        ("polystep_rl.errors", "from polystep_rl.search import wrappers"),
        ("polystep_rl.envs.registry", "from polystep_rl.policies import mlp"),
        ("polystep_rl.envs.classic.cartpole", "from ... import rollout"),
        ("polystep_rl.envs.registry", "import polystep_rl"),
        ("polystep_rl.policies.mlp", "import polystep_rl.envs"),
        ("polystep_rl.baselines.sb3.train", "from polystep_rl.search.polystep import polystep"),
    ],
)
def test_wrong_arrows_are_found(module, source):
    assert forbidden(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("polystep_rl.cli.envs", "from polystep_rl.envs.registry import make"),
        ("polystep_rl.__main__", "from polystep_rl.cli import main"),
        ("polystep_rl.training.loop", "from polystep_rl import processes\nimport polystep_rl.types"),
        ("polystep_rl.envs.classic.cartpole", "from .trig import x\nfrom polystep_rl.types import Step"),
        ("polystep_rl.baselines.sb3.train", "from polystep_rl.baselines import weights\nimport numpy"),
    ],
)
def test_right_arrows_pass(module, source):
    assert not forbidden(source, module)
