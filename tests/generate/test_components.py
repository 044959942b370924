"""The parts of a pipeline: loading, checking, and what every way of generating asks of them."""
import json
import threading
from types import SimpleNamespace

import pytest
import torch
from diffusers import WanTransformer3DModel
from tiny import TRANSFORMER, tiny_pipe

from shotstream import ShotStreamPipeline
from shotstream.generate import components
from shotstream.generate.components import (
    ASSETS, PARTS, ShotComponents, as_ours, check_card, check_parts, find_folder, load_parts, load_tokenizer,
    read_index, types_of)
from shotstream.model.files import InputError, MissingFile
from shotstream.model.flow import Guidance
from shotstream.model.kv_cache import StaticKVCache
from shotstream.model.text import encode_prompts
from shotstream.model.transformer import ShotTransformer
from shotstream.toy.networks import toy_text_encoder
from shotstream.toy.vae import ToyVAE
from shotstream.toy.vocabulary import toy_tokenizer
from shotstream.toy.world import world_hash

CAPTION = "a red ball with a hat in the forest by day."


@pytest.fixture
def small(): return tiny_pipe()


def test_a_resting_text_encoder_stays():
    pipe = tiny_pipe()
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


def test_weights_of_another_world_do_not_load(tmp_path):
    check_card(tmp_path)                                                      # no card: not the toy's
    (tmp_path/"card.json").write_text(json.dumps(dict(world=world_hash())))
    check_card(tmp_path)
    for card in (dict(world="0123456789ab"), {}):
        (tmp_path/"card.json").write_text(json.dumps(card))
        with pytest.raises(InputError, match=f"this package has world {world_hash()}"): check_card(tmp_path)


@pytest.mark.parametrize("training", [False, True])
def test_our_class_around_stock_weights(training):
    "Shared, with every buffer, learning and training as before; what is ours already, or nothing, stays"
    torch.manual_seed(0)
    stock = WanTransformer3DModel(**TRANSFORMER).train(training).requires_grad_(training)
    ours = as_ours(ShotTransformer, stock)
    assert type(ours) is ShotTransformer and ours.training == training
    for (n, a), b in zip(ours.state_dict().items(), stock.state_dict().values()): assert a.data_ptr() == b.data_ptr(), n
    assert all(p.requires_grad == training for p in ours.parameters())
    buffers = dict(ours.named_buffers())
    assert buffers and not any(b.is_meta for b in buffers.values())
    x, t, text = torch.randn(1, 4, 3, 4, 4), torch.tensor([300.]), torch.randn(1, 5, 16)
    with torch.no_grad(): a, b = (m(x, t, text).sample for m in (ours, stock))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert as_ours(ShotTransformer, ours) is ours and as_ours(ShotTransformer, None) is None


def test_where_weights_are(tmp_path, monkeypatch):
    asked = []
    def download(name, allow_patterns, **hub):
        asked.append((name, allow_patterns, hub))
        return str(tmp_path)
    monkeypatch.setattr(components, "snapshot_download", download)
    assert find_folder("toy") == ASSETS/"toy" and find_folder(tmp_path) == tmp_path
    assert find_folder(tmp_path/"nowhere"/"x") == tmp_path/"nowhere"/"x" and not asked      # no name on the hub
    assert find_folder("some/model", ("vae", "transformer"), revision="main") == tmp_path
    assert asked == [("some/model", ["model_index.json", "card.json", "vae/*", "transformer/*"], dict(revision="main"))]
    def offline(*args, **kwargs): raise RuntimeError("no network")
    monkeypatch.setattr(components, "snapshot_download", offline)
    with pytest.raises(MissingFile, match="RuntimeError: no network"): find_folder("some/model")


def test_an_index_that_may_be_missing(tmp_path):
    assert read_index(tmp_path) == {}
    (tmp_path/"model_index.json").write_text('{"a": ["b", "c"]}')
    assert read_index(tmp_path) == {"a": ["b", "c"]}


