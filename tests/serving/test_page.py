"""The page in a real browser: Chromium as Debian packages it, without a window.

Without Chromium these tests are skipped; where SELAVPR_REQUIRE_BROWSER is 1 they fail instead.
"""

import os
import re
import shutil
import socket
import threading
from contextlib import contextmanager

import pytest
import uvicorn
from playwright.sync_api import expect, sync_playwright

from selavpr_peft.retrieval import PlaceDatabase
from selavpr_peft.serving import app as app_file
from selavpr_peft.serving import create_app
from tests.retrieval.conftest import make_model
from tests.serving.conftest import NUM_PLACES, calibration_of, some_places

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
expect.set_options(timeout=30_000)  # milliseconds; on a busy machine the model may take its time
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 360, "height": 720}, "is_mobile": True, "has_touch": True}
DROP = """([target, name, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", { type: "image/jpeg" }));
    const options = { bubbles: true, cancelable: true, [name === "paste" ? "clipboardData" : "dataTransfer"]: data };
    const event = name === "paste" ? new ClipboardEvent(name, options) : new DragEvent(name, options);
    document.querySelector(target).dispatchEvent(event);
}"""
LINES = """() => [...document.querySelectorAll("#lines .match")].map((line) => {
    const place = (x, y, id) => {
        const image = document.getElementById(id);
        return [(x - image.offsetLeft) / image.clientWidth, (y - image.offsetTop) / image.clientHeight];
    };
    const { x1, y1, x2, y2 } = Object.fromEntries(["x1", "y1", "x2", "y2"].map((n) => [n, line[n].baseVal.value]));
    return [...place(x1, y1, "query-picture"), ...place(x2, y2, "place-picture")];
})"""
COLOURS = """() => Object.fromEntries(
    ["page", "panel", "text", "quiet", "line", "accent", "on-accent", "chosen", "error", "error-panel"].map(
        (name) => [name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`)],
    ),
)"""


@pytest.fixture(scope="module")
def browser():
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None and os.environ.get("SELAVPR_REQUIRE_BROWSER") == "1":
        pytest.fail("no Chromium is installed, and SELAVPR_REQUIRE_BROWSER is 1: apt-get install chromium")
    if executable is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(recognizer):
    with served(recognizer) as address:
        yield address


