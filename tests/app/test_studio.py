"""The studio, as `make desk` opens it: Voila, headless Chromium, a person who loads the page again in the middle of a
shot."""
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from browser import CHROMIUM, MARKS, playwright
from shotstream.app.director import load_story

ROOT = Path(__file__).parents[2]
pytestmark = MARKS


@contextlib.contextmanager
def studio(folder):
    "The command of `make desk`, with seconds for minutes; yields the address, and a function that counts its kernels"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    said = subprocess.run(["make", "-n", "desk"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    options = re.search(r"bin/voila (.*) nbs/backstage/app/studio.ipynb", said)[1].split()
    options = [re.sub("cull_idle_timeout=.*", "cull_idle_timeout=3", re.sub("cull_interval=.*", "cull_interval=1", o))
               for o in options]
    page = folder/"a"/"b"/"c"/"studio.ipynb"
    page.parent.mkdir(parents=True)
    shutil.copy(ROOT/"nbs"/"backstage"/"app"/"studio.ipynb", page)
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    with open(folder/"log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "voila", *options, str(page), "--no-browser", f"--port={port}",
                                   "--show_tracebacks=True"], env=env, stdout=log, stderr=subprocess.STDOUT)
        def kernels():
            count = 0
            for p in psutil.Process(server.pid).children():
                with contextlib.suppress(psutil.Error): count += "ipykernel" in " ".join(p.cmdline())  # it may just end
            return count
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1): break
                time.sleep(.1)
            yield f"http://127.0.0.1:{port}/", kernels
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    with studio(folder) as (address, kernels), playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=dict(width=1280, height=650))
        page.goto(address, timeout=180000)
        page.locator("button:has-text('Shoot')").first.wait_for(timeout=180000)
        yield page, kernels, folder/"out"/"desk"
        browser.close()


def until(page, condition, seconds=90.):
    start = time.time()
    while not condition() and time.time() - start < seconds: page.wait_for_timeout(50)
    return condition()


def cards(page): return page.locator(".shotstream-card:not(.shotstream-ghost)").count()


def test_a_stage_and_not_a_form(visit):
    "A film plays, and whatever is needed for a shot stands above the fold of a small screen"
    page, _, _ = visit
    for what in ("img.shotstream-picture", "input[placeholder^='What happens next']", "button:has-text('Shoot')",
                 "button:has-text('Cut')", "button:has-text('Stop')", "button:has-text('jumps')",
                 "button[title='surprise me']", "button:has-text('MP4')", "button:has-text('Play all')"):
        box = page.locator(what).first.bounding_box()
        assert box and box["x"] >= 0 and box["y"] >= 0, what
        assert box["y"] + box["height"] <= 650 and box["x"] + box["width"] <= 1280, what
    assert page.locator("img.shotstream-picture").bounding_box()["height"] > 400
    assert until(page, lambda: cards(page) == 4)
    label = page.locator(".shotstream-card").nth(1).inner_text()
    assert label.startswith("2 ") and "close up" in label and "2.1" in label
    for size in (dict(width=390, height=800), dict(width=1920, height=1080), dict(width=1280, height=650)):
        page.set_viewport_size(size)
        page.wait_for_timeout(300)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= size["width"]


def test_loaded_again_in_the_middle_of_a_shot(visit):
    "What was seen of it is there, the story goes on in its folder, and the old kernel ends"
    page, kernels, folder = visit
    assert until(page, lambda: cards(page) == 4 and "your turn" in page.locator(".shotstream-desk").inner_text())
    before = page.locator("img.shotstream-picture").get_attribute("src")
    page.locator("button:has-text('waves')").first.click()                        # an idea films with one click
    assert until(page, lambda: page.locator("img.shotstream-picture").get_attribute("src") != before)
    assert until(page, lambda: "shot 5," in page.locator(".shotstream-desk").inner_text())
    page.reload(timeout=180000)
    page.locator("button:has-text('Shoot')").first.wait_for(timeout=180000)
    assert until(page, lambda: cards(page) == 5)
    page.locator("input[placeholder^='What happens next']").fill("close up: the ball waits.")
    page.keyboard.press("Enter")
    assert until(page, lambda: cards(page) == 6)
    assert until(page, lambda: len(load_story(folder)[0].shots) == 6)
    assert [p.name for p in folder.parent.iterdir()] == ["desk"] and "second time" not in page.content()
    assert until(page, lambda: kernels() == 1, 40)
