"""The page in a browser: skipped where Chromium is not installed (`apt install chromium`)."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis import report
from analysis.loading import Results, load
from pipelines import runs_folder
from tests.analysis.synthetic import many, mixed
from tests.analysis.test_hostile import TAG, hostile_records

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> report.Report:
    folder = tmp_path_factory.mktemp("page")
    runs = [
        *many(150),
        mixed(2, 50.0, sweep="large", seed=7),
        mixed(2, 54.0, sweep="large", seed=8),
    ]
    return report.build(folder, "large", Results(runs, ["a problem"], []), folder / "r")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def opened(built: report.Report, browser, request: pytest.FixtureRequest) -> Iterator:
    """The page, after all figures are drawn, and what its console said."""
    options = {"viewport": {"width": 1200, "height": 900}, "color_scheme": "light"} | getattr(
        request, "param", {}
    )
    context = browser.new_context(offline=True, **options)
    page, console = context.new_page(), []
    page.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.goto(built.html.as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    yield page, console
    context.close()


PHONE = {"viewport": {"width": 390, "height": 800}, "is_mobile": True, "has_touch": True}


@pytest.mark.parametrize(
    "opened", [{}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"], indirect=True
)
def test_every_figure_is_drawn_and_nothing_complains(opened: tuple) -> None:
    page, console = opened
    states = page.eval_on_selector_all(
        ".chart", "all => all.map(c => [c.dataset.drawn, c.querySelectorAll('svg path').length])"
    )
    assert len(states) > 8
    assert all(state == "yes" and paths > 5 for state, paths in states)
    assert console == []
    assert page.evaluate(
        "document.documentElement.scrollWidth <= innerWidth"
    )  # nothing is wider than the screen


def column(page, table: str, index: int) -> list[str]:
    return page.eval_on_selector_all(
        f"{table} tbody tr", f"rows => rows.map(r => r.cells[{index}].textContent)"
    )


def test_tables_sort(opened: tuple) -> None:
    page, _ = opened
    header = page.locator("#table-best th").nth(1)
    before = column(page, "#table-best", 1)
    header.click()
    assert column(page, "#table-best", 1) == before  # it was ascending
    header.click()
    assert column(page, "#table-best", 1) == list(reversed(before))
    assert header.get_attribute("aria-sort") == "descending"


def test_runs_sort_filter_and_show_all(opened: tuple) -> None:
    page, _ = opened
    assert "152 of 152 runs, the first 100 shown" in page.inner_text(".runs .count")
    assert len(column(page, ".runs", 0)) == 100
    page.click(".runs button >> text=show all")
    assert len(column(page, ".runs", 0)) == 152
    titles = page.eval_on_selector_all(".runs th", "all => all.map(t => t.textContent)")
    score = titles.index("score")
    page.locator(".runs th").nth(score).click()
    values = [float(v) for v in column(page, ".runs", score)]
    assert values == sorted(values)
    page.fill(".runs input", "lim text")
    orders = titles.index("order")
    assert set(column(page, ".runs", orders)) == {"lim"}
    assert set(column(page, ".runs", titles.index("calibration"))) == {"text"}
    page.fill(".runs input", "no such run")
    assert "0 of 152 runs" in page.inner_text(".runs .count")


def test_the_command_of_a_run_can_be_copied(opened: tuple) -> None:
    page, _ = opened
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.fill(".runs input", "gptq3")
    page.click(".runs button.copy")
    page.wait_for_selector(".runs button.copy:has-text('copied')")
    assert page.evaluate("navigator.clipboard.readText()") == "luq run gptq3"


def test_hovering_names_the_plan_and_a_click_shows_its_layers(opened: tuple) -> None:
    page, console = opened
    points = page.locator("#chart-pareto path[aria-roledescription=point]")
    assert points.count() > 100
    page.locator("#chart-pareto").scroll_into_view_if_needed()
    box = points.first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#vg-tooltip-element.visible")
    tooltip = page.inner_text("#vg-tooltip-element")
    assert "luq run " in tooltip
    assert "stored, nominal bits" in tooltip
    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector("figure .plan .strip")
    assert page.locator("figure .plan .strip span").count() == 8
    assert "of 8 layers" in page.inner_text("figure .plan .legend")
    assert page.inner_text("figure .plan code").startswith("luq run ")
    assert console == []


def shown_names(page) -> list[str]:
    """The names of points that are drawn."""
    return page.eval_on_selector_all(
        "#chart-pareto text",
        "all => all.filter(t => t.getAttribute('opacity') !== '0').map(t => t.textContent)",
    )


def test_points_have_their_names_beside_them(opened: tuple) -> None:
    page, _ = opened
    # of 150 plans the baselines
    assert {"gptq2", "gptq3", "gptq4"} <= set(shown_names(page))


def test_the_smallest_plan_within_a_loss_is_found_by_keyboard(opened: tuple) -> None:
    page, console = opened
    answer = page.locator(".chooser .answer")
    loss = page.locator(".chooser input[type=number]")
    # the scores: 16-bit 80, gptq4 79, gptq3 76
    assert answer.inner_text().startswith("gptq4: ")
    loss.focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("4")
    assert answer.inner_text().startswith("gptq3: ")
    assert "4.0 points below 16-bit (80.0)" in answer.inner_text()
    assert page.inner_text(".chooser .plan code") == "luq run gptq3"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert " k=1: " in answer.inner_text()
    loss.fill("1")
    assert answer.inner_text() == "No mix here is within 1 point of 80.0."
    assert page.locator(".chooser .plan").count() == 0
    page.select_option(".chooser select", index=1)
    assert page.locator(".chooser .plan .strip span").count() == 8
    assert console == []


@pytest.mark.parametrize("opened", [{"viewport": {"width": 1280, "height": 900}}], indirect=True)
def test_a_table_fits_or_says_that_it_scrolls(opened: tuple) -> None:
    page, _ = opened
    states = dict(
        page.eval_on_selector_all(
            ".wide",
            """all => all.filter(w => w.checkVisibility()).map(w => {
              const scroll = w.firstElementChild;
              return [scroll.getAttribute("aria-label"), [scroll.scrollWidth > scroll.clientWidth + 1,
                w.dataset.more, scroll.tabIndex]];
            })""",
        )
    )
    assert len(states) > 4
    for name, (is_wide, more, tab) in states.items():
        assert (more, tab) == (("yes", 0) if is_wide else ("no", -1)), name
    # this sweep's plans have names as long as a line
    may_scroll = {
        "all runs",
        "pocket_test: 3 benchmarks, n = 150 units, smallest first",
        "The smallest plan within a loss",
        "Fourth claim: a mix 40 % smaller than 4-bit loses less than 10 %",
    }
    assert {name for name in states if states[name][0]} <= may_scroll
    runs = page.locator(".runs .scroll")
    runs.evaluate("e => { e.scrollLeft = e.scrollWidth }")
    page.wait_for_selector(".runs .wide[data-more=no]")


@pytest.mark.parametrize("opened", [PHONE], indirect=True)
def test_wide_tables_say_so_on_a_phone(opened: tuple) -> None:
    page, _ = opened
    wide = page.locator(".wide:has(#table-overview)")
    assert wide.get_attribute("data-more") == "yes"
    hint = wide.evaluate("e => getComputedStyle(e, '::before').content")
    assert "scroll sideways" in hint


def test_a_benchmark_can_be_chosen(opened: tuple) -> None:
    page, console = opened
    page.select_option("select.benchmark", "pareto-pope")
    page.wait_for_selector("#chart-pareto[data-chart=pareto-pope]")
    page.wait_for_selector("#chart-pareto svg")
    assert console == []


def test_light_and_dark(opened: tuple) -> None:
    page, console = opened
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.click("#theme")
    page.wait_for_selector("html[data-theme=dark][data-ready=yes]")
    assert page.evaluate(background) != light
    assert console == []


def test_names_that_are_tags_are_shown_and_do_nothing(tmp_path: Path, browser) -> None:
    """Every mark is hovered over and clicked on: what comes up is text, too."""
    for record in hostile_records():
        runs_folder.write(tmp_path, record)
    loaded = load(tmp_path)._replace(problems=[TAG])
    built = report.build(tmp_path, TAG, loaded, tmp_path / "r")
    context = browser.new_context(offline=True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(built.html.as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    drawn = page.eval_on_selector_all(".chart", "all => all.map(c => c.dataset.drawn)")
    assert set(drawn) == {"yes"}
    for chart in page.locator(".chart").all():
        mark = chart.locator("path[aria-roledescription=point], path[aria-roledescription=bar]")
        if mark.count():
            chart.scroll_into_view_if_needed()
            box = mark.first.bounding_box()
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            page.wait_for_selector("#vg-tooltip-element.visible")
            page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            page.mouse.move(0, 0)
    assert "onerror" in page.inner_text("figure .plan")
    assert page.locator("img").count() == 0
    assert page.title().startswith("LUQ report: <img")
    assert said == []
    context.close()
