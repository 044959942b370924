"""The shipped weights are what their card says, on stories that training never saw."""
import json
from pathlib import Path

import pytest
import torch

from shotstream import ShotStreamPipeline
from shotstream.model.pixels import VideoStream, to_float, to_uint8
from shotstream.toy.vae import psnr
from shotstream.toy.classifier import CLASSES, AttributeClassifier, errors, truth
from shotstream.generate.pipeline import ASSETS, check_card
from shotstream.generate.teacher import TOY_SAMPLING, drop_history, teacher_loss
from shotstream.toy.render import render_shot
from shotstream.toy.vocabulary import encode_captions
from shotstream.toy.world import draw_story, world_hash
from shotstream.train.stages import Models, validation_examples

N = 64

@pytest.fixture(scope="module")
def films():
    "Unseen combinations: (n, 33, h, w, 3) frames, what should be read, and the same after the codec"
    stories = [draw_story(50_000+i, n_shots=1, frames=33, held_out=True, pair=0.) for i in range(N)]
    return torch.stack([render_shot(s, 0) for s in stories]), [truth(s, 0) for s in stories]


@pytest.fixture(scope="module")
def coded(pipe, films):
    with torch.no_grad():
        return torch.cat([to_uint8(pipe.vae.decode(pipe.vae.encode(to_float(f)).latent_dist.mode()).sample)
                          for f in films[0]])


@pytest.fixture(scope="module")
def classifier(): return AttributeClassifier.from_pretrained(ASSETS/"classifier").float().eval()


def test_card():
    check_card(ASSETS/"toy")
    card = json.loads((ASSETS/"toy"/"card.json").read_text())
    assert card["world"] == world_hash()
    assert {"codec", "classifier", "teacher", "evaluation"} <= set(card)


def test_weights_are_small():
    assert sum(p.stat().st_size for p in Path(ASSETS).rglob("*.safetensors")) < 30e6


def test_codec_is_sharp(films, coded):
    assert psnr(to_float(coded), to_float(films[0])) > 25


def test_judge_reads_renders(classifier, films):
    with torch.no_grad(): e = errors(classifier(films[0][:, ::4]), films[1])
    for name in CLASSES:
        wide = torch.tensor([t["camera"] == 0 for t in films[1]])
        assert e[name][~wide].mean() <= .03, name


def test_judge_reads_the_codec(classifier, films, coded):
    with torch.no_grad(): e = errors(classifier(coded[:, ::4]), films[1])
    for name in CLASSES: assert e[name].mean() <= .06, name


def test_stream_equals_decode(pipe, films):
    with torch.no_grad(): z = pipe.vae.encode(to_float(films[0][0])).latent_dist.mode()
    stream = VideoStream(pipe.vae)
    parts = torch.cat([stream(z[:, :, i:i+1]) for i in range(z.shape[2])], 2)
    with torch.no_grad(): assert (parts - pipe.vae.decode(z).sample).abs().max() < 1e-4


def test_same_seed_same_film(pipe):
    story = {"caption": "a red ball with a hat in the forest by day.",
             "shots": [{"caption": "wide shot: the ball waves.", "frames": 9}]*2}
    a, b, c = (pipe(story, seed=s).frames for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@torch.no_grad()
def test_the_past_helps(pipe):
    "Loss on third shots: with their own past it is lower than without one, and than with another story's"
    context, x0, table, prompts = validation_examples(Models(pipe.vae, pipe.text_encoder, pipe.tokenizer), 8)
    text, sigma = encode_captions(prompts, pipe.tokenizer, pipe.text_encoder), torch.linspace(.1, .95, len(x0))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    def loss(context, table):
        return teacher_loss(pipe.teacher, (context, table, text), x0, sigma, TOY_SAMPLING, noise).mean()
    own = loss(context, table)
    assert own < loss(*drop_history(context, table)) and own < loss(context.roll(1, 0), table)


def test_half_precision_films(pipe):
    "As on a GPU, where teacher and student have bfloat16 weights"
    half = ShotStreamPipeline.from_pretrained("toy", torch.bfloat16)
    story = {"caption": "a red ball with a hat in the forest by day.",
             "shots": [dict(caption="wide shot: the ball waves.", frames=5)]*2}
    for arguments in ({}, dict(teacher=True, steps=3)):
        a, b = (torch.cat(p(story, seed=1, **arguments).shots).float() for p in (half, pipe))
        assert (a - b).abs().mean() < 6
