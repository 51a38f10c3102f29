"""The report in a real headless Chromium: it sorts, searches, shows attention, asks for nothing."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from precap.evaluate import metrics, report
from precap.evaluate.heatmaps import Attention
from tests.evaluate.small import corpus

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--window-size=1300,900"
)
#: Captions that would be code in a page that trusted them.
HOSTILE = [
    "<script>window.hit = 1</script>",
    "</script><script>window.hit = 2</script>",
    "<img src=x onerror='window.hit = 3'>",
    "<svg onload=window.hit=4>",
    '"><iframe src="javascript:parent.hit=5"></iframe>',
    "{{ 7 * 7 }} {% raw %} ${window.hit = 6} `${window.hit = 6}`",
    "<!-- <script> ]]> --> <![CDATA[ & &amp; &lt;",
    "javascript:window.hit=7",
    "a \u202egnp.exe\u202c dog \u2028 \u2029 \x00 \ud83d end",
    "'; window.hit = 8; //",
    "<style>body { display: none }</style>",
    "<base href='http://example.invalid/'><link rel=stylesheet href='http://example.invalid/x'>",
]
REFS = ["a dog on the grass", "a brown dog runs"]


def pictures(folder: Path, ids: list[str]) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    colours = np.random.default_rng(0).integers(0, 255, (len(ids), 3))
    paths = {}
    for number, image in enumerate(ids):
        paths[image] = folder / f"{number}.jpg"
        Image.new("RGB", (200, 150), tuple(int(c) for c in colours[number])).save(paths[image])
    return paths


def run_page(name: str, captions: dict[str, str], references: dict[str, list[str]]) -> Any:
    scores = metrics.score(captions, references, ["bleu", "rouge", "cider"])
    scores.unavailable["METEOR"] = "there is no Java here <b>"
    choose = np.random.default_rng(len(name))
    looks = {}
    for number, (image, caption) in enumerate(list(captions.items())[:6]):
        words = metrics.words(caption).split()
        weights = choose.random((len(words), 12))
        if number % 2:
            corner = choose.random((12, 2)) / 2
            boxes = np.concatenate([corner, corner + 0.4], axis=1)
            looks[image] = Attention(words, weights, boxes=boxes)
        else:
            looks[image] = Attention(words, weights, grid=(3, 4))
    curves = {"loss": [(0.0, 4.0), (100.0, 2.0)], "CIDEr": [(100.0, 0.4)], "bad": []}
    return report.RunPage(name, captions, scores, curves, looks, {"head": name})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over 120 images, the first of which carry hostile captions."""
    folder = tmp_path_factory.mktemp("report")
    captions, references = corpus(120)
    for image, text in zip(captions, HOSTILE, strict=False):
        captions[image] = text
        references[image] = [text, *REFS]
    other = {i: references[i][-1] for i in captions}
    paths = pictures(folder / "pictures", list(captions))
    (folder / "broken.jpg").write_bytes(b"not a picture")
    paths["img50"] = folder / "broken.jpg"
    return report.write(
        folder / "report.html",
        [run_page("first", captions, references), run_page("other <i>", other, references)],
        references,
        paths,
        title="Test & <title>",
        training=["a dog runs"],
        domains={i: "near-domain" for i in list(captions)[:10]},
    )


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    browser, program = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs chromium and chromium-driver: .ci/run installs them")
        pytest.skip("Chromium and its driver are not here")
    options = Options()
    options.binary_location = browser
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(program))
    yield driver
    driver.quit()


@pytest.fixture
def opened(chromium: WebDriver, page: Path) -> WebDriver:
    chromium.get_log("browser")
    chromium.get_log("performance")
    chromium.get(page.as_uri())
    return chromium


def cards(driver: WebDriver) -> list[str]:
    script = "return [...document.querySelectorAll('.card')].map((c) => c.dataset.id)"
    return list(driver.execute_script(script))


