"""A real browser, and JupyterLab on loopback with a copy of the course in it.

The browser is Chromium as the system has it; nothing is downloaded.  `CHROMIUM` names another one.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from dreamprm_lib.commands.run import load_profile, notebook_path, stage_parameters
from dreamprm_lib.study.folder import STAGES

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "tests" / "artifacts"
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
SETTINGS = {  # a newcomer's JupyterLab, but silent, and with every cell in the page, so that a test can look at it
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none", "scrollPastEnd": False},
}


def pytest_collection_modifyitems(config, items):
    if (config.getoption("markexpr") or "").strip() != "browser":
        return
    if not CHROMIUM:
        raise pytest.UsageError(
            "The browser tests need Chromium: `apt-get install chromium` (as root), or set CHROMIUM to the program."
        )
    if not find_spec("playwright"):
        raise pytest.UsageError("The browser tests need more packages: `make test-browser` installs them.")


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    ARTIFACTS.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Pages of a given size and colour scheme, which note in `page.outside` what they ask of other machines."""
    with contextlib.ExitStack() as opened:

        def open_one(url, width=1280, height=900, scheme="light"):
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            opened.callback(page.close)
            page.outside, page.faults = [], []
            page.on("request", lambda r: page.outside.append(r.url) if not is_local(r.url) else None)
            page.on("pageerror", lambda error: page.faults.append(str(error)))
            page.goto(url, timeout=120_000)
            return page

        yield open_one


def is_local(url):
    return url.startswith(("file:", "data:", "blob:", "about:", "http://127.0.0.1:", "ws://127.0.0.1:"))


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, its token, and the folder with `notebooks/` and `outputs/`."""

    url: str
    token: str
    folder: Path


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the notebooks, set to the smoke profile as papermill sets it."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "notebooks").mkdir()
    (folder / "outputs").mkdir()
    (folder / "outputs" / "reference").symlink_to(ROOT / "outputs" / "reference")
    for stage in STAGES:
        parameters = stage_parameters(stage, load_profile("smoke"), {}, {"study": "smoke"})
        notebook = parameterize_notebook(load_notebook_node(str(notebook_path(stage))), parameters)
        nbformat.write(notebook, folder / "notebooks" / f"{stage.notebook}.ipynb")
    for name, values in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    started = Lab(f"http://127.0.0.1:{free_port()}", secrets.token_hex(16), folder)
    with (folder / "lab.log").open("w") as log, serving(started, log):
        yield started
    shutil.copy(folder / "lab.log", ARTIFACTS / "lab.log")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(lab, log):
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    environment = os.environ | {name: str(lab.folder / name.lower()) for name in places}
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(lab.folder / "settings")
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    command += ["--ip=127.0.0.1", f"--port={lab.url.rpartition(':')[2]}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={lab.token}", f"--ServerApp.root_dir={lab.folder / 'notebooks'}"]
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=lab.folder)
    try:
        wait_for(lambda: server.poll() is not None or answers(f"{lab.url}/api?token={lab.token}"), 60)
        assert server.poll() is None, f"JupyterLab did not start, see {log.name}"
        yield
    finally:
        server.terminate()
        server.wait(60)


def answers(url):
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(url, timeout=5).status == 200
    return False


def wait_for(condition, seconds):
    """Until `condition()` holds.  Raises `TimeoutError`."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"not within {seconds} seconds")
        time.sleep(0.2)