def test_tokenizers_pad_and_have_a_limit(tmp_path):
    with pytest.raises(MissingFile, match="no tokenizer"): load_tokenizer(tmp_path)
    tokenizer = toy_tokenizer()
    for limit, read in ((10**30, 512), (600, 512), (40, 40)):
        tokenizer.model_max_length = limit
        tokenizer.save_pretrained(tmp_path)
        assert load_tokenizer(tmp_path).model_max_length == read
    settings = json.loads((file := tmp_path/"tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (tmp_path/"special_tokens_map.json").unlink(missing_ok=True)              # older libraries keep it there
    file.write_text(json.dumps(settings))
    with pytest.raises(InputError, match="without a pad token"): load_tokenizer(tmp_path)


def test_number_types_of_parts():
    assert types_of(torch.float16) == dict.fromkeys(PARTS, torch.float16)
    found = types_of({"transformer": torch.bfloat16})
    assert found["transformer"] == torch.bfloat16 and found["vae"] == found["teacher"] == torch.float32
    assert types_of({"default": torch.float16, "vae": torch.float32})["teacher"] == torch.float16
    with pytest.raises(InputError, match="tranformer is no part"): types_of({"tranformer": torch.float16})


def test_parts_are_loaded_or_given(small, tmp_path):
    small.save_pretrained(tmp_path)
    given = dict(vae=small.vae, tokenizer=small.tokenizer)
    parts = load_parts(tmp_path, given, {"teacher": torch.bfloat16})
    assert set(parts) == set(PARTS) and parts["vae"] is small.vae and parts["tokenizer"] is small.tokenizer
    assert parts["teacher"].dtype == torch.bfloat16 and parts["transformer"].dtype == torch.float32
    for name in ("transformer", "teacher"): assert type(parts[name]) is ShotTransformer
    for a, b in zip(parts["transformer"].parameters(), small.transformer.parameters()): assert torch.equal(a, b)
    whole = load_parts(tmp_path, {}, torch.float16)
    assert whole["vae"].dtype == torch.float32 and whole["text_encoder"].dtype == torch.float16  # it subtracts frames
    with pytest.raises(InputError, match="not both"): load_parts(tmp_path, dict(transformer=small.transformer),
                                                                 weights="x.pt")
    with pytest.raises(MissingFile, match="vae, text_encoder, tokenizer, transformer;"): load_parts(tmp_path/"none")


def test_parts_that_were_not_made_for_each_other(small):
    parts = dict(vae=small.vae, text_encoder=small.text_encoder, tokenizer=small.tokenizer,
                 transformer=small.transformer)
    check_parts(**parts)
    check_parts(**parts | dict(text_encoder=None, tokenizer=None), teacher=small.teacher)
    narrow = ShotTransformer(**TRANSFORMER | dict(in_channels=5, out_channels=5))
    dim = ShotTransformer(**TRANSFORMER | dict(text_dim=9))
    for wrong, said in ((dict(vae=ToyVAE(z_dim=5, dims=(8, 8, 8))), "transformer reads latents of 4 channels.*makes 5"),
                        (dict(teacher=narrow), "the teacher reads latents of 5"),
                        (dict(teacher=dim), "the teacher reads text features of 9 numbers.*makes 16"),
                        (dict(text_encoder=toy_text_encoder(len(small.tokenizer)-1, 16)), "the tokenizer has")):
        with pytest.raises(InputError, match=said): check_parts(**parts | wrong)
    check_parts(**parts | dict(text_encoder=toy_text_encoder(len(small.tokenizer), 16)))


def components_of(pipe, **config):
    parts = {n: getattr(pipe, n) for n in PARTS}
    return ShotComponents(**parts, config=SimpleNamespace(**dict(pipe.config) | config))


def test_a_config_says_how_it_samples_and_is_guided(small):
    parts = components_of(small, shift=5., context_time="target", context_pixels="float", guidance=2.,
                          history_guidance=3., guide_above=.4, negative_prompt="")
    s = parts.sampling
    assert (s.steps, s.shift, s.context_time, s.context_pixels) == (4, 5., "target", "float")
    assert parts.teacher_guidance() == Guidance(2., 3., .4) and parts.teacher_guidance().negative is None
    assert parts.teacher_guidance(4., min_sigma=0.) == Guidance(4., 3., 0.)
    assert parts.teacher_guidance(history=1.) == Guidance(2., 1., .4)
    words = parts.teacher_guidance(negative_prompt="the ball waves.").negative
    assert words.shape == (1, 1, small.tokenizer.model_max_length, 16)
    assert torch.equal(words[0], parts.features("the ball waves."))
    away = components_of(small, negative_prompt="the ball waves.")
    assert torch.equal(away.teacher_guidance().negative, words)
    assert away.teacher_guidance(negative_prompt="").negative is None         # an empty one is silence
    for wrong in (dict(text=101), dict(history=-1), dict(min_sigma=1.5), dict(text="2")):
        with pytest.raises(InputError): parts.teacher_guidance(**wrong)


def test_prompts_become_features(small):
    parts = components_of(small)
    assert parts.prompt_of("A ball. ", "It waves.", 3) == "A ball.  It waves."
    published = components_of(small, prompt_style="published")
    assert published.prompt_of("A  ball &amp;", "caf\u00c3\u00a9", 3) == "A ball &shot3:caf\u00e9"
    words = parts.caption_features("a red ball.", "the ball waves.", 1)
    with torch.no_grad():
        expected = encode_prompts(["a red ball. the ball waves."], small.tokenizer, small.text_encoder)
    assert torch.equal(words, expected) and not words.requires_grad
    small.transformer.to(torch.bfloat16)
    assert parts.features("the ball").dtype == torch.bfloat16
    lone = components_of(small)
    lone.text_encoder, lone.encoded_prompts = None, {"the ball": torch.ones(1, 2, 16)}
    assert torch.equal(lone.features("the ball"), torch.ones(1, 2, 16).bfloat16())
    with pytest.raises(InputError, match="released"): lone.features("a ball")
    assert not ShotComponents.encoded_prompts                                 # nothing is shared between pipelines


def test_what_a_person_should_know_of_a_prompt(small):
    parts = components_of(small, prompt_style="published")
    room = small.tokenizer.model_max_length
    with pytest.raises(ValueError, match="dragon"): components_of(small).check("a red ball.", "the dragon waves.")
    parts.vae = SimpleNamespace()                                             # another world: any words
    assert parts.check("a dragon", "waves") == ""
    n = len(small.tokenizer("a"*1 + "shot0:waves").input_ids)
    long = " ".join(["ball"]*(room - n + 1))
    assert parts.check(long, "waves") == "" and parts.check(long + " ball ball", "waves").startswith(
        f"the last 2 of {room+2} tokens")
    with pytest.raises(TypeError): parts.check(None, "waves")


@torch.no_grad()
def test_frames_and_latents(small):
    "Every frame alone; a shot's latents in order; bytes and floats are the same pixels"
    parts = components_of(small)
    frames = torch.randint(256, (3, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    z = parts.encode(frames)
    assert z.shape == (1, 3, 4, 2, 3)
    for i in range(3):
        video = frames[i:i+1, None].permute(0, 4, 1, 2, 3)/127.5 - 1
        torch.testing.assert_close(z[:, i], small.vae.encode(video).latent_dist.mode()[:, :, 0])
    torch.testing.assert_close(parts.encode(frames/127.5 - 1), z)
    film = parts.decode(z)
    expected = ((small.vae.decode(z.transpose(1, 2)).sample.clamp(-1, 1) + 1)*127.5).round()
    assert film.dtype == torch.uint8 and torch.equal(film.float(), expected[0].permute(1, 2, 3, 0))
    small.transformer.to(torch.bfloat16)
    assert parts.encode(frames).dtype == torch.bfloat16 and parts.decode(z.bfloat16()).shape == (9, 16, 24, 3)


def test_sizes_of_things(small):
    parts = components_of(small)
    assert parts.is_toy and parts.latent_shape((64, 96)) == (4, 8, 12) and parts.device == torch.device("cpu")
    cache = parts.new_cache((32, 64), budget=5, window=7, sink=2)
    expected = StaticKVCache(2, 1, 2*4, 2, 12, budget=5, window=7, sink=2)
    assert isinstance(cache, StaticKVCache) and (cache.window, cache.sink) == (7, 2)
    assert cache.bytes == expected.bytes and cache.store.shape == expected.store.shape
    small.transformer.to(torch.bfloat16)
    assert parts.new_cache((32, 64)).store.dtype == torch.bfloat16


def test_one_tokenizer_at_a_time(small):
    "While one thread reads, another waits"
    parts, read = components_of(small), []
    with components.ONE_AT_A_TIME:
        thread = threading.Thread(target=lambda: read.append(parts.features("the ball")))
        thread.start()
        thread.join(.2)
        assert not read
    thread.join(10)
    assert len(read) == 1