def settle(driver: WebDriver, text: str) -> None:
    """Wait until the counter says so."""
    WebDriverWait(driver, 20).until(lambda d: d.find_element(By.ID, "count").text == text)


def press(driver: WebDriver, *keys: str) -> None:
    driver.switch_to.active_element.send_keys(*keys)


def choose(driver: WebDriver, name: str, value: str) -> None:
    driver.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event('input', {bubbles: true}));",
        name,
        value,
    )


def embedded(page: Path) -> Any:
    text = page.read_text("utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def test_the_page_fits_its_limit_by_smaller_pictures(tmp_path: Path) -> None:
    captions, references = corpus(20)
    noise = np.random.default_rng(0)
    paths = {}
    for image in captions:
        paths[image] = tmp_path / f"{image}.png"
        Image.fromarray(noise.integers(0, 255, (400, 400, 3), dtype=np.uint8)).save(paths[image])
    runs = [run_page("first", captions, references)]
    free = report.write(tmp_path / "free.html", runs, references, paths).stat().st_size
    tight = report.write(tmp_path / "tight.html", runs, references, paths, limit=400_000)
    assert free > 800_000
    assert tight.stat().st_size < 400_000
    assert all(item["t"] for item in embedded(tight)["items"])


def test_eight_runs_of_different_images_and_scores_that_are_no_numbers(tmp_path: Path) -> None:
    runs = []
    for number in range(8):
        captions, references = corpus(5 + number)
        runs.append(run_page(f"run {number}", captions, references))
    odd = metrics.mean([float("nan")] * 5)
    runs[0] = replace(runs[0], scores=runs[0].scores.extended({"odd": odd}))
    path = report.write(tmp_path / "many.html", runs, references)
    data = embedded(path)
    assert len(data["items"]) == 12
    assert data["items"][0]["s"][0][data["metrics"].index("odd")] is None


def test_more_attention_than_the_page_holds_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "HEATMAPS", 4)
    captions, references = corpus(10)
    path = report.write(tmp_path / "few.html", [run_page("x", captions, references)], references)
    assert "Attention is kept for 4 of 6 images." in path.read_text("utf-8")
    assert sum("a" in item for item in embedded(path)["items"]) == 4


def test_curves_are_read_from_a_torn_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"kind": "step", "step": 1, "values": {"loss": 3.5, "note": "x"}}\n'
        '{"kind": "note", "message": "hello"}\n'
        '{"step": 2, "loss": 3}\n'
        '{"kind": "step", "step": 3, "val',
        "utf-8",
    )
    assert report.curves_of(log) == {"loss": [(1.0, 3.5), (2.0, 3.0)]}


@pytest.mark.browser
def test_nothing_leaves_the_page_and_nothing_is_reported(opened: WebDriver, page: Path) -> None:
    opened.find_element(By.CSS_SELECTOR, ".card").click()
    press(opened, Keys.ARROW_RIGHT)
    asked = [
        message["params"]["request"]["url"]
        for entry in opened.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    ]
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    assert opened.get_log("browser") == []
    tried = opened.execute_async_script(
        "const done = arguments[0]; const seen = [];"
        "document.addEventListener('securitypolicyviolation', (e) => seen.push(e.blockedURI));"
        "const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i);"
        "const s = document.createElement('script'); s.textContent = 'window.hit = 9';"
        "document.body.append(s); setTimeout(() => done(seen), 500);"
    )
    assert sorted(tried) == ["http://127.0.0.1:9/x.png", "inline"]
    opened.get_log("browser")


