"""The report and the book in a browser: on a desk and on a phone, in light and dark, with no network."""

import re
import runpy
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from .conftest import ARTIFACTS, ROOT

pytestmark = pytest.mark.browser

SCREENS = {"desk": (1280, 900), "phone": (390, 844)}
CHAPTERS = sorted(path.stem for path in (ROOT / "outputs" / "reference" / "notebooks").glob("*.ipynb"))
PAGES = ["index", "library", *(f"chapters/{name}" for name in CHAPTERS)]


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The folder of the built book.  A warning of the build is an error."""
    folder = tmp_path_factory.mktemp("book")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", folder / "trees"]
    done = subprocess.run([*build, "docs", folder / "html"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return folder / "html"


@pytest.fixture(params=SCREENS)
def screen(request):
    return request.param


def assert_it_fits(page):
    """No page is wider than its screen, none asks another machine, none has a picture that is not there."""
    wide, screen = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= screen and page.outside == [] and page.faults == []
    assert page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)") == []


def test_the_report_fits_every_screen(open_page, screen):
    page = open_page((ROOT / "outputs" / "reference" / "report.html").as_uri(), *SCREENS[screen])
    assert_it_fits(page)
    assert page.locator("figure img").count() >= 10 and page.get_by_text("What may be concluded").is_visible()
    page.screenshot(path=ARTIFACTS / f"report-{screen}.png", full_page=True)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_book_fits_every_screen(name, book, open_page, screen):
    scheme = "dark" if screen == "desk" else "light"
    page = open_page((book / f"{name}.html").as_uri(), *SCREENS[screen], scheme)
    assert_it_fits(page)
    page.screenshot(path=ARTIFACTS / f"book-{name.rpartition('/')[2]}-{screen}.png", full_page=True)


def test_formulas_are_set_and_figures_are_shown(book, open_page):
    page = open_page((book / "chapters" / "05_label_correction.html").as_uri())
    formula = page.locator("math[display=block]").first.bounding_box()
    assert formula["width"] > 200 and formula["height"] > 20
    assert page.locator(".cell_output img").count() >= 3


def test_the_search_finds_a_function_and_a_chapter(book, open_page):
    page = open_page((book / "search.html").as_uri() + "?q=hypergradient")
    results = page.locator("#search-results")
    for name in ("Label correction", "label_hypergradient"):
        results.get_by_role("link", name=name).first.wait_for(timeout=10_000)


def test_all_links_within_the_book_hold(book):
    files = [path for path in book.rglob("*.html") if "_static" not in path.parts]  # the theme's own templates
    pages = {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in files}
    anchors = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in pages.items()}
    broken = []
    for path, soup in pages.items():
        for tag in soup.select("a[href], img[src], link[href], script[src]"):
            link = urlsplit(tag.get("href") or tag.get("src"))
            if link.scheme or link.netloc:
                continue
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            lost = link.fragment and target in anchors and unquote(link.fragment) not in anchors[target]
            if not target.exists() or lost:
                broken.append(f"{path.relative_to(book)}: {link.geturl()}")
    assert len(pages) > 10 and broken == []


@pytest.fixture
def conf(monkeypatch):
    """The settings of the book, as Sphinx reads them."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield runpy.run_path(str(ROOT / "docs" / "conf.py"))
    sys.modules.pop("house")


def test_the_library_s_page_has_every_module(conf):
    page = conf["modules_page"]()
    listed = re.findall(r"automodule:: dreamprm_lib\.(\S+)", page)
    package = ROOT / "dreamprm_lib"
    files = (p for p in package.rglob("*.py") if p.stem not in ("__init__", "__main__"))
    modules = {".".join(p.relative_to(package).with_suffix("").parts) for p in files}
    assert len(listed) == len(set(listed)) and set(listed) == modules - {"engine.sandbox.worker"}
    chapters = [name for name in listed if "." not in name and name != "errors"]
    assert chapters[:2] == ["chain_of_functions", "monte_carlo_labels"]  # in the course's order
    assert listed.index("evidence.costs") < listed.index("paper_scale")  # a link leads to where a name is defined
    assert set(re.findall(r"^## (\S+)", page.lower(), re.MULTILINE)) == set(conf["ROOMS"])
