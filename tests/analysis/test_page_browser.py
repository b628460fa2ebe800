"""The report page in a real browser: headless Chromium, driven over WebDriver, without any network.

Skipped where Chromium, its driver or selenium is missing: ``apt-get install chromium chromium-driver``, ``pip install
selenium``.
"""

import urllib.parse

import numpy as np
import pytest

pytest.importorskip("selenium")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from support.browser import chromium, empty_logs, requested

from polystep_rl.analysis import stats
from polystep_rl.analysis.curves import common_grid
from polystep_rl.analysis.page import build_report


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile"), "1300,1000") as driver:
        yield driver


@pytest.fixture
def show(browser, tmp_path):
    """Opens the page of a document; at the end of the test nothing may have gone wrong or been requested."""
    pages = []

    def show(document, fragment="", title="Title"):
        path = tmp_path / f"page{len(pages)}.html"
        path.write_text(build_report(document, title), encoding="utf-8")
        pages.append(path.as_uri())
        open_at(fragment)
        return browser

    def open_at(fragment):
        browser.get("about:blank")  # another fragment alone would not load the page again
        browser.get(pages[-1] + fragment)

    show.again = open_at  # the same page anew, with another fragment
    empty_logs(browser)
    yield show
    sent = requested(browser)
    assert {url.split("#")[0] for url in sent} <= {*pages, "about:blank"}
    assert pages[-1] in sent  # the log does see requests


@pytest.fixture(scope="module")
def small(results_factory):
    return results_factory(algos=("polystep", "open_es", "ppo-ste"), policies=("float32", "binary"), seeds=5)


def text_of(browser, selector):
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def column(browser, table, key):
    script = "return [...document.querySelectorAll(arguments[0])].map((td) => td.dataset.value ?? td.textContent)"
    return browser.execute_script(script, f"#{table} tbody td[data-key={key}]")


def check(browser, key, value):
    browser.find_element(By.CSS_SELECTOR, f'#filter-{key} input[value="{value}"]').click()


def close(browser, dimension, which):
    browser.find_element(By.CSS_SELECTOR, f'#filter-{dimension} button[aria-label^="{which}"]').click()


# --- what is shown -----------------------------------------------------------------------------------------------
def test_everything_is_shown(show, small):
    browser = show(small, title="All & everything")
    assert text_of(browser, "h1") == ["All & everything"]
    counts = browser.find_element(By.ID, "counts").text
    assert counts == "60 runs · 2 environments · 4 algorithms · 2 precisions · 5 seeds · 1 failed"
    assert "jax 0.10.2" in [" ".join(fact.split()) for fact in text_of(browser, ".facts div")]
    assert browser.find_element(By.ID, "shown").text == "Showing 60 of 60 runs, 1 of 1 failed"
    assert text_of(browser, "#charts h3") == ["Acrobot-v1", "CartPole-v1"]
    assert text_of(browser, "#charts h4") == ["float32", "binary"] * 2
    assert len(browser.find_elements(By.CSS_SELECTOR, "#charts path.curve[data-points]")) == 12
    assert len(browser.find_elements(By.CSS_SELECTOR, "#charts path.seed")) == 60
    assert len(column(browser, "summary", "iqm")) == 12 and len(column(browser, "runs", "algo")) == 60
    assert column(browser, "failed", "error") == ["dqn: no binary"]
    wide = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0


def test_filters(show, small):
    browser = show(small)
    check(browser, "algo", "open_es")
    check(browser, "policy", "float32")
    check(browser, "seed", "3")
    assert browser.find_element(By.ID, "shown").text == "Showing 16 of 60 runs, 1 of 1 failed"
    assert set(column(browser, "runs", "algo")) == {"polystep", "ppo-ste"}
    assert set(column(browser, "runs", "policy")) == {"binary"} == set(text_of(browser, "#charts h4"))
    assert column(browser, "summary", "seeds") == ["4"] * 4
    assert len(browser.find_elements(By.CSS_SELECTOR, "#charts path.seed")) == 16
    close(browser, "env", "no")
    assert browser.find_element(By.ID, "shown").text == "Showing 0 of 60 runs, 0 of 1 failed"
    assert text_of(browser, "#charts") == ["No runs are selected."]
    close(browser, "env", "all")
    assert browser.find_element(By.ID, "shown").text.startswith("Showing 16 ")
    browser.find_element(By.ID, "reset").click()
    assert browser.find_element(By.ID, "shown").text.startswith("Showing 60 ")
    assert all(box.is_selected() for box in browser.find_elements(By.CSS_SELECTOR, ".filters input"))