@contextmanager
def served(recognizer):
    """Serve a recogniser and give its address."""
    server = uvicorn.Server(uvicorn.Config(create_app(recognizer), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def opened(browser, address):
    """Open the page as another user would; whatever its scripts complain of fails the test."""
    contexts, complaints = [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        expect(page.locator("#database")).to_contain_text(f"city.placedb: {NUM_PLACES} places")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture
def page(opened):
    return opened(**DESKTOP)


@pytest.fixture
def result(page, city):
    """The page with the picture of place 3 located, and its matches drawn."""
    return located(page, city / "day" / "0003.jpg")


def located(page, photograph):
    page.set_input_files("#file", photograph)
    expect(page.locator("#status")).to_contain_text("Most likely")
    expect(page.locator("#match-state")).to_contain_text("matches are shown")
    return page


def chosen(page):
    return page.locator("#candidates [aria-current=true] .key")


class TestUpload:
    def test_a_chosen_photograph_is_located(self, result):
        expect(result.locator("#status")).to_have_text(
            re.compile(r"Most likely day/0003\.jpg, frame 3\. Located in \d+\.\d\d s\.")
        )
        candidates = result.get_by_role("list").get_by_role("button")
        expect(candidates).to_have_count(NUM_PLACES)
        expect(candidates.first).to_have_text(re.compile(r"1day/0003\.jpg\d+ matchessimilarity 1\.000frame 3"))
        expect(chosen(result)).to_have_text("day/0003.jpg")
        for thumbnail in candidates.locator("img").all():
            thumbnail.scroll_into_view_if_needed()
            assert thumbnail.evaluate("image => image.decode().then(() => image.naturalWidth)") == 112

    @pytest.mark.parametrize("way", ["drop", "paste"])
    def test_a_dropped_or_pasted_photograph_is_located(self, page, photograph, way):
        page.evaluate(DROP, ["body", way, list(photograph)])
        expect(page.locator("#status")).to_contain_text("Most likely day/0003.jpg")

    def test_settings_are_kept_to(self, page, city):
        page.get_by_text("Settings").click()
        page.get_by_label("Places listed").fill("3")
        page.get_by_label("Candidates re-ranked").fill("2")
        located(page, city / "day" / "0003.jpg")
        details = page.locator(".candidate .words").all_inner_texts()
        assert ["matches" in text for text in details] == [True, True, False]
        page.get_by_label("Places listed").fill("5")
        page.get_by_role("button", name="Locate again").click()
        expect(page.locator(".candidate")).to_have_count(5)

    def test_what_goes_on_is_told(self, page, city, recognizer, monkeypatch):
        recognize, may_end = recognizer.recognize, threading.Event()
        monkeypatch.setattr(recognizer, "recognize", lambda *a, **o: may_end.wait(30) and recognize(*a, **o))
        page.set_input_files("#file", city / "day" / "0003.jpg")
        expect(page.get_by_role("status").first).to_have_text("Locating …")
        expect(page.get_by_role("progressbar", name="Progress")).to_be_visible()
        expect(page.get_by_role("img", name="The photograph 0003.jpg")).to_be_visible()
        may_end.set()
        expect(page.locator("#status")).to_contain_text("Most likely")
        expect(page.locator("#progress")).to_be_hidden()

    def test_the_last_photograph_counts(self, page, city, recognizer, monkeypatch):
        recognize, may_end = recognizer.recognize, threading.Event()
        monkeypatch.setattr(recognizer, "recognize", lambda *a, **o: may_end.wait(30) and recognize(*a, **o))
        page.set_input_files("#file", city / "day" / "0003.jpg")
        expect(page.locator("#status")).to_have_text("Locating …")
        page.set_input_files("#file", city / "day" / "0006.jpg")
        may_end.set()
        expect(page.locator("#status")).to_contain_text("Most likely day/0006.jpg")
        expect(page.locator("#match-state")).to_contain_text("matches are shown")
        assert located_points_agree(page)


class TestProbability:
    @pytest.fixture
    def fitted(self, recognizer, city, monkeypatch):
        """Calibrate the server so that place 3, by its own picture and 5 candidates, is right with a probability."""

        def fit(probability):
            evidence = recognizer.recognize(city / "day" / "0003.jpg", rerank_num=5)[0].evidence
            calibration = calibration_of(recognizer.database, probability=probability, evidence=evidence)
            monkeypatch.setattr(recognizer, "calibration", calibration)
            return evidence

        return fit

    def test_it_stands_in_words_beside_the_evidence(self, fitted, opened, city):
        evidence = fitted(0.93)
        page = located(opened(**DESKTOP), city / "day" / "0003.jpg")
        expect(page.locator("#status")).to_contain_text(
            f"Most likely day/0003.jpg, frame 3. Right with a probability of 93\u00a0%, by {evidence} matches. Located"
        )
        first, second = page.locator(".candidate .words").all_inner_texts()[:2]
        assert first.splitlines()[:3] == ["day/0003.jpg", "93\u00a0% likely right", f"{evidence} matches"]
        assert "likely right" not in second

    @pytest.mark.parametrize(
        ("probability", "words"),
        [(0.999, "over 99\u00a0%"), (0.5, "50\u00a0%"), (0.3, "30\u00a0%"), (0.001, "under 1\u00a0%")],
    )
    def test_nothing_is_certain_and_doubt_is_told(self, fitted, opened, city, probability, words):
        fitted(probability)
        page = located(opened(**DESKTOP), city / "day" / "0003.jpg")
        expect(page.locator(".candidate").first).to_contain_text(f"{words} likely right")
        assert ("more likely wrong" in page.locator("#status").inner_text()) is (probability < 0.5)

    def test_without_re_ranking_the_evidence_is_the_similarity(self, opened, recognizer, city, monkeypatch):
        calibration = calibration_of(recognizer.database, probability=0.8, evidence=1, rerank_num=0)
        monkeypatch.setattr(recognizer, "calibration", calibration)
        page = located(opened(**DESKTOP), city / "day" / "0003.jpg")
        expect(page.locator("#status")).to_contain_text("of 80\u00a0%, by a similarity of 1.000.")

    def test_the_settings_begin_with_the_number_it_holds_for(self, fitted, opened, city):
        fitted(0.93)
        page = opened(**DESKTOP)
        page.get_by_text("Settings").click()
        expect(page.get_by_label("Candidates re-ranked")).to_have_value("5")
        expect(page.get_by_text("Answers have a probability when 5 candidates are re-ranked.")).to_be_visible()
        page.get_by_label("Candidates re-ranked").fill("6")
        located(page, city / "day" / "0003.jpg")
        expect(page.locator("main")).not_to_contain_text("likely right")

    def test_without_a_calibration_nothing_is_said_of_it(self, result):
        result.get_by_text("Settings").click()
        expect(result.get_by_label("Candidates re-ranked")).to_have_value("100")
        expect(result.locator("main")).not_to_contain_text(re.compile("probability|likely right", re.IGNORECASE))


class TestChanges:
    def test_places_that_came_meanwhile_are_found_and_drawn(self, browser, growing, city):
        with served(growing) as address:
            page = browser.new_page(**DESKTOP)
            page.goto(address)
            expect(page.locator("#database")).to_contain_text("6 places")
            PlaceDatabase.open(growing.database.folder).add(make_model(), some_places(city, 6, 8))
            located(page, city / "day" / "0007.jpg")
            expect(page.locator("#status")).to_contain_text("Most likely day/0007.jpg")
            expect(page.locator("#database")).to_contain_text("8 places")
            expect(page.locator(".map .place")).to_have_count(8)
            PlaceDatabase.open(growing.database.folder).remove(growing.database.places["key"][:])
            page.set_input_files("#file", city / "day" / "0003.jpg")
            expect(page.get_by_role("alert")).to_contain_text("The database has no places any more")
            page.close()


class TestErrors:
    def test_what_is_no_picture_is_told_and_the_next_photograph_works(self, page, city):
        page.set_input_files("#file", city / "places.csv")
        expect(page.get_by_role("alert")).to_contain_text("This file is no picture that can be read")
        expect(page.locator("#result")).to_be_hidden()
        expect(page.locator("#preview")).to_be_hidden()
        located(page, city / "day" / "0003.jpg")
        expect(page.get_by_role("alert")).to_be_hidden()

    def test_too_large_a_file_is_not_even_sent(self, opened, city, monkeypatch):
        monkeypatch.setattr(app_file, "MAX_UPLOAD_BYTES", 1000)
        page, sent = opened(**DESKTOP), []
        page.on("request", lambda request: sent.append(request.url))
        page.set_input_files("#file", city / "day" / "0003.jpg")
        expect(page.get_by_role("alert")).to_have_text(
            "The photograph is larger than 0.001 MB; choose a smaller copy."
        )
        assert not [url for url in sent if "api" in url]

    def test_a_server_that_has_gone_is_told(self, page, city):
        page.context.set_offline(True)
        page.set_input_files("#file", city / "day" / "0003.jpg")
        expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached")

    def test_a_failure_while_matching_is_told_beside_the_pictures(self, page, city, recognizer, monkeypatch):
        page.route("**/api/match*", lambda route: route.abort())
        page.set_input_files("#file", city / "day" / "0003.jpg")
        expect(page.locator("#match-state")).to_contain_text("The server cannot be reached")
        expect(page.locator("#lines .match")).to_have_count(0)


class TestMap:
    def test_every_place_is_a_dot_and_every_candidate_a_pin_at_its_place(self, result):
        drawing = result.get_by_role("img", name=f"Map of {NUM_PLACES} places with {NUM_PLACES} candidates")
        dots = drawing.locator(".place").evaluate_all("dots => dots.map((dot) => dot.cx.baseVal.value)")
        assert dots == sorted(dots)
        assert len(dots) == NUM_PLACES
        # Frames are drawn from left to right, so a pin's point is the dot of its candidate's frame.
        frames = [int(text.split("frame ")[1]) for text in result.locator(".candidate").all_inner_texts()]
        points = drawing.locator(".true-point").evaluate_all("ends => ends.map((end) => end.cx.baseVal.value)")
        assert sorted(points) == pytest.approx(sorted(dots[frame] for frame in frames))
        expect(drawing.locator(".unit")).to_have_text("1 frame")

    def test_pins_lie_apart(self, result):
        centres = result.locator(".pin circle").evaluate_all(
            "pins => pins.map((pin) => [pin.cx.baseVal.value, pin.cy.baseVal.value])"
        )
        apart = [((x - u) ** 2 + (y - v) ** 2) ** 0.5 for n, (x, y) in enumerate(centres) for u, v in centres[n + 1 :]]
        assert min(apart) > 22  # their diameter

    def test_a_pin_chooses_its_place(self, result):
        key = result.locator(".candidate .key").nth(4).inner_text()
        result.locator(".pin").filter(has=result.get_by_text("5", exact=True)).click()
        expect(chosen(result)).to_have_text(key)
        expect(result.locator(".pin.is-chosen")).to_contain_text("5")

    def test_it_can_be_drawn_around_the_candidates_only(self, page, city):
        page.get_by_text("Settings").click()
        page.get_by_label("Places listed").fill("1")
        located(page, city / "day" / "0000.jpg")
        page.get_by_label("only around the candidates").check()
        assert page.locator(".map .place").count() < NUM_PLACES
        expect(page.locator(".pin")).to_have_count(1)


class TestMatches:
    def test_lines_join_the_matched_points(self, result):
        # The photograph is the first place's own picture: every line joins a point with itself.
        assert located_points_agree(result)
        num_lines = result.locator("#lines .match").count()
        expect(result.locator("#match-state")).to_have_text(re.compile(rf"{num_lines} of \d+ matches are shown\."))

    def test_the_sliders_take_lines_away(self, result):
        result.locator(".candidate").nth(1).click()
        expect(result.locator("#place-caption")).to_contain_text("2. ")
        expect(result.locator("#match-state")).to_contain_text("matches are shown")
        all_lines = result.locator("#lines .match").count()
        result.get_by_label("Most lines").fill("5")
        expect(result.locator("#lines .match")).to_have_count(5)
        result.get_by_label("Most lines").fill(str(all_lines))
        highest = result.get_by_label("Least similarity").get_attribute("max")
        result.get_by_label("Least similarity").fill(highest)
        expect(result.locator("#lines .match")).not_to_have_count(all_lines)
        expect(result.locator("#similarity-value")).to_have_text(re.compile(r"\d\.\d\d"))

    def test_pointing_at_a_match_singles_it_out(self, result):
        end = result.locator("#lines .point").last
        end.scroll_into_view_if_needed()
        box = end.bounding_box()
        result.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        expect(result.locator("#lines .highlight")).to_have_count(1)
        expect(result.locator("#match-state")).to_have_text(
            re.compile(r"Match \d+ of \d+: similarity 1\.000, from \(\d+, \d+\) px in the photograph to \(\d+, \d+\)")
        )
        result.mouse.move(0, 0)
        expect(result.locator("#lines .highlight")).to_have_count(0)

    def test_lines_follow_the_pictures_when_the_window_changes(self, result):
        result.set_viewport_size({"width": 500, "height": 800})
        expect(result.locator("#lines")).to_have_attribute("viewBox", re.compile(r"^0 0 4\d\d "))
        assert located_points_agree(result)


def located_points_agree(page):
    """Whether every line has its ends at the same place of both pictures."""
    lines = page.evaluate(LINES)
    return lines and all(abs(a - c) + abs(b - d) < 1e-3 for a, b, c, d in lines)


class TestKeyboard:
    @pytest.mark.parametrize("key", ["Space", "Enter"])
    def test_everything_is_done_without_a_pointer(self, page, city, key):
        page.on("filechooser", lambda chooser: chooser.set_files(city / "day" / "0003.jpg"))
        page.reload()  # by then the browser leaves the choice to the line above
        page.keyboard.press("Tab")
        expect(page.locator("#file")).to_be_focused()
        page.keyboard.press(key)
        expect(page.locator("#match-state")).to_contain_text("matches are shown")
        keys = page.locator(".candidate .key").all_inner_texts()

        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        expect(chosen(page)).to_have_text(keys[2])
        page.keyboard.press("ArrowLeft")
        expect(chosen(page)).to_have_text(keys[1])
        expect(page.locator("#place-caption")).to_have_text(f"2. {keys[1]}")
        expect(page.locator("#step")).to_have_text(f"2 of {NUM_PLACES}")
        expect(page.locator("#match-state")).to_contain_text("matches are shown")

        page.get_by_role("group", name="Matched points").focus()
        page.keyboard.press("ArrowDown")
        expect(page.locator("#match-state")).to_contain_text("Match 1 of")
        page.keyboard.press("ArrowUp")
        expect(page.locator("#match-state")).to_have_text(re.compile(r"Match (\d+) of \1:"))

    def test_arrow_keys_in_the_list_move_the_focus(self, result):
        result.locator(".candidate").first.focus()
        result.keyboard.press("ArrowDown")
        expect(result.locator(".candidate").nth(1)).to_be_focused()
        expect(chosen(result)).to_have_text(result.locator(".candidate .key").nth(1).inner_text())
        result.keyboard.press("ArrowUp")
        result.keyboard.press("ArrowUp")  # there is nothing above the first
        expect(result.locator(".candidate").first).to_be_focused()

    def test_arrow_keys_on_a_slider_move_the_slider(self, result):
        slider = result.get_by_label("Most lines")
        before = int(slider.input_value())
        slider.focus()
        result.keyboard.press("ArrowLeft")
        assert int(slider.input_value()) == before - 1
        expect(chosen(result)).to_have_text("day/0003.jpg")

    def test_the_focus_can_be_seen_wherever_it_is(self, result):
        result.locator("body").focus()
        seen = set()
        for _ in range(7 + NUM_PLACES):  # all there are while the settings are closed
            result.keyboard.press("Tab")
            identifier, outline = result.evaluate(
                """() => {
                    const element = document.activeElement;
                    const framed = element.id === "file" ? document.getElementById("drop") : element;
                    return [element.id || element.className, getComputedStyle(framed).outlineStyle];
                }"""
            )
            assert outline != "none", identifier
            seen.add(identifier)
        assert {"file", "candidate", "zoom", "next", "matches", "similarity", "num-lines"} <= seen


class TestSeveralUsers:
    def test_each_sees_the_own_photograph_only(self, opened, city, recognizer, monkeypatch):
        first, second = opened(**DESKTOP), opened(**DESKTOP)
        recognize, may_end = recognizer.recognize, threading.Event()
        monkeypatch.setattr(recognizer, "recognize", lambda *a, **o: may_end.wait(30) and recognize(*a, **o))
        first.set_input_files("#file", city / "day" / "0001.jpg")
        second.set_input_files("#file", city / "day" / "0005.jpg")
        expect(first.locator("#status")).to_have_text("Locating …")
        expect(second.locator("#status")).to_have_text("Locating …")
        may_end.set()
        for page, key in ((first, "day/0001.jpg"), (second, "day/0005.jpg")):
            expect(page.locator("#status")).to_contain_text(f"Most likely {key}")
            expect(page.locator("#match-state")).to_contain_text("matches are shown")
            assert located_points_agree(page)


class TestAppearance:
    def test_a_phone_never_scrolls_sideways_and_pictures_stand_below_each_other(self, opened, city):
        page = opened(**PHONE)
        page.get_by_text("Settings").tap()
        assert sideways(page) <= 0
        page.set_input_files("#file", city / "places.csv")
        expect(page.get_by_role("alert")).to_be_visible()
        assert sideways(page) <= 0
        located(page, city / "day" / "0003.jpg")
        assert sideways(page) <= 0
        upper, lower = (page.locator(f"#{name}-picture").bounding_box() for name in ("query", "place"))
        assert upper["y"] + upper["height"] <= lower["y"]
        assert upper["width"] > 300
        assert located_points_agree(page)
        page.locator(".candidate").nth(2).tap()
        expect(page.locator("#step")).to_have_text(f"3 of {NUM_PLACES}")

    def test_a_match_that_is_tapped_stays_singled_out(self, opened, city):
        page = located(opened(**PHONE), city / "day" / "0003.jpg")
        end = page.locator("#lines .point").last
        end.scroll_into_view_if_needed()
        box = end.bounding_box()
        page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        expect(page.locator("#match-state")).to_contain_text(": similarity 1.000")

    def test_what_is_tapped_is_large_enough_for_a_finger(self, opened, city):
        page = located(opened(**PHONE), city / "day" / "0003.jpg")
        for control in page.locator("button:visible, summary, input[type=range], .drop, .choice").all():
            assert control.bounding_box()["height"] >= 32

    def test_desktop_pictures_stand_side_by_side(self, result):
        left, right = (result.locator(f"#{name}-picture").bounding_box() for name in ("query", "place"))
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] < right["x"]

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_contrasts_with_what_it_stands_on(self, opened, scheme):
        page = opened(color_scheme=scheme, **DESKTOP)
        luminance = {name: relative_luminance(colour) for name, colour in page.evaluate(COLOURS).items()}
        assert (luminance["text"] > luminance["page"]) is (scheme == "dark")
        on_surfaces = [(text, surface) for text in ("text", "quiet") for surface in ("page", "panel", "chosen")]
        for text, surface in [*on_surfaces, ("on-accent", "accent"), ("error", "error-panel")]:
            assert contrast(luminance[text], luminance[surface]) >= 4.5, (text, surface)  # WCAG 2, AA
        for edge in ("line", "accent"):
            assert contrast(luminance[edge], luminance["panel"]) >= 3, edge

    def test_everything_comes_from_the_server_itself(self, opened, address, city):
        page, asked = opened(**DESKTOP), []
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        located(page, city / "day" / "0003.jpg")
        assert len(asked) > 10
        assert not [url for url in asked if not url.startswith((address, f"blob:{address}"))]


def sideways(page):
    """By how many pixels the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def relative_luminance(colour):
    """As WCAG 2 defines it, of a colour #rrggbb."""
    channels = [int(colour.strip()[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)
