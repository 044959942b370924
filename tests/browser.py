"""The browser that tests use: they are skipped where there is none, but fail in CI."""
import os
import shutil

import pytest

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
MARKS = [pytest.mark.browser,
         pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ,
                            reason="no browser: apt install chromium, or put google-chrome on the PATH")]
