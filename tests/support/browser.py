"""Headless Chromium, driven over WebDriver, without any network; whoever imports this is skipped where it is missing.

It comes by ``apt-get install chromium chromium-driver`` and ``pip install selenium``.
"""

import contextlib
import json
import shutil

import pytest

pytest.importorskip("selenium")

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
).split()


@contextlib.contextmanager
def chromium(profile, size):
    """A browser with its profile in a folder and a window of a size, such as 1300,1000."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--window-size={size}", "--host-resolver-rules=MAP * ~NOTFOUND"]:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # The path of the driver is given: selenium would download one.
    driver = webdriver.Chrome(options=options, service=Service(executable_path=DRIVER))
    try:
        driver.get("about:blank")  # away from the browser's own start page, which loads parts of the browser
        yield driver
    finally:
        driver.quit()


def empty_logs(browser):
    """Forget what went wrong or was requested so far."""
    for log in ("browser", "performance"):
        browser.get_log(log)


def requested(browser):
    """The addresses that were requested, and nothing went wrong meanwhile."""
    assert browser.get_log("browser") == []  # errors, warnings, and what the page's policy forbids
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    return {url for url in sent if not url.startswith("data:")}