def test_the_address_keeps_the_view(show, small):
    browser = show(small)
    check(browser, "algo", "open_es")
    check(browser, "seed", "0")
    close(browser, "policy", "no")
    check(browser, "policy", "binary")
    browser.find_element(By.ID, "logx").click()
    browser.find_element(By.ID, "single").click()
    browser.find_element(By.CSS_SELECTOR, "#summary th[data-key=iqm] button").click()
    fragment = "#" + browser.current_url.split("#")[1]
    before = [browser.find_element(By.ID, key).text for key in ("shown", "charts", "summary", "runs")]
    show.again(fragment)
    assert [browser.find_element(By.ID, key).text for key in ("shown", "charts", "summary", "runs")] == before
    assert browser.find_element(By.ID, "logx").is_selected() and not browser.find_element(By.ID, "single").is_selected()
    assert not browser.find_element(By.CSS_SELECTOR, '#filter-algo input[value="open_es"]').is_selected()
    browser.execute_script("location.hash = '#algo=ppo-ste&algo=gone&sort-summary=nothing.up'")
    browser.execute_async_script("setTimeout(arguments[0], 50)")
    assert set(column(browser, "runs", "algo")) == {"ppo-ste"}


# --- numbers -----------------------------------------------------------------------------------------------------
def expected(document, env, policy, algo, seeds):
    found = [run for run in document["runs"] if (run["env"], run["policy"], run["algo"]) == (env, policy, algo)]
    return [run for run in found if run["seed"] in seeds]


def test_statistics_are_those_of_python(show, small):
    browser = show(small)
    for seeds in (range(5), range(1, 5), range(2, 5)):
        if seeds.start:
            check(browser, "seed", str(seeds.start - 1))
        names = zip(*(column(browser, "summary", key) for key in ("env", "policy", "algo")), strict=True)
        numbers = {key: column(browser, "summary", key) for key in ("iqm", "mean", "env_steps", "wall_seconds")}
        for i, name in enumerate(names):
            runs = expected(small, *name, seeds)
            returns = [run["return"] for run in runs]
            assert float(numbers["iqm"][i]) == pytest.approx(stats.iqm(returns), rel=1e-12)
            assert float(numbers["mean"][i]) == pytest.approx(stats.mean(returns), rel=1e-12)
            for key in ("env_steps", "wall_seconds"):
                assert float(numbers[key][i]) == pytest.approx(np.median([run[key] for run in runs]), rel=1e-12)
    shown = browser.find_element(By.CSS_SELECTOR, "#summary tbody td[data-key=mean]").text.replace("\u2212", "-")
    mean, std = stats.mean_std(
        [run["return"] for run in expected(small, "Acrobot-v1", "float32", "polystep", range(2, 5))]
    )
    assert shown == f"{mean:,.1f} ± {std:,.1f}"


def test_iqm_and_curves_are_those_of_python(show, small):
    browser = show(small)
    rng = np.random.default_rng(0)
    for size in (*range(1, 14), 100):
        scores = rng.normal(scale=100, size=size).tolist()
        assert browser.execute_script("return report.iqm(arguments[0])", scores) == pytest.approx(stats.iqm(scores))
    runs = expected(small, "CartPole-v1", "binary", "open_es", range(5))
    curves = [run["curve"] for run in runs]
    curves[0] = {key: values[5:20] for key, values in curves[0].items()}  # starts late and stops early
    found = browser.execute_script("return report.curveIqm(arguments[0])", curves)
    grid = common_grid(curves)
    band = stats.curve_band([(curve["env_steps"], curve["return"]) for curve in curves], grid, reps=1)
    assert found["env_steps"] == grid
    np.testing.assert_allclose(found["return"], band.value, rtol=1e-12)
    long = [{"env_steps": list(range(0, 7 * 300, 7)), "return": [0.0] * 300}]
    assert browser.execute_script("return report.commonGrid(arguments[0])", long) == common_grid(long)


