"""The players and the pages of the built book in a real browser: the distribution's Chromium, driven by playwright.

Skipped in one line without it. The pages need a built book, named in BOOK_HTML, as `make test` does.
"""

import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from growdarts import drawing
from growdarts_study import published
from growdarts_study import grids, records
from growdarts_study.report import player
from test_drawings import searched

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
BOOK = Path(os.environ["BOOK_HTML"]).resolve() if "BOOK_HTML" in os.environ else None
PAGES = sorted({p.relative_to(BOOK) for p in BOOK.rglob("*.html") if "_static" not in p.parts} - {Path("index.html")}) if BOOK else []
WIDTHS = (390, 768, 1280)
PLAYED = ("time_series", "language", "images")
TALLEST = 150 * 1024  # bytes of a player

# Pairs of texts of one drawing whose boxes share more than a pixel each way. Invisible ones do not count.
CROSSING = """() => [...document.querySelectorAll("svg")].filter(svg => !svg.closest("mjx-container") && svg.checkVisibility())
  .flatMap(svg => {
    const seen = [...svg.querySelectorAll("text")].filter(t => t.textContent.trim() && t.checkVisibility({opacityProperty: true}));
    const boxes = seen.map(t => [t.textContent.trim(), t.getBoundingClientRect()]);
    const frame = svg.getBoundingClientRect();
    const found = boxes.filter(([, b]) => b.left < frame.left - 1 || b.right > frame.right + 1).map(([t]) => t + " is cut");
    boxes.forEach(([s, a], i) => boxes.slice(i + 1).forEach(([t, b]) => {
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)
        found.push(s + " / " + t);
    }));
    return found;
  })"""
SMALLEST = """() => Math.min(99, ...[...document.querySelectorAll(".gd-player svg text")].filter(t => t.checkVisibility())
  .map(t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a))"""
# A table of more than seven columns, and a figure that is shrunk on a phone until its letters, of 11 points, have less than 10 pixels.
WIDE = """() => [...document.querySelectorAll("table")].filter(t => [...t.rows].some(row => row.cells.length > 7)).map(t => t.innerText.slice(0, 60))"""
SHRUNK = """() => [...document.querySelectorAll(".bd-article img[src$=png]")].filter(i => i.checkVisibility() && i.naturalWidth > 1.68 * i.clientWidth)
  .map(i => i.src)"""
# Code that goes on beyond its box, and letters smaller than 11 pixels outside of drawings and equations.
CUT = """() => [...document.querySelectorAll(".bd-article pre")].filter(box => box.scrollWidth > box.clientWidth + 1)
  .map(box => box.textContent.slice(0, 60))"""
TINY = """() => [...document.querySelectorAll("body *")].filter(e => !e.closest("svg, mjx-container") && e.checkVisibility()
  && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && parseFloat(getComputedStyle(e).fontSize) < 10.9)
  .map(e => e.textContent.trim().slice(0, 40))"""
WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def record(experiment):
    return records.longest_search(grids.load_records(experiment, "reduced", partial=True), "grow")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens HTML, or a file; afterwards nothing may have been said on the console, nor asked of another place than the disk."""
    wrong, contexts = [], []

    def open_page(html, **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "has_touch": True, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(120_000)
        # The theme warns of its own default mode on every page.
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning")
                and "theme mode" not in message.text else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url))
        if not isinstance(html, Path):
            (tmp_path / "page.html").write_text(
                f'<!doctype html><html lang="en"><meta charset="utf-8"><title>page</title>'
                f'<meta name="viewport" content="width=device-width"><main>{html}</main></html>')
            html = tmp_path / "page.html"
        page.goto(html.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def state(page):
    """What the drawing shows: the numbers of its weights, the lengths of their bars, its nodes."""
    return page.evaluate("""() => [...document.querySelectorAll(".gd-live .gd-w")].map(
        w => [w.textContent, w.children[1].style.width, w.getAttribute("class")].join()).join("|")""")


@pytest.fixture(scope="module", params=PLAYED)
def played(request):
    html = player.search(record(request.param))
    assert len(html.encode()) < TALLEST
    return request.param, html


def test_the_slider_moves_by_mouse_keyboard_and_touch(played, opened):
    experiment, html = played
    page = opened(html)
    slider, seen = page.locator("input[type=range]"), [state(page)]
    box, last = slider.bounding_box(), int(slider.get_attribute("max"))
    middle = box["y"] + box["height"] / 2
    page.mouse.click(box["x"] + box["width"] * 0.4, middle)
    seen.append(state(page))
    page.keyboard.press("End")
    assert slider.input_value() == str(last)
    seen.append(state(page))
    page.keyboard.press("ArrowLeft")
    assert slider.input_value() == str(last - 1)
    page.touchscreen.tap(box["x"] + box["width"] * 0.7, middle)
    seen.append(state(page))
    assert len(set(seen)) == 4 and "gd-off" in seen[0] and "gd-chosen" in seen[2]
    page.locator("button").focus()
    page.keyboard.press("Home")  # not the button's
    at = int(slider.input_value())
    page.keyboard.press("ArrowRight")
    assert int(slider.input_value()) == at + 1
    assert page.locator(".gd-say").inner_text() and page.locator(".gd-say").inner_text() in slider.get_attribute("aria-valuetext")


def test_the_steps_show_what_the_record_holds(played, opened):
    """The numbers of every epoch against the history, and the sentences against the events."""
    experiment, html = played
    page, search = opened(html), record(experiment)["search"]
    for number, step in enumerate(player.steps(record(experiment))):
        page.locator("input[type=range]").fill(str(number))
        shown = page.evaluate("""() => [...document.querySelectorAll(".gd-live .gd-w:not(.gd-off):not(.gd-gone) text")].map(
            t => t.textContent)""")
        if step["kind"] == "epoch":
            (row,) = [row for row in search["history"] if row["epoch"] == step["epoch"]]
            weights = [weight for mixture in row["weights"].values() for weight in mixture.values()]
            assert len(shown) == len(weights) and sum(map(int, shown)) == pytest.approx(100 * sum(weights), abs=len(shown) / 2)
    grown = sum(event["kind"] == "grow_node" for event in search["events"])
    assert sum("A node was grown" in step["say"] for step in player.steps(record(experiment))) == grown > 0


def test_play_goes_on_by_itself_and_stops(opened):
    page = opened(player.search(record("images")), reduced_motion="reduce")
    page.locator("button").click()
    page.wait_for_function("() => document.querySelector('input[type=range]').value > 1")
    assert page.locator("button").get_attribute("aria-label") == "Pause" and page.locator(".gd-say").get_attribute("aria-live") == "off"
    page.locator("button").click()
    assert page.locator("button").get_attribute("aria-label") == "Play"
    assert page.evaluate("() => getComputedStyle(document.querySelector('.gd-bar')).transitionProperty") == "none"


def test_first_and_last_frame_are_seen_without_a_script_and_in_print(played, opened):
    quiet = opened(played[1], java_script_enabled=False)
    assert [still.is_visible() for still in quiet.locator(".gd-still").all()] == [True, True]
    assert not quiet.locator("input[type=range]").is_visible()
    page = opened(played[1])
    assert not page.locator(".gd-still").first.is_visible() and page.locator(".gd-live").is_visible()
    page.emulate_media(media="print")
    assert page.locator(".gd-still").last.is_visible() and not page.locator(".gd-live").is_visible()


@pytest.mark.parametrize("width", WIDTHS)
def test_players_fit_and_no_words_meet(played, opened, width):
    page = opened(played[1], viewport={"width": width, "height": 800})
    for number in (0, 5, int(page.locator("input[type=range]").get_attribute("max"))):
        page.locator("input[type=range]").fill(str(number))
        page.wait_for_timeout(700)  # what fades has faded
        assert page.evaluate(CROSSING) == [] and page.evaluate(WIDER) <= 0
    assert page.evaluate(SMALLEST) > 7.9  # a subscript; letters have 11


def test_the_morphism_has_a_curve_for_every_epsilon(opened):
    table = pd.DataFrame({"input": [-3.0, 0.0, 3.0], "before": [0.0, 1.0, 2.0], "0.1": [0.0, 1.1, 2.0], "fresh": [1.0, 1.0, 0.0]})
    html = player.morphism(table, [(0.1, 0.02), (None, 0.9)])
    page = opened(html, viewport={"width": 390, "height": 800})
    first = page.locator(".gd-live .gd-after").first.get_attribute("d")
    assert "2 % of its size; 10 % was allowed" in page.locator(".gd-say").inner_text()
    page.locator("input[type=range]").press("ArrowRight")
    assert page.locator(".gd-live .gd-after").first.get_attribute("d") != first
    assert "Fresh weights" in page.locator(".gd-title").inner_text() and page.evaluate(CROSSING) == []


def test_words_that_meet_are_seen(opened):
    svg = '<svg width="90" height="40"><text x="5" y="20">carry</text><text x="25" y="22">0.06</text><text x="80" y="38">gate</text></svg>'
    assert opened(svg).evaluate(CROSSING) == ["gate is cut", "carry / 0.06"]


RECURRENT = {f"edge {i} <- {j}": {"none": 0.5, "tanh": 0.1, "relu": 0.2, "sigmoid": 0.1, "identity": 0.1}
             for i in range(1, 9) for j in range(i)}
CONVOLUTIONAL = {f"{kind} {i} <- {j}": {"none": 0.1, "max_pool_3x3": 0.2, "skip_connect": 0.3, "dil_conv_5x5": 0.4}
                 for kind in ("normal", "reduction") for i in range(2, 6) for j in range(i)}


@pytest.mark.parametrize("svg", [
    *(pytest.param(lambda e=e: drawing.growth(record(e)), id=e) for e in PLAYED),
    pytest.param(lambda: searched(RECURRENT, "darts_recurrent", {"edge 1 <- 0": {"none": 1.0}}), id="recurrent"),
    pytest.param(lambda: searched(CONVOLUTIONAL, "darts_conv"), id="convolutional"),
    *(pytest.param(lambda g=g: drawing.genotype(g.to_dict()), id=g.space)
      for g in (published.PTB_DARTS_V2, published.CIFAR10_DARTS_V2))])
def test_no_words_of_a_drawing_meet(svg, opened):
    assert opened(svg()).evaluate(CROSSING) == []


def serious(page):
    """What axe-core finds that is serious or critical: the rule, and the first place."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page, options={"resultTypes": ["violations"], "preload": False}).response["violations"]
    return [(one["id"], one["nodes"][0]["html"][:120]) for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened, theme):
    colours = "#14181e;--pst-color-text-base:#ced6dd;--pst-color-background:#14181e" if theme == "dark" else "#fff"
    page = opened(f'<style>body {{background: {colours}}}</style>' + player.search(record("language")))
    page.evaluate(f"() => document.documentElement.dataset.theme = '{theme}'")
    page.locator("input[type=range]").fill("12")
    page.wait_for_timeout(700)
    assert serious(page) == []


