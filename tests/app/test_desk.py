"""The director's desk in a real browser: JupyterLab, headless Chromium, a person who types and clicks."""
import contextlib
import io
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from browser import CHROMIUM, MARKS, playwright
from shotstream.app.director import read_story

ROOT = Path(__file__).parents[2]
pytestmark = MARKS


@contextlib.contextmanager
def lab(folder):
    "A JupyterLab on this machine, serving `folder`; yields the address of a notebook in it"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token, settings = secrets.token_hex(16), folder/"settings"
    quiet = settings/"@jupyterlab"/"apputils-extension"
    quiet.mkdir(parents=True)
    (quiet/"notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    env = dict(os.environ, JUPYTER_TOKEN=token, JUPYTERLAB_SETTINGS_DIR=str(settings), PYTHONPATH=str(ROOT),
               OMP_NUM_THREADS="1",
               PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
               f"--ServerApp.port={port}",
               "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True"]
    with open(folder/"lab.log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=1)
                    break
                time.sleep(.1)
            yield lambda name: f"http://127.0.0.1:{port}/doc/tree/{name}?reset&token={token}"
        finally:
            server.terminate()
            server.wait(20)


def notebook(path, *cells):
    nb = nbformat.v4.new_notebook()
    nb.metadata["kernelspec"] = dict(display_name="Python 3 (ipykernel)", language="python", name="python3")
    nb.cells = [nbformat.v4.new_code_cell(c) for c in cells]
    nbformat.write(nb, path)


class Person:
    "Somebody in front of the desk"
    def __init__(self, page): self.page = page
    def run_all(self): self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    def click(self, text): self.page.locator(f"button.jupyter-button:has-text('{text}')").first.click()
    def prompt(self): return self.page.locator(".widget-text input").first
    def type(self, text): self.prompt().fill(text)
    def see(self):
        shot = Image.open(io.BytesIO(self.page.locator(".widget-image").first.screenshot()))
        return np.asarray(shot.convert("RGB")).astype(float)
    def count_pictures(self):
        "From now on; a slow page shows them all, but a screenshot may come when the film is over"
        self.page.evaluate("""() => { window.pictures = 0; const picture = document.querySelector('.widget-image');
            new MutationObserver(() => { window.pictures++ }).observe(
                picture, {attributes: true, attributeFilter: ['src'], subtree: true}) }""")
    def pictures(self): return self.page.evaluate("() => window.pictures")
    def text(self): return " ".join(self.page.locator(".widget-html-content").all_inner_texts())
    def cards(self): return self.page.locator(".shotstream-card:not(.shotstream-ghost)").count()
    def filming(self, shot): self.until(lambda: f"shot {shot}," in self.text())          # its frames are on the screen
    def idle(self):
        "The kernel waits for somebody"
        self.page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
                                    "?.status === 'idle'", timeout=90000)
    def until(self, condition, seconds=60.):
        start = time.time()
        while time.time() - start < seconds:
            if condition(): return time.time() - start
            self.page.wait_for_timeout(40)
        raise AssertionError(f"not within {seconds} s; the desk says: {self.text()}")


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    notebook(folder/"desk.ipynb",
             "from shotstream.app.desk import Desk\nfrom shotstream.notebook.learn import "
             "setup_notebook\nsetup_notebook()\ndesk = Desk(folder='story', opening=())\ndesk")
    with lab(folder) as address, playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=dict(width=1280, height=1100))
        page.goto(address("desk.ipynb"))
        someone = Person(page)
        someone.idle()
        someone.folder = folder
        someone.run_all()
        page.locator("button.jupyter-button:has-text('Shoot')").first.wait_for(timeout=120000)
        page.wait_for_timeout(1500)
        yield someone
        browser.close()


def test_a_prompt_becomes_a_moving_picture(person):
    before = person.see()
    person.count_pictures()
    person.type("wide shot: the ball walks right.")
    person.prompt().press("Enter")
    person.until(lambda: np.abs(person.see() - before).mean() > 5)
    person.until(lambda: person.pictures() > 5)                                   # it moves
    person.until(lambda: person.cards() == 1)