@pytest.mark.browser
def test_hostile_captions_stay_text(opened: WebDriver) -> None:
    choose(opened, "order", "as")
    WebDriverWait(opened, 20).until(lambda d: cards(d)[0] == "img0")
    shown = opened.execute_script(
        "return JSON.stringify([...document.querySelectorAll('.card')].slice(0, arguments[0])"
        ".map((c) => c.querySelector('.said span').textContent))",
        len(HOSTILE),
    )
    assert json.loads(shown) == HOSTILE
    press(opened, "r")
    for number in range(len(HOSTILE)):
        opened.execute_script("document.querySelectorAll('.card')[arguments[0]].click()", number)
        press(opened, Keys.ESCAPE)
    inside = opened.execute_script(
        "return document.querySelectorAll('#gallery script, #gallery iframe, #gallery svg, base,"
        " link, #gallery style, #viewer script, #viewer iframe, #scores h3 b').length"
    )
    assert inside == 0
    assert opened.execute_script("return window.hit") is None
    assert opened.title == "Test & <title>"


@pytest.mark.browser
def test_sorting_follows_the_scores(opened: WebDriver, page: Path) -> None:
    data = embedded(page)
    cider = data["metrics"].index("CIDEr")
    value = {item["id"]: [run[cider] for run in item["s"]] for item in data["items"]}
    best = [value[i][0] for i in cards(opened)]
    assert len(best) >= 48
    assert best == sorted(best, reverse=True)
    assert best[0] == max(v[0] for v in value.values())
    choose(opened, "order", "worst")
    WebDriverWait(opened, 20).until(lambda d: value[cards(d)[0]][0] == 0)
    choose(opened, "run", "1")
    choose(opened, "order", "best")
    top = max(v[1] for v in value.values())
    WebDriverWait(opened, 20).until(lambda d: value[cards(d)[0]][1] == top)
    choose(opened, "order", "gap")
    widest = max(abs(a - b) for a, b in value.values())
    WebDriverWait(opened, 20).until(lambda d: abs(np.subtract(*value[cards(d)[0]])) == widest)


@pytest.mark.browser
def test_search_and_filters(opened: WebDriver, page: Path) -> None:
    settle(opened, "120 of 120")
    items = embedded(page)["items"]
    fits = [
        i["id"]
        for i in items
        if all(
            w in " ".join([i["id"], i.get("d", ""), *i["c"], *i["refs"]]).lower()
            for w in ("horse", "night")
        )
    ]
    press(opened, "/")
    press(opened, "HORSE night")
    settle(opened, f"{len(fits)} of 120")
    assert sorted(cards(opened)) == sorted(fits)
    assert {m.text for m in opened.find_elements(By.CSS_SELECTOR, "mark")} <= {"horse", "night"}
    opened.find_element(By.ID, "search").clear()
    choose(opened, "filter", "look")
    settle(opened, "6 of 120")
    choose(opened, "filter", "domain:near-domain")
    settle(opened, "10 of 120")
    press(opened, Keys.ESCAPE)
    choose(opened, "filter", "")
    choose(opened, "search", "no such words anywhere")
    settle(opened, "0 of 120")
    assert "Nothing fits" in opened.find_element(By.ID, "more").text


def shade(driver: WebDriver) -> int:
    """How many different colours the attention on the open picture has."""
    return int(
        driver.execute_script(
            "const c = document.querySelector('#viewer canvas'); if (!c) return 0;"
            "const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "const s = new Set();"
            "for (let i = 0; i < p.length; i += 404) s.add(p[i] * 256 + p[i + 1]);"
            "return s.size;"
        )
    )


@pytest.mark.browser
def test_attention_word_by_word_over_grid_and_boxes(opened: WebDriver, page: Path) -> None:
    choose(opened, "filter", "look")
    choose(opened, "order", "as")
    settle(opened, "6 of 120")
    for number in range(2):
        opened.execute_script("document.querySelectorAll('.card')[arguments[0]].click()", number)
        words = opened.find_elements(By.CSS_SELECTOR, ".words button")
        looks = [look for look in embedded(page)["items"][number]["a"] if look]
        assert [w.text for w in words] == [word for look in looks for word in look["words"]]
        assert shade(opened) == 0
        words[-1].click()
        assert shade(opened) > 3
        assert words[-1].get_attribute("aria-pressed") == "true"
        words[-1].click()
        assert shade(opened) == 0
        press(opened, Keys.ESCAPE)


