"""The parts of a pipeline: loading, checking, and what every way of generating asks of them."""
import torch

from shotstream import ShotStreamPipeline



def test_a_resting_text_encoder_stays():
    pipe = ShotStreamPipeline.from_pretrained("toy")
    pipe.rest_text()
    pipe.to(torch.float64)
    assert pipe.text_encoder.dtype == pipe.transformer.dtype == torch.float64 and pipe.config.text_encoder[0]
    words = pipe.features("close up: the ball waves.")
    pipe.transformer.to("meta")
    assert pipe.device.type == "meta" and pipe.text_encoder.device.type == "cpu"
    pipe.rest_text(visits=False)
    # read where it rests, sent where it is wanted
    assert pipe.features("close up: the ball waves.").is_meta and pipe.text_encoder.device.type == "cpu"
    pipe.transformer.to_empty(device="cpu")
    assert torch.equal(pipe.features("close up: the ball waves."), words)


def test_the_toy_loads_quietly(capfd):
    "No progress bar for a second's work; the setting is left as it was"
    from transformers.utils import logging
    before = logging.is_progress_bar_enabled()
    ShotStreamPipeline.from_pretrained("toy")
    assert "Loading" not in capfd.readouterr().err and logging.is_progress_bar_enabled() == before