def test_cut_now_while_it_plays(person):
    person.type("close up: the ball jumps.")
    person.click("Shoot")
    person.filming(2)
    person.type("panning shot: the ball walks right.")
    person.click("Cut")
    person.until(lambda: person.cards() == 3)


def saved_shots(person):
    "What the desk has saved; it saves while it films"
    story, _, _ = read_story(person.folder/"story")
    return story.shots


def test_a_prompt_changes_inside_a_shot(person):
    "With nothing typed, Blend surprises like Enter does"
    cards, length = person.cards(), person.page.locator(".widget-hslider .noUi-handle").first
    length.press("End")  # five seconds: slow machines have time
    person.type("wide shot: the ball waits.")
    person.click("Shoot")
    person.filming(cards + 1)
    person.click("Blend")
    for _ in range(12): length.press("ArrowLeft")
    person.until(lambda: person.cards() == cards + 1)                             # one shot, not two
    person.until(lambda: len(saved_shots(person)) == cards + 1)
    shot = saved_shots(person)[-1]
    assert shot.latents == 21 and len(shot.switches) == 1, person.text()
    person.click("Blend")
    person.until(lambda: "no shot is being made" in person.text())


def test_a_shot_begins_with_a_picture(person):
    cards, buffer = person.cards(), io.BytesIO()
    Image.new("RGB", (200, 120), (250, 10, 10)).save(buffer, "PNG")
    with person.page.expect_file_chooser() as chooser: person.click("First frame")
    chooser.value.set_files(dict(name="red.png", mimeType="image/png", buffer=buffer.getvalue()))
    person.until(lambda: "(1)" in person.page.locator("button:has-text('First frame')").inner_text())
    person.type("wide shot: the ball waits.")
    person.click("Shoot")
    person.until(lambda: person.cards() == cards + 1)
    person.until(lambda: len(saved_shots(person)) == cards + 1)
    first = saved_shots(person)[-1].video[0].float().mean((0, 1)).tolist()
    assert first[0] > 180 and max(first[1:]) < 70  # red, as far as the toy's codec knows it


def test_stop_keeps_what_was_seen(person):
    cards = person.cards()
    person.type("close up: the ball waves.")
    person.click("Shoot")
    person.filming(cards + 1)
    person.click("Stop")
    person.until(lambda: "stopped" in person.text())
    person.until(lambda: person.cards() == cards + 1)
    person.page.wait_for_timeout(700)
    still = person.see()
    person.page.wait_for_timeout(500)
    assert np.abs(person.see() - still).mean() < 1                                 # nothing plays any more


@pytest.mark.parametrize("prompt, says",
                         [("close up: the dragon jumps.", "dragon"), ("🦊🦊🦊", ""), ("ball "*2000, "")])
def test_mistakes_are_one_line(person, prompt, says):
    cards = person.cards()
    person.type(prompt)
    person.click("Shoot")
    person.until(lambda: says in person.text())
    person.until(lambda: person.page.locator("span[style*='jp-error-color1']").count() == 1)    # a complaint
    person.page.wait_for_timeout(400)
    assert person.cards() == cards and "Traceback" not in person.page.content()


def test_rewrite_and_branch(person):
    cards = person.cards()
    still = person.page.locator(".shotstream-card img").last
    before = still.get_attribute("src")
    person.page.locator("button[title^='change this shot']").last.click()
    person.until(lambda: person.prompt().input_value() != "")                     # its own prompt, to be changed
    person.type("close up: the ball turns around.")
    person.click("Shoot")
    person.until(lambda: still.get_attribute("src") != before and person.cards() == cards)
    person.page.locator("button[title^='a new branch']").last.click()
    person.until(lambda: person.cards() == cards - 1)
    person.page.locator(".widget-dropdown select").last.select_option(index=0)
    person.until(lambda: person.cards() == cards)


def test_undo_takes_a_shot_back(person):
    cards = person.cards()
    person.click("Undo")
    person.until(lambda: person.cards() == cards - 1)
    person.click("Redo")
    person.until(lambda: person.cards() == cards)


