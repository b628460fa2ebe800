"""The page of a policy in a real browser: headless Chromium, driven over WebDriver, without any network.

Skipped where Chromium, its driver or selenium is missing: ``apt-get install chromium chromium-driver``, ``pip install
selenium``.
"""

import contextlib
import io
import json

import jax
import pytest
from support.policies import random_policy

pytest.importorskip("selenium")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from support.browser import chromium, empty_logs, requested

from polystep_rl.cli import main
from polystep_rl.policies import read_policy
from polystep_rl.policies.export.web import web_page
from polystep_rl.policies.io import find_policy

START = "sim.restart(); sim.reset([0, 0, 0.02, 0]);"
# The signs on the page beside those of the policy, in the same task: no frame comes between.
BITS = """
const lit = (selector) => [...document.querySelectorAll(selector)].map((part) => +part.classList.contains("on"));
const shown = policy.sizes.slice(1, -1).map((_, layer) => lit(`#network .cell[data-layer="${layer}"]`));
return [shown, policy.bits(sim.state), lit("#network .choice").indexOf(1), policy.act(sim.state)];
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile"), "1000,900") as driver:
        yield driver


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The page of a binary policy that balances."""
    run, printed = tmp_path_factory.mktemp("run") / "binary", io.StringIO()
    argv = ["train", "--env", "CartPole-v1", "--policy", "binary", "--seed", "0", "--run-dir", str(run), "--quiet"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("POLYSTEP_RL_CACHE", jax.config.jax_compilation_cache_dir)
        assert main([*argv, "--json"]) == 0
    mean = json.loads(printed.getvalue())["eval"]["mean_return"]
    assert mean == 500
    saved = read_policy(find_policy(run))
    return web_page(saved.spec, saved.params, {**saved.meta, "return": mean})


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page; at the end of the test nothing may have gone wrong or been requested."""
    path = tmp_path / "page.html"

    def show(text):
        path.write_text(text, encoding="utf-8")
        browser.get(path.as_uri())
        return browser

    empty_logs(browser)
    yield show
    sent = requested(browser)
    assert sent == {path.as_uri()}
    browser.get("about:blank")


def text(browser, identity):
    return browser.find_element(By.ID, identity).text


def pause(browser):
    browser.find_element(By.ID, "pause").click()
    assert text(browser, "pause") == "Play"


def wait(browser, script, seconds=10):
    """Until a script is true."""
    WebDriverWait(browser, seconds, poll_frequency=0.02).until(lambda b: b.execute_script(f"return {script}"))


def test_the_pole_stays_up(show, trained):
    browser = show(trained)
    wait(browser, "sim.steps >= 20")  # in real time
    pause(browser)
    assert browser.execute_script("sim.restart(); sim.advance(1300); return [sim.steps, sim.episodes, sim.falls]") == [
        300,
        2,
        0,
    ]
    wait(browser, "document.getElementById('episodes').textContent === '2'")
    assert [text(browser, name) for name in ("steps", "best", "falls")] == ["300", "500", "0"]
    assert text(browser, "restart") == "Restart"
    browser.find_element(By.ID, "restart").click()
    wait(browser, "sim.episodes === 0 && sim.steps < 100")
    assert text(browser, "pause") == "Pause"


def test_time_is_real(show, trained):
    browser = show(trained)
    wait(browser, "sim.steps > 0")
    script = """
    const done = arguments[0], start = [performance.now(), sim.steps];
    setTimeout(() => done((sim.steps - start[1]) / (performance.now() - start[0]) * 1000), 1500);
    """
    assert 35 < browser.execute_async_script(script) < 55  # 50 steps a second, fewer where frames come late


def test_a_push_moves_the_cart(show, trained):
    browser = show(trained)
    pause(browser)
    moved = []
    for push in (-5, 0, 5):  # two steps, before the policy answers
        moved.append(browser.execute_script(f"{START} sim.push = {push}; sim.advance(2); return sim.state"))
    (left, *_), (middle, *_), (right, *_) = moved
    assert [right - middle, middle - left] == pytest.approx([5 / 1.1 * 0.02**2] * 2, rel=0.1)
    fell = browser.execute_script(f"{START} sim.push = 30; while (!sim.fallen) sim.step(); return sim.steps")
    assert fell < 50
    browser.execute_script(f"{START} sim.push = 0")

    slider = browser.find_element(By.ID, "push")
    assert slider.accessible_name == "Push the cart"
    ActionChains(browser).click_and_hold(slider).move_by_offset(150, 0).perform()
    held = browser.execute_script("return sim.push")
    assert 2 < held < 10 and text(browser, "force") == f"{held:g} N"
    assert browser.execute_script(f"{START} sim.advance(2); return sim.state[0]") > middle + 0.0005
    ActionChains(browser).release().perform()
    wait(browser, "sim.push === 0 && document.getElementById('push').value === '0'")
    wait(browser, "document.getElementById('force').textContent === '0 N'")

    ActionChains(browser).key_down(Keys.ARROW_LEFT, slider).perform()
    assert browser.execute_script("return sim.push") == -0.5
    ActionChains(browser).key_up(Keys.ARROW_LEFT).perform()
    wait(browser, "sim.push === 0")


def test_a_fall_begins_anew(show, trained):
    browser = show(trained)
    browser.execute_script("sim.reset([0, 0, 0.2, 3])")
    wait(browser, "sim.falls === 1")
    wait(browser, "!sim.fallen && sim.steps > 5")
    assert text(browser, "falls") == "1" and text(browser, "episodes") == "1"


@pytest.mark.parametrize(
    "precision, hidden", [("binary", None), ("binary", (16, 8)), ("int8", (40,)), ("int8", ()), ("binary", (128, 64))]
)
def test_bits_on_the_page_are_those_of_the_policy(precision, hidden, show, trained):
    if hidden is None:
        browser = show(trained)
        sizes = [4, 16, 2]
    else:
        policy, params = random_policy(0, precision, hidden, action_size=2)
        browser = show(web_page(policy.spec, params, {}))
        sizes = [4, *hidden, 2]
    assert browser.execute_script("return policy.sizes") == sizes
    pause(browser)
    seen = set()
    for state in ([0, 0, 0, 0], [1, 0.5, -0.1, 0.3], [-2, 1, 0.2, -2], [0.3, -1, 0.05, 1]):
        browser.execute_script("sim.reset(arguments[0])", state)
        browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")  # it is drawn
        shown, bits, chosen, action = browser.execute_script(BITS)
        assert shown == bits and chosen == action
        assert [len(layer) for layer in shown] == sizes[1:-1]
        seen.add(str(shown))
    assert len(seen) > 1 or not hidden


def test_names_show_as_text(show):
    policy, params = random_policy(0, "binary", (8,), action_size=2)
    hostile = "</script><b>bold</b><img src=x onerror=window.hacked=1>"
    browser = show(web_page(policy.spec, params, {"seed": hostile, "return": hostile}))
    assert hostile in text(browser, "facts")
    assert not browser.find_elements(By.CSS_SELECTOR, "img, main b b")
    assert browser.execute_script("return [window.hacked, document.querySelectorAll('script').length]") == [None, 2]


@pytest.mark.parametrize("hidden", [(16,), (32, 32), (128, 64)])
def test_narrow_and_dark(hidden, show, browser):
    policy, params = random_policy(0, "binary", hidden, action_size=2)
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        show(web_page(policy.spec, params, {"env": "CartPole-v1", "seed": 0, "env_steps": 100_000, "return": 500.0}))
        found = browser.execute_script(
            """
            const edges = [...document.querySelectorAll("#network rect, #network text, canvas, button, input")]
              .map((part) => part.getBoundingClientRect());
            return [innerWidth, document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor,
              Math.min(...edges.map((box) => box.left)) >= 0, Math.max(...edges.map((box) => box.right)) <= 360];
            """
        )
        assert found == [360, 360, "rgb(20, 23, 26)", True, True]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_who_wants_no_motion_starts_it(show, browser, trained):
    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        show(trained)
        assert text(browser, "pause") == "Play" and browser.execute_script("return sim.steps") == 0
        browser.find_element(By.ID, "pause").click()
        wait(browser, "sim.steps > 3")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