@pytest.mark.skipif(BOOK is None, reason="needs a built book: make test")
def test_runs_are_filtered_and_lead_to_their_records(opened):
    page = opened(BOOK / "book" / "runs.html")
    page.locator(".gd-runs input").fill("language lstm")
    made = len(list((records.RESULTS / "language").rglob("lstm/*.json")))
    assert page.locator(".gd-runs p").inner_text().startswith(f"{made} of ")
    assert page.locator(".gd-runs tbody td").all_inner_texts()[:4] == ["language", "penn_treebank", "lstm", "0"]
    href = page.locator(".gd-runs tbody a").first.get_attribute("href")
    assert (BOOK / "book" / href).resolve().is_file()
    page.locator(".gd-runs input").fill("time_series")
    page.get_by_role("button", name="test error").click()
    shown = [float(text) for text in page.locator(".gd-runs tbody td:last-child").all_inner_texts()]
    assert len(shown) == 50 and shown == sorted(shown)
    page.goto((BOOK / "notebooks" / "03_penn_treebank.html").as_uri())
    page.get_by_role("link", name="LSTM", exact=True).click()
    page.wait_for_selector(".gd-runs tbody tr")
    assert page.locator(".gd-runs p").inner_text().startswith("1 of ")
    asked = {found for name in PAGES for found in re.findall(r'runs\.html#([^"]+)"', (BOOK / name).read_text(encoding="utf-8"))}
    for filtered in asked:
        page.evaluate("hash => { location.hash = hash; dispatchEvent(new HashChangeEvent('hashchange')); }", filtered)
        assert page.locator(".gd-runs tbody tr").count() > 0, filtered
    assert len(asked) > 30


@pytest.mark.skipif(BOOK is None, reason="needs a built book: make test")
def test_the_search_finds(browser):
    """Extracts from the pages beside the titles need a server; from a file the browser says so on the console."""
    page = browser.new_page()
    page.goto((BOOK / "search.html").as_uri() + "?q=growing")
    page.wait_for_selector("#search-results li a")
    titles = page.locator("#search-results li a").all_inner_texts()
    assert len(titles) > 5 and any("grow" in title.lower() for title in titles)


@pytest.mark.skipif(BOOK is None, reason="needs a built book: make test")
@pytest.mark.parametrize("page", PAGES or [None], ids=str)
def test_pages_of_the_book(page, opened):
    """No page scrolls sideways, no words of a drawing meet, no code is cut, on a phone, a tablet, a screen; axe-core is content."""
    shown = opened(BOOK / page)
    shown.evaluate("() => document.querySelectorAll('details').forEach(part => part.open = true)")
    for width in WIDTHS:
        shown.set_viewport_size({"width": width, "height": 900})
        shown.wait_for_timeout(200)
        assert shown.evaluate(WIDER) <= 0, f"{page} at {width}"
        assert shown.evaluate(CROSSING) == [], f"{page} at {width}"
        assert shown.evaluate(CUT) == [] and shown.evaluate(TINY) == [], f"{page} at {width}"
        assert width > 390 or shown.evaluate(SHRUNK) == [], f"{page} at {width}"
    assert shown.evaluate(WIDE) == []
    for theme in ("light", "dark"):
        shown.evaluate("theme => Object.assign(document.documentElement.dataset, {theme, mode: theme})", theme)
        shown.wait_for_timeout(500)  # colours that change have changed
        assert serious(shown) == [], f"{page}, {theme}"
    players = {"notebooks/01_morphisms.html", "notebooks/02_time_series.html", "notebooks/03_penn_treebank.html",
               "notebooks/04_cifar10.html"}
    assert shown.locator(".gd-player").count() == (str(page) in players)