def test_knobs_and_pins(person):
    "A slider counts from the next shot on; a pinned picture stays marked"
    person.page.locator("button[title^='keep this picture']").first.click()
    person.until(lambda: person.page.locator("button[title='let go of this picture']").count() == 1)
    assert "stays in the context" in person.text()
    person.page.locator("button[title='let go of this picture']").click()
    person.until(lambda: person.page.locator("button[title='let go of this picture']").count() == 0)


def test_double_click_and_interrupt(person):
    "Two clicks are two shots; interrupting the kernel stops no film and leaves no traceback"
    cards = person.cards()
    person.type("wide shot: the ball waves.")
    person.page.locator("button.jupyter-button:has-text('Shoot')").first.dblclick()
    person.filming(cards + 2)               # the second click arrived; an interrupt may take a click away, never a film
    person.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt()")
    person.until(lambda: person.cards() == cards + 2)
    assert "Traceback" not in person.page.locator(".jp-OutputArea").first.inner_text()


def test_the_tab_is_closed_and_opened_again(person):
    "The kernel goes on; the desk comes back with its story"
    cards = person.cards()
    person.type("wide shot: the ball grows.")
    person.click("Shoot")
    person.filming(cards + 1)               # the click has arrived; a reload may take one away that is on its way
    person.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save').then(() => true)")
    person.page.reload()
    person.page.locator("button.jupyter-button:has-text('Shoot')").first.wait_for(timeout=90000)
    person.until(lambda: person.cards() == cards + 1)
    before = person.see()
    person.type("close up: the ball jumps.")
    person.prompt().press("Enter")
    person.until(lambda: np.abs(person.see() - before).mean() > 3)


def test_the_keyboard_belongs_to_the_prompt(person):
    "After a click, too: in the notebook's hands an m turns the desk's cell into text, and the desk is gone"
    person.click("Undo")
    person.click("Redo")
    person.page.wait_for_timeout(500)
    cells = person.page.locator(".jp-Cell").count()
    for key in "bbm": person.page.keyboard.press(key)
    person.until(lambda: person.prompt().input_value() == "bbm")
    assert person.page.locator(".jp-Cell").count() == cells
    person.type("")


def test_typing_a_good_prompt_is_never_wrong(person):
    person.page.evaluate("""() => { window.red = []; new MutationObserver(() => {
        for (const e of document.querySelectorAll("span[style*='jp-error-color1']")) window.red.push(e.innerText) })
        .observe(document.body, {childList: true, subtree: true, characterData: true}) }""")
    person.prompt().press_sequentially("panning shot: the red ball turns around.", delay=40)
    person.page.wait_for_timeout(500)
    assert person.page.evaluate("() => window.red") == []
    person.prompt().press_sequentially(" the dragon ", delay=40)                  # and a wrong one is, at once
    person.until(lambda: any("dragon" in t for t in person.page.evaluate("() => window.red")))
    person.type("")


def test_export_writes_files(person):
    whole = re.compile(r"^\s*All\s*$")                                             # "Play all" is another button
    person.page.locator("button.jupyter-button").filter(has_text=whole).first.click()
    person.until(lambda: "saved in" in person.text())
    folder = person.folder/"story"/"export"
    assert {p.suffix for p in folder.iterdir()} >= {".mp4", ".gif", ".png", ".srt", ".py"}
    with person.page.expect_download() as download: person.page.locator("a[download='story.mp4']").click()
    assert Path(download.value.path()).read_bytes() == (folder/"story.mp4").read_bytes()


def test_a_restarted_kernel_finds_the_story(person):
    cards = person.cards()
    person.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    person.page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs').then(() => true)")
    person.until(lambda: person.cards() == 0)                                     # what is seen next is new
    person.idle()
    person.run_all()
    person.until(lambda: person.cards() == cards, 120)
    before = person.see()
    person.type("close up: the ball waves.")
    person.click("Shoot")                                                     # and the story goes on
    person.until(lambda: np.abs(person.see() - before).mean() > 2)
    person.page.wait_for_timeout(1000)
    if shot := os.environ.get("SHOTSTREAM_SCREENSHOT"):
        person.page.locator(".shotstream-desk").first.screenshot(path=shot)