# --- doing -------------------------------------------------------------------------------------------------------
def test_sorting(show, small):
    browser = show(small)
    for table in ("summary", "runs"):
        key = {"summary": "iqm", "runs": "return"}[table]
        selector = f"#{table} th[data-key={key}]"
        for direction, sign in (("descending", -1), ("ascending", 1)):
            browser.find_element(By.CSS_SELECTOR, f"{selector} button").click()
            values = [sign * float(value) for value in column(browser, table, key)]
            assert values == sorted(values) and len(set(values)) > 5
            assert browser.find_element(By.CSS_SELECTOR, selector).get_attribute("aria-sort") == direction
            # Sorting makes the heading anew; the keyboard stays where it was.
            assert browser.switch_to.active_element.text == browser.find_element(By.CSS_SELECTOR, selector).text
        browser.find_element(By.CSS_SELECTOR, f"#{table} th[data-key=policy] button").send_keys(Keys.ENTER)
        names = column(browser, table, "policy")
        assert names == sorted(names, key=["float32", "binary"].index)  # from wide to narrow, not by letter


def test_hover_shows_a_tooltip(show, small):
    browser = show(small, "#env=CartPole-v1&algo=polystep&policy=binary&seed=2")
    tip = browser.find_element(By.ID, "tip")
    assert not tip.is_displayed()
    (run,) = expected(small, "CartPole-v1", "binary", "polystep", [2])
    chart = browser.find_element(By.CSS_SELECTOR, "svg.chart")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    # The last point of the only line, in the middle of the chart's pixels.
    x, y = browser.execute_script(
        "const path = arguments[0].querySelector('path.curve[data-points]');"
        "const box = arguments[0].getBoundingClientRect();"
        "const end = path.getPointAtLength(path.getTotalLength()).matrixTransform(arguments[0].getScreenCTM());"
        "return [end.x - box.left - box.width / 2, end.y - box.top - box.height / 2]",
        chart,
    )
    ActionChains(browser).move_to_element_with_offset(chart, round(x), round(y)).perform()
    assert tip.is_displayed()
    steps, value = run["curve"]["env_steps"][-1], run["curve"]["return"][-1]
    assert tip.text.split("\n") == ["polystep", "seed 2", f"{steps:,} env steps", f"return {value:.2f}"]
    ActionChains(browser).move_to_element(browser.find_element(By.TAG_NAME, "h2")).perform()
    assert not tip.is_displayed()


def test_points_are_read_out_by_keyboard(show, small):
    browser = show(small, "#env=CartPole-v1&policy=binary")
    chart = browser.find_element(By.CSS_SELECTOR, "svg.chart")
    chart.send_keys(Keys.ARROW_RIGHT)
    spoken = browser.find_element(By.ID, "spoken")
    first = spoken.get_attribute("textContent")
    assert first.startswith("polystep, IQM of 5 seeds, ")
    chart.send_keys(Keys.ARROW_RIGHT)
    assert spoken.get_attribute("textContent") != first
    chart.send_keys(Keys.ARROW_DOWN)
    assert spoken.get_attribute("textContent").startswith("open_es, IQM of 5 seeds, ")
    chart.send_keys(Keys.ESCAPE)
    assert not browser.find_element(By.ID, "tip").is_displayed()


def test_configuration_opens_below_its_run(show, small):
    browser = show(small)
    assert "optimiser.rate" not in browser.find_element(By.ID, "runs").text
    browser.find_element(By.CSS_SELECTOR, "#runs summary").click()
    browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 0))")
    entries = text_of(browser, "#runs tbody tr:nth-child(2) .config div")
    assert {"optimiser.rate 0.0003", "hidden [64,64]", "note null", "versions.jax 0.10.2"} <= {
        " ".join(entry.split()) for entry in entries
    }
    check(browser, "seed", "4")  # the rows are made anew: what is open stays open
    assert "optimiser.rate" in browser.find_element(By.ID, "runs").text
    browser.find_element(By.CSS_SELECTOR, "#runs summary").click()
    browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 0))")
    assert "optimiser.rate" not in browser.find_element(By.ID, "runs").text


