"""The report page stands alone, holds valid data, and hostile names stay text."""

import base64
import hashlib
import html
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from polystep_rl.analysis.curves import common_grid, curve_points
from polystep_rl.analysis.page import build_report, embed
from polystep_rl.analysis.palette import style

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "line\u2028and\u2029paragraph",
    "__proto__",
    "{{DATA}}",
    "\ud800",
    r"\u003c/script>",
]


class Tags(HTMLParser):
    """Every element of a page with its attributes, and the text of scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.scripts, self.in_script = [], [], False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.in_script = tag == "script"
        if self.in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.in_script = False

    def handle_data(self, data):
        if self.in_script:
            self.scripts[-1] += data


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


@pytest.fixture(scope="module")
def page(results):
    return build_report(results, "A comparison")


# --- stands alone ------------------------------------------------------------------------------------------------
def test_nothing_is_loaded(page):
    urls = set(re.findall(r"\w+://[^\s\"'<>;)]*", page))
    assert urls == {"http://www.w3.org/2000/svg"}  # a name, never fetched
    for tag, attributes in Tags(page).tags:
        assert tag not in ("iframe", "object", "embed", "base", "img")
        assert not attributes.get("src")
        assert attributes.get("href", "#") in ("#", "data:,")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|\beval\(|innerHTML|document\.write", page)


def test_only_the_page_s_own_script_may_run(page):
    policy = next(attrs["content"] for tag, attrs in Tags(page).tags if attrs.get("http-equiv"))
    assert "default-src 'none'" in policy
    _, code = Tags(page).scripts
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")


def test_same_results_same_page(page, results):
    assert build_report([results], "A comparison") == page
    assert "{{" not in page.replace("${{", "")


def test_title_is_escaped():
    page = build_report([], "<b>&\"'")
    assert html.escape("<b>&\"'") in page and "<b>&" not in page


# --- data --------------------------------------------------------------------------------------------------------
def test_the_data_are_all_there(page, results):
    data = data_of(page)
    assert data["runs"] == results["runs"]
    assert data["failed"] == results["failed"]
    assert data["policies"] == ["float32", "int8", "binary"]
    names = [name for name, _ in data["styles"]]
    assert names[:2] == ["polystep", "open_es"] and "dqn" in names  # of a failed cell only
    for name, look in data["styles"]:
        assert (look["color"], tuple(look["dash"])) == (style(name).color, style(name).dash)
    facts = dict(data["facts"])
    assert facts["jax"] == "0.10.2" and facts["python"] == "3.11.9" and facts["device"] == "cpu x2"


def test_documents_and_runs_are_merged(results):
    one, other = results["runs"][0], {**results["runs"][1], "versions": {"jax": "0.11.0"}}
    documents = [{"format": "polystep_rl.results", "version": 1, "runs": [one], "failed": results["failed"]}, other]
    data = data_of(build_report(iter(documents)))
    assert data["runs"] == [one, other]
    assert data["failed"] == results["failed"]
    assert dict(data["facts"])["jax"] == "0.10.2, 0.11.0"
    assert data_of(build_report([one]))["runs"] == [one]


@pytest.mark.parametrize("nothing", [[], {"runs": []}, {"format": "polystep_rl.results", "runs": None, "failed": None}])
def test_no_runs(nothing):
    data = data_of(build_report(nothing))
    assert (data["runs"], data["failed"], data["styles"]) == ([], [], [])


@pytest.mark.parametrize("wrong", [[1], ["x"], [None], {"runs": [3]}, {"runs": [], "failed": ["x"]}, {"format": "y"}])
def test_what_is_no_result_is_refused_in_one_line(wrong):
    with pytest.raises(ValueError) as caught:
        build_report(wrong)
    assert "expected" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_values():
    run = {"env": None, "algo": "ppo", "return": math.nan, "wall_seconds": math.inf, "curve": None, "seed": np.int64(3)}
    run |= {"config": {1: np.float32(0.5), "a": np.arange(2), "p": {"x": -math.inf}, "o": object}}
    (row,) = data_of(build_report([run]))["runs"]
    assert (row["env"], row["policy"], row["return"], row["wall_seconds"], row["seed"]) == (
        "unknown",
        "unknown",
        None,
        None,
        3,
    )
    assert row["curve"] == {"env_steps": [], "return": []}
    assert row["config"] == {"1": 0.5, "a": [0, 1], "p": {"x": None}, "o": str(object)}


def test_curve_points():
    given = {"env_steps": [30, 10, None, 20, 20, -1, 40], "return": [3.0, 1.0, 9.0, math.nan, 2.0, 0.0]}
    assert curve_points(given) == {"env_steps": [10, 20, 30], "return": [1.0, 2.0, 3.0]}
    for empty in (None, {}, {"env_steps": None, "return": [1.0]}, [1, 2], {"env_steps": []}):
        assert curve_points(empty) == {"env_steps": [], "return": []}
    assert curve_points({"env_steps": np.array([1, 2]), "return": np.array([0.5, 1.0])})["return"] == [0.5, 1.0]


def test_common_grid():
    curves = [{"env_steps": [1, 5]}, {"env_steps": [5, 3]}, {"env_steps": []}]
    assert common_grid(curves) == [1, 3, 5]
    long = common_grid([{"env_steps": list(range(0, 5000, 7))}], 100)
    assert (len(long), long[0], long[-1]) == (100, 0, 4998)
    assert long == sorted(set(long))


# --- hostile names -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", HOSTILE)
def test_embedded_json_cannot_leave_its_element(text):
    embedded = embed({text: [text]})
    assert json.loads(embedded) == {text: [text]}
    assert embedded.isascii() and not set("<>&") & set(embedded)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_data_only(text):
    calm, hostile = (
        build_report({"runs": [dict.fromkeys(("env", "algo", "policy", "seed", "device"), name)]}, "title")
        for name in ("calm", text)
    )
    assert [tag for tag, _ in Tags(hostile).tags] == [tag for tag, _ in Tags(calm).tags]
    assert data_of(hostile)["runs"][0]["algo"] == text
    assert len(Tags(hostile).scripts) == 2
