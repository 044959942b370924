"""How the property tests try things: 200 examples each, or as many as SHOTSTREAM_FUZZ says; the same ones every time in
the suite."""
import os

import pytest

hypothesis = pytest.importorskip("hypothesis", reason="pip install 'shotstream[dev]'")
EXAMPLES = int(os.environ.get("SHOTSTREAM_FUZZ", 200))
PROPERTY = hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize="SHOTSTREAM_FUZZ" not in os.environ,
                               database=None,
                               suppress_health_check=list(hypothesis.HealthCheck))
