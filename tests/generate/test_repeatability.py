"""One test for every line of the table in `nbs/backstage/repeatability.ipynb`: what equals what, bit for bit, and what
does not."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import GROUPS

from shotstream import ShotStreamPipeline
from shotstream.generate.student import noise_source
from shotstream.model.checkpoints import load_shotstream, to_original
from shotstream.model.frame_table import single_shot_table, stack_stories
from shotstream.toy.networks import ASSETS

CAPTION, PROMPTS = "a red ball with a hat in the forest by day.", ["wide shot: the ball waves.",
    "close up: the ball jumps."]
STORY = dict(caption=CAPTION, seed=5, shots=[dict(caption=p, frames=9) for p in PROMPTS])
SHORT = dict(STORY, shots=[dict(caption=PROMPTS[0], frames=5)])
NOTEBOOK = Path(__file__).parents[2]/"nbs"/"backstage"/"repeatability.ipynb"


@pytest.fixture(scope="module")
def film(pipe): return pipe(STORY).frames


def nearly(a, b): return (a.float() - b.float()).abs().mean() < 2


@pytest.fixture(scope="module")
def elsewhere():
    "Another process films with one thread, then with two"
    code = (f"import torch; torch.set_num_threads(1); from shotstream import ShotStreamPipeline\n"
            f"pipe = ShotStreamPipeline.from_pretrained('toy', teacher=None); one = pipe({STORY!r}).frames\n"
            f"torch.set_num_threads(2); two = pipe({SHORT!r}).frames\n"
            f"import sys; sys.stdout.buffer.write(one.numpy().tobytes() + two.numpy().tobytes())")
    env = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout
    return torch.frombuffer(bytearray(out), dtype=torch.uint8).view(23, 64, 64, 3).split([18, 5])


def test_again(pipe, film): assert torch.equal(pipe(STORY).frames, film)


def test_process(elsewhere, film): assert torch.equal(elsewhere[0], film)


def test_threads(elsewhere, pipe): assert nearly(elsewhere[1], pipe(SHORT).frames)


def test_way(pipe, film):
    "A stream that is told prompts as it goes, other output types; latents decoded afterwards differ by a level at most"
    stream = pipe.stream(CAPTION, seed=5)
    stream.next_shot(PROMPTS[0], latents=3)
    frames = []
    for f in stream:
        frames.append(f.video)
        if (f.shot, f.latent) == (0, 1): stream.next_shot(PROMPTS[1], latents=3)
    assert torch.equal(torch.cat(frames), film)
    latents = pipe(STORY, output_type="latent")
    later = torch.cat([pipe.decode(z) for z in latents.shots])                      # all latents of a shot at once
    assert (later.int() - film.int()).abs().max() <= 1
    assert torch.equal(torch.from_numpy((pipe(STORY, output_type="np").frames*255).round().astype("uint8")), film)


def test_beginning(pipe, film):
    "A shot does not know what comes after it, nor how long it will be"
    alone = pipe(dict(STORY, shots=STORY["shots"][:1])).frames
    assert torch.equal(alone, film[:9])


def test_noise(pipe, film):
    "Shot k's seed is 1000 seed + k"
    each = [torch.Generator().manual_seed(5000 + k) for k in (0, 1)]
    assert torch.equal(pipe(STORY, generator=each).frames, film)
    assert not torch.equal(pipe(STORY, seed=6).frames, film)
    draw = lambda: noise_source(torch.Generator().manual_seed(3))((1, 3, 4, 8, 8), 0, 0)
    assert torch.equal(draw(), draw()) and draw().device.type == "cpu"


def test_batch(pipe):
    "Two stories in one pass are each as alone, to rounding"
    z, text = torch.randn(2, 32, 3, 8, 8), torch.randn(2, 1, 52, 96)
    table = single_shot_table(1, 3).at(.5)
    with torch.no_grad():
        both = pipe.transformer(z, None, text, table=stack_stories(table, table)).sample
        for i in (0, 1):
            alone = pipe.transformer(z[i:i+1], None, text[i:i+1], table=table).sample
            torch.testing.assert_close(both[i:i+1], alone, atol=1e-4, rtol=0)


def test_file(pipe, film, tmp_path):
    "Saved and loaded; in several files; under Wan's own names"
    pipe.save_pretrained(tmp_path/"a")
    assert torch.equal(ShotStreamPipeline.from_pretrained(tmp_path/"a", teacher=None)(STORY).frames, film)
    pipe.transformer.save_pretrained(tmp_path/"b", max_shard_size="1MB")
    config = {k: v for k, v in pipe.transformer.config.items() if k[0] != "_"}
    torch.save(to_original(pipe.transformer.state_dict()), tmp_path/"c.pt")
    for weights in (tmp_path/"b", tmp_path/"c.pt"):
        other = load_shotstream(weights, config=config).state_dict()
        assert all(torch.equal(t, other[n]) for n, t in pipe.transformer.state_dict().items())


def test_number_type(pipe, film):
    "The shipped file holds float16, the film is computed in float32: nothing is lost; bfloat16 rounds"
    shipped = load_file(ASSETS/"toy"/"transformer"/"diffusion_pytorch_model.safetensors")
    assert all(torch.equal(shipped[n].float(), t) for n, t in pipe.transformer.state_dict().items())
    half = ShotStreamPipeline.from_pretrained("toy", torch.bfloat16, teacher=None)(STORY).frames
    assert not torch.equal(half, film) and (half.float() - film.float()).abs().mean() < 12


@GROUPS
def test_offloading(film):
    pipe = ShotStreamPipeline.from_pretrained("toy", teacher=None)
    pipe.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    assert torch.equal(pipe(STORY).frames, film)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_device(film):
    pipe = ShotStreamPipeline.from_pretrained("toy", teacher=None).to("cuda")
    here = pipe(STORY).frames
    assert torch.equal(pipe(STORY).frames, here) and (here.float() - film.float()).abs().mean() < 12


def test_every_line_has_its_test():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    table = next(text for c in cells if "| test |" in (text := "".join(c["source"])))
    named = set(re.findall(r"`(test_\w+)`", table))
    assert named == {n for n in globals() if n.startswith("test_")} - {"test_every_line_has_its_test"}