def test_csv(show, small):
    hostile = [dict(small["runs"][0], algo='=HYPERLINK("x"),\n<b>', device="@x")]
    browser = show(hostile)
    script = (
        "const link = document.getElementById(arguments[0]);"
        "link.addEventListener('click', (event) => event.preventDefault());"
        "link.click(); return [link.href, link.download]"
    )
    href, name = browser.execute_script(script, "csv-runs")
    text = urllib.parse.unquote(href.removeprefix("data:text/csv;charset=utf-8,"))
    assert name == "runs.csv" and text.startswith("env,policy,algo,seed,return,")
    assert '''"'=HYPERLINK(""x""),\n<b>"''' in text and "'@x" in text  # no formula for a spreadsheet
    assert repr(hostile[0]["return"]) in text
    href, _ = browser.execute_script(script, "csv-summary")
    assert urllib.parse.unquote(href).count("\r\n") == 2


# --- odd data ----------------------------------------------------------------------------------------------------
def test_no_runs(show):
    browser = show([])
    assert browser.find_element(By.ID, "shown").text == "Showing 0 of 0 runs"
    assert not browser.find_element(By.ID, "failed-part").is_displayed()
    browser.find_element(By.ID, "logx").click()


def test_only_failed_cells(show, small):
    browser = show({"runs": [], "failed": small["failed"]})
    assert column(browser, "failed", "algo") == ["dqn"]


def test_missing_values(show, small):
    runs = [dict(run) for run in small["runs"][:6]]
    runs[0] |= {"return": None, "curve": None, "wall_seconds": None, "return_std": None, "config": None}
    runs[1] = {"env": "CartPole-v1", "algo": "polystep"}
    runs[2] |= {"curve": {"env_steps": [0, 10, 20], "return": [None, 4.0, None]}, "return": float("nan")}
    runs[3] |= {"curve": {"env_steps": [0], "return": [2.0]}}
    runs.append({"env": "Nothing-v0", "algo": "ppo", "policy": "int8", "seed": None, "curve": {}})
    browser = show(runs)
    for identity in ("logx", "single"):
        browser.find_element(By.ID, identity).click()
    browser.find_element(By.CSS_SELECTOR, "#runs th[data-key=return] button").click()
    assert column(browser, "runs", "return")[-4:] == ["–"] * 4  # at the end, either way
    browser.find_element(By.CSS_SELECTOR, "#runs th[data-key=return] button").click()
    assert column(browser, "runs", "return")[-4:] == ["–"] * 4
    assert "no curves" in browser.find_element(By.ID, "charts").get_attribute("textContent")


def test_hostile_names_show_as_text(show, small):
    names = [
        "<img src=x onerror=window.hacked=1>",
        "</script><script>window.hacked=1</script>",
        "__proto__",
        "constructor",
        "a\u2028b",
        "javascript:window.hacked=1",
        "x" * 400,
    ]
    fields = ("env", "algo", "policy", "device", "stopped_by")
    runs = [{**small["runs"][i], **dict.fromkeys(fields, name), "config": {name: name}} for i, name in enumerate(names)]
    failed = [{**dict.fromkeys(("env", "algo", "policy", "error"), names[0]), "seed": names[0]}]
    browser = show({"runs": runs, "failed": failed, "system": {names[0]: names[0]}}, title=names[0])
    assert text_of(browser, "h1") == names[:1]
    for shown in (column(browser, "runs", "algo"), column(browser, "summary", "algo")):
        assert sorted(shown) == sorted(names)
    for summary in browser.find_elements(By.CSS_SELECTOR, "#runs summary"):
        browser.execute_script("arguments[0].click()", summary)
    assert browser.execute_script("return window.hacked") is None
    assert not browser.find_elements(By.TAG_NAME, "img")
    assert browser.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
    check(browser, "algo", "__proto__")
    assert sorted(column(browser, "runs", "algo")) == sorted(set(names) - {"__proto__"})
    show.again("#" + urllib.parse.urlencode({"algo": names[0]}))
    assert column(browser, "runs", "algo") == names[:1]


def test_six_hundred_runs_are_quick(show, results_factory):
    browser = show(results_factory(policies=("float32", "int8", "binary"), seeds=13))
    assert browser.find_element(By.ID, "shown").text.startswith("Showing 624 ")
    script = "const start = performance.now(); arguments[0].click(); return performance.now() - start"
    box = browser.find_element(By.CSS_SELECTOR, '#filter-seed input[value="5"]')
    assert browser.execute_script(script, box) < 3000  # milliseconds; about 200 on an idle core


def test_narrow_and_dark(show, small, browser):
    show(small)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        show.again("")
        script = (
            "return [innerWidth, document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]"
        )
        assert browser.execute_script(script) == [400, 400, "rgb(20, 23, 26)"]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