@pytest.mark.browser
def test_two_runs_side_by_side(opened: WebDriver, page: Path) -> None:
    item = embedded(page)["items"][30]
    choose(opened, "search", "img30")
    settle(opened, "1 of 120")
    said = opened.find_elements(By.CSS_SELECTOR, ".card .said")
    assert [s.find_element(By.CSS_SELECTOR, "span").text for s in said] == item["c"]
    rows = opened.find_elements(By.CSS_SELECTOR, "table.versus tbody tr")
    assert [r.find_element(By.TAG_NAME, "th").text for r in rows] == embedded(page)["metrics"]
    cells = [c.text for c in rows[-1].find_elements(By.TAG_NAME, "td")]
    assert float(cells[2]) == pytest.approx(float(cells[1]) - float(cells[0]), abs=2e-4)
    opened.find_element(By.CSS_SELECTOR, ".card").click()
    heads = [h.text for h in opened.find_elements(By.CSS_SELECTOR, "#viewer thead th")]
    assert heads == ["", "first", "other <i>"]


@pytest.mark.browser
def test_the_keyboard_alone_is_enough(opened: WebDriver) -> None:
    choose(opened, "order", "as")
    WebDriverWait(opened, 20).until(lambda d: cards(d)[0] == "img0")
    opened.execute_script("document.activeElement.blur()")
    press(opened, "j")
    press(opened, "j")
    press(opened, "j")
    press(opened, "k")
    assert opened.switch_to.active_element.get_attribute("data-id") == "img1"
    press(opened, Keys.ENTER)
    assert opened.find_element(By.ID, "viewer").is_displayed()
    press(opened, Keys.ARROW_RIGHT)
    press(opened, Keys.ARROW_RIGHT)
    pressed = opened.execute_script(
        "return [...document.querySelectorAll('.words button')]"
        ".findIndex((b) => b.getAttribute('aria-pressed') === 'true')"
    )
    assert pressed == 1
    press(opened, "n")
    assert opened.find_element(By.CSS_SELECTOR, "#viewer .foot").text.startswith("img2")
    press(opened, Keys.ESCAPE)
    assert not opened.find_element(By.ID, "viewer").is_displayed()
    assert opened.switch_to.active_element.get_attribute("data-id") == "img2"
    press(opened, "?")
    assert opened.find_element(By.ID, "help").is_displayed()
    press(opened, Keys.ESCAPE)
    before = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    opened.find_element(By.ID, "theme").click()
    after = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert before != after


@pytest.mark.browser
def test_scrolling_brings_the_rest(opened: WebDriver) -> None:
    for _ in range(20):
        opened.execute_script("window.scrollTo(0, document.body.scrollHeight)")
        if len(cards(opened)) == 120:
            break
        WebDriverWait(opened, 20).until(lambda d: len(cards(d)) > 0)
    WebDriverWait(opened, 20).until(lambda d: len(cards(d)) == 120)


@pytest.mark.browser
def test_a_picture_that_cannot_be_read_is_a_frame_and_counted(
    opened: WebDriver, page: Path
) -> None:
    choose(opened, "search", "img50")
    settle(opened, "1 of 120")
    assert opened.find_element(By.CSS_SELECTOR, ".card .frame").text == "no picture"
    assert "1 of 120 pictures could not be read" in page.read_text("utf-8")


@pytest.mark.browser
def test_it_prints_without_its_controls(opened: WebDriver) -> None:
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not opened.find_element(By.ID, "bar").is_displayed()
        assert opened.find_element(By.CSS_SELECTOR, ".card").is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.browser
def test_unavailable_metrics_are_on_the_page(opened: WebDriver) -> None:
    text = opened.find_element(By.ID, "scores").text
    assert "unavailable: there is no Java here <b>" in text
    assert "novel" in text
    assert "near-domain 10 " in text
    assert len(opened.find_elements(By.CSS_SELECTOR, "#curves figure")) == 2
