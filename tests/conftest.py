import os
os.environ.setdefault("OMP_NUM_THREADS", "1")
import pytest
import torch
from shotstream import ShotStreamPipeline

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pipe():
    "The toy's pipeline, loaded anew for every file"
    return ShotStreamPipeline.from_pretrained("toy")
