"""The step debugger's page in a browser: on a desk and on a phone, by keyboard, with no network and no fault."""

import pytest

from dreamprm_lib.__main__ import main

from .conftest import ARTIFACTS
from .test_pages import SCREENS, assert_it_fits

pytestmark = pytest.mark.browser

# The lowest ratio of the luminances of a text and what lies behind it (WCAG 2), over all texts that are seen.
CONTRAST = """() => {
    const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const luminance = colour => {
        context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
        const parts = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map(x => x / 255);
        const [r, g, b] = parts.map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = node => {
        for (; node; node = node.parentElement) {
            const colour = getComputedStyle(node).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)") return colour;
        }
    };
    const texts = [...document.querySelectorAll("h1, h2, h3, h4, p, a, td, th, span, summary, code, strong")];
    return Math.min(...texts.filter(node => node.checkVisibility()).map(node => {
        const pair = [getComputedStyle(node).color, behind(node)].map(luminance).sort((a, b) => a - b);
        return (pair[1] + 0.05) / (pair[0] + 0.05);
    }));
}"""


@pytest.fixture(scope="module", params=["above-first", "above-mean"])
def written(request, tmp_path_factory):
    """The page of a problem with labels and rollouts, and of one with scores."""
    out = tmp_path_factory.mktemp("inspect") / f"{request.param}.html"
    assert main(["inspect", request.param, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_the_step_debugger_fits_every_screen_and_can_be_read(written, open_page, screen, scheme):
    page = open_page(written.as_uri(), *SCREENS[screen], scheme)
    page.on("console", lambda message: page.faults.append(message.text))
    page.reload()
    page.evaluate("document.querySelectorAll('details').forEach(box => box.open = true)")
    assert_it_fits(page)
    assert page.evaluate(CONTRAST) >= 4.5
    page.screenshot(path=ARTIFACTS / f"inspect-{written.stem}-{screen}-{scheme}.png")


def test_two_programs_are_set_side_by_side_by_keyboard(written, open_page):
    page = open_page(written.as_uri())
    total = page.locator("article").count()
    for box in page.locator("input").all()[:2]:
        box.focus()
        page.keyboard.press("Space")
    first, second = (article.bounding_box() for article in page.locator("article:visible").all())
    assert first["y"] == second["y"] and first["x"] + first["width"] <= second["x"]
    page.screenshot(path=ARTIFACTS / f"inspect-{written.stem}-pair.png", full_page=True)
    page.keyboard.press("Space")
    page.locator("input").first.press("Space")
    assert page.locator("article:visible").count() == total


def test_the_problem_and_the_rollouts_open_by_keyboard(written, open_page):
    page = open_page(written.as_uri())
    for summary in page.locator("summary").all():
        text = summary.locator("xpath=..").locator("pre").first
        assert not text.is_visible()
        summary.press("Enter")
        assert text.is_visible()
