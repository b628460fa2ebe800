"""Sizes are the compiler's, counts of instructions are right, and what fails says so in one line."""

import shutil
import subprocess

import numpy as np
import pytest
from support.policies import observations, random_policy

from polystep_rl.policies.export import measure
from polystep_rl.policies.export.c import c_source
from polystep_rl.policies.export.measure import ToolError, instructions, run_on_board, sizes

needs_gcc = pytest.mark.skipif(shutil.which(measure.ARM_GCC) is None, reason=f"needs {measure.ARM_GCC}")
needs_qemu = pytest.mark.skipif(
    None in map(shutil.which, (measure.ARM_GCC, measure.QEMU)), reason=f"needs {measure.ARM_GCC} and {measure.QEMU}"
)
HARD = ("-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
TARGETS = [("cortex-m3", ()), ("cortex-m4", ()), ("cortex-m4", HARD)]
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-mthumb", "-mcpu=cortex-m4")

HEADER = """#include <stdint.h>
#define TOY_OBS_SIZE 4
#define TOY_INPUT_SIZE 3
#define TOY_ACTION_SIZE 1
typedef int32_t toy_action;
typedef int32_t toy_action_int8;
void toy_init(void);
void toy_reset(void);
void toy_step(const float *obs, toy_action *action);
void toy_step_int8(const int8_t *input, toy_action_int8 *action);
"""
LIFE = '#include "toy.h"\nvoid toy_init(void) {}\nvoid toy_reset(void) {}\n'
SUM = """static float toy_state;
const float toy_weight[4] = {1.0f, 2.0f, 3.0f, 4.0f};
void toy_step(const float *obs, toy_action *action)
{
    float sum = 0.0f;
    int i, j;
    for (j = 0; j < ROUNDS; j++) {
        for (i = 0; i < 4; i++) {
            sum += toy_weight[i] * (obs[i] + (float)j);
        }
    }
    toy_state += sum;
    action[0] = toy_state > 0.0f;
}
"""
LOOP = """__asm__(".syntax unified\\n.thumb\\n.section .text.toy_step\\n.global toy_step\\n.thumb_func\\n"
        ".type toy_step,%function\\ntoy_step: movw r3, #{times}\\n1: subs r3, #1\\nnop\\nbne 1b\\nbx lr\\n"
        ".size toy_step, .-toy_step\\n.text\\n");
"""
INT8 = """void toy_step_int8(const int8_t *input, toy_action_int8 *action)
{
    int i;
    action[0] = 0;
    for (i = 0; i < input[0]; i++) {
        __asm__ volatile("nop");
    }
}
void toy_step(const float *obs, toy_action *action)
{
    const int8_t input[3] = {(int8_t)obs[0], (int8_t)obs[1], -3};
    toy_step_int8(input, action);
}
"""


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path, monkeypatch):
    """Temporary files go to a folder that is empty in the end."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(measure.tempfile, "tempdir", str(place))
    yield
    assert not list(place.iterdir())


def toy(folder, source):
    (folder / "toy.h").write_text(HEADER)
    (folder / "toy.c").write_text(LIFE + source)
    return folder


def obs(count=7):
    return np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)


@needs_qemu
@pytest.mark.parametrize("cpu, flags", TARGETS)
@pytest.mark.parametrize("times", [1, 40, 5_000])
def test_a_loop_of_known_length_is_counted_right(tmp_path, cpu, flags, times):
    count = instructions(toy(tmp_path, LOOP.replace("{times}", str(times))), "toy", cpu, obs(), flags=flags)
    assert count == pytest.approx(2 + 3 * times, rel=1e-4, abs=0.05)


@needs_qemu
def test_twice_the_work_costs_twice_and_software_floats_more(tmp_path):
    folder = toy(tmp_path, SUM)
    counts = {
        (rounds, flags): instructions(folder, "toy", "cortex-m4", obs(), flags=(f"-DROUNDS={rounds}", *flags))
        for rounds in (20, 40)
        for flags in ((), HARD)
    }
    for flags in ((), HARD):
        assert counts[40, flags] == pytest.approx(2 * counts[20, flags], rel=0.05)
        repeated = instructions(folder, "toy", "cortex-m4", obs(), flags=("-DROUNDS=40", *flags))
        assert repeated == counts[40, flags]
    assert counts[40, ()] > 5 * counts[40, HARD]


@needs_qemu
def test_step_int8_reads_integers_or_what_step_makes_of_observations(tmp_path):
    folder = toy(tmp_path, INT8)
    short, long = (np.full((3, 3), value, np.int8) for value in (10, 90))
    counts = [instructions(folder, "toy", "cortex-m4", inputs, "step_int8") for inputs in (short, long)]
    assert counts[1] - counts[0] == pytest.approx(80 * round((counts[1] - counts[0]) / 80), abs=0.1) and counts[0] > 20
    made = instructions(folder, "toy", "cortex-m4", np.full((3, 4), 90.0), "step_int8")
    assert made == counts[1]


@needs_qemu
@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_exported_policies_are_measured(tmp_path, precision):
    policy, params = random_policy(1, precision, (32,), "box", 4, 2)
    seen = np.clip(observations(policy.spec, 20), -3, 3)
    made = c_source(policy.spec, params, "toy", (seen[:0], np.zeros((0, 2), np.float32)))
    (tmp_path / "toy.h").write_text(made.header)
    (tmp_path / "toy.c").write_text(made.source)
    step, integers = (instructions(tmp_path, "toy", "cortex-m4", seen, entry) for entry in measure.ENTRIES)
    assert 200 < integers < step < 20_000
    whole, part = (sizes(tmp_path, "toy", "cortex-m0plus", entry=entry) for entry in measure.ENTRIES)
    assert part.flash_libraries == 0 < whole.flash_libraries and part.ram == whole.ram == 0
    assert part.flash_code < whole.flash_code and 4 * 32 // 8 < part.flash_data < whole.flash_data
    assert 32 < part.stack < whole.stack


@needs_gcc
@pytest.mark.parametrize("cpu, flags", [("cortex-m0plus", ()), ("cortex-m4", ()), ("cortex-m4", HARD)])
def test_sizes_are_those_of_the_size_tool(tmp_path, cpu, flags):
    folder = toy(tmp_path, SUM)
    found = sizes(folder, "toy", cpu, ("-DROUNDS=2", *flags))
    command = ["arm-none-eabi-gcc", "-std=c99", "-Os", "-mthumb", f"-mcpu={cpu}", "-DROUNDS=2", *flags]
    subprocess.run([*command, "-ffunction-sections", "-c", folder / "toy.c", "-o", tmp_path / "toy.o"], check=True)
    said = subprocess.run(["arm-none-eabi-size", tmp_path / "toy.o"], capture_output=True, text=True, check=True).stdout
    text, data, bss = map(int, said.splitlines()[1].split()[:3])
    assert found.flash_code + found.flash_data == text and found.flash_data == 16
    assert found.ram == data + bss == 4
    assert (found.flash_libraries == 0) == (flags == HARD)
    assert 0 < found.stack < 64


@needs_gcc
def test_the_map_of_a_whole_program_adds_up(tmp_path):
    """Sections of all files, in a program with data, long names, libraries, and functions that are left out."""
    source = tmp_path / "program.c"
    source.write_text(
        "#include <math.h>\nint left_out(int x) { return x / 3; }\nstatic int with_a_value = 3;\n"
        "volatile float a_variable_whose_name_is_longer_than_its_column_in_the_map;\n"
        "int main(void) { a_variable_whose_name_is_longer_than_its_column_in_the_map = tanhf((float)with_a_value++);\n"
        "return 0; }\n"
    )
    program, listing = tmp_path / "program.elf", tmp_path / "program.map"
    command = [measure.ARM_GCC, *measure.COMPILE, "-Os", "-mcpu=cortex-m4", *measure.LINK, "-Wl,-e,main"]
    subprocess.run([*command, f"-Wl,-Map={listing}", source, "-lm", "-o", program], check=True)
    pieces = measure.parse_map(listing.read_text())
    said = subprocess.run(["arm-none-eabi-size", program], capture_output=True, text=True, check=True).stdout
    totals = [sum(piece.size for piece in pieces if piece.output == name) for name in (".text", ".data", ".bss")]
    for total, size in zip(totals, map(int, said.splitlines()[1].split()[:3]), strict=True):
        assert size - 3 * len(pieces) <= total <= size  # less the filling between pieces
    sections = {piece.section for piece in pieces}
    assert ".bss.a_variable_whose_name_is_longer_than_its_column_in_the_map" in sections
    assert ".data.with_a_value" in sections and ".text.left_out" not in sections


def test_the_stack_is_that_of_the_deepest_chain():
    nodes = [("a", 16), ("f.c:b", 8), ("f.c:c", 24), ("unused", 99)]
    graph = "".join(
        f'node: {{ title: "{t}" label: "{t}\\nf.c:1:1\\n{n} bytes (static)\\n0 dynamic" }}\n' for t, n in nodes
    )
    graph += 'node: { title: "tanhf" label: "tanhf\\nmath.h:1:1" shape : ellipse }\n'
    edges = [("a", "f.c:b"), ("a", "f.c:c"), ("f.c:b", "f.c:c"), ("f.c:c", "tanhf")]
    graph += "".join(f'edge: {{ sourcename: "{s}" targetname: "{t}" label: "f.c:2:2" }}\n' for s, t in edges)
    assert measure.deepest(graph, "a") == 16 + 8 + 24
    with pytest.raises(ToolError, match="calls itself"):
        measure.deepest(graph + 'edge: { sourcename: "f.c:c" targetname: "a" label: "" }\n', "a")


@needs_qemu
def test_programs_print_and_end(tmp_path):
    source = tmp_path / "program.c"
    source.write_text(
        '#include "board.h"\nstatic int start = -7, zero;\nint main(void)\n{\n    board_print("a\\n");\n'
        "    board_print_number(start);\n    board_print_number(INT32_MIN);\n    return zero + CODE;\n}\n"
    )
    assert run_on_board([source], [], "mps2-an385", "cortex-m3", ["-DCODE=0"]) == "a\n-7-2147483648"
    with pytest.raises(ToolError, match="^qemu-system-arm: exit code 3: a -7-2147483648$"):
        run_on_board([source], [], "mps2-an386", "cortex-m4", ["-DCODE=3"])
    with pytest.raises(ToolError, match="exit code 255: a -7-2147483648fault"):
        run_on_board([source], [], "mps2-an386", "cortex-m4", ["-DCODE=*(volatile int *)0x90000000"])


@needs_qemu
def test_a_program_that_hangs_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RUN_SECONDS", 0.5)
    folder = toy(tmp_path, "void toy_step(const float *obs, toy_action *action) { while (obs) { action[0] = 0; } }\n")
    with pytest.raises(ToolError, match="qemu-system-arm: stopped after"):
        instructions(folder, "toy", "cortex-m4", obs())


@needs_qemu
def test_a_count_beyond_the_timer_is_refused(tmp_path, monkeypatch):
    slow = ["shift=10" if word.startswith("shift=") else word for word in measure.EMULATION]
    monkeypatch.setattr(measure, "EMULATION", slow)
    folder = toy(tmp_path, LOOP.replace("{times}", "60000"))
    with pytest.raises(ToolError, match="more instructions than the timer can count"):
        instructions(folder, "toy", "cortex-m4", np.zeros((1_000, 4), np.float32))


@needs_gcc
@pytest.mark.parametrize("level", ["-O0", "-Os", "-O3"])
def test_the_board_compiles_without_a_warning(tmp_path, level):
    folder = toy(tmp_path, INT8)
    for int8 in ([], ["-DPOLICY_INT8"]):
        names = [*measure._names(folder, "toy", "step"), *int8, "-DCOUNT_ROWS=2", "-DCOUNT_ROUNDS=2"]
        for source in sorted(measure.BOARD.glob("*.c")):
            command = [measure.ARM_GCC, *WARNINGS, level, *names, f"-I{measure.BOARD}", "-c", source]
            subprocess.run([*command, "-o", tmp_path / "out.o"], check=True)


def test_missing_tools_are_named_with_what_to_install(tmp_path, monkeypatch):
    folder = toy(tmp_path, LOOP)
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = (
        "^arm-none-eabi-gcc: not found; install gcc-arm-none-eabi and libnewlib-arm-none-eabi, or put it on the PATH$"
    )
    with pytest.raises(ToolError, match=wanted):
        sizes(folder, "toy", "cortex-m4")
    with pytest.raises(ToolError, match=wanted):
        instructions(folder, "toy", "cortex-m4", obs())
    assert measure.toolchain() == dict.fromkeys(("gcc", "clang", "arm-none-eabi-gcc", "qemu-system-arm"))


@needs_gcc
def test_what_the_compiler_refuses_is_one_line(tmp_path):
    folder = toy(
        tmp_path, "void toy_step(const float *obs, toy_action *action)\n{\n    action[0] = obs[0\n    no;\n}\n"
    )
    for call in (lambda: sizes(folder, "toy", "cortex-m4"), lambda: instructions(folder, "toy", "cortex-m4", obs())):
        with pytest.raises(ToolError, match=r"^arm-none-eabi-gcc: exit code 1: .*toy\.c:\d+:\d+: error: ") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="entry 'go'"):
        sizes(tmp_path, "toy", "cortex-m4", entry="go")
    with pytest.raises(ValueError, match="cpu 'cortex-m7'"):
        instructions(tmp_path, "toy", "cortex-m7", obs())
    with pytest.raises(ValueError, match="expected \\(n, o\\)"):
        instructions(tmp_path, "toy", "cortex-m4", obs()[0])
    with pytest.raises(ValueError, match="step: reads no int8"):
        instructions(tmp_path, "toy", "cortex-m4", obs().astype(np.int8))
