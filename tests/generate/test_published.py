"""The public weights' way of filming, from the formulas again: no cache, no stream, one masked pass per step."""
import json

import pytest
import torch
from diffusers import WanTransformer3DModel

from shotstream.model.frame_table import next_shot_table, causal_mask
from shotstream.generate.pipeline import PUBLISHED, ShotStreamPipeline
from shotstream.data.script import parse_script
from shotstream.generate.stream import Stream
from shotstream.generate.student import whole_shot_noise
from shotstream.toy.networks import toy_text_encoder
from shotstream.toy.vocabulary import toy_tokenizer
from shotstream.model.transformer import ShotTransformer
from shotstream.model.wan_vae import WanVAE, tiny_wan_vae

SIZE, SEED = (32, 48), 3
CAPTION = "A red ball lives in the forest. "
SHOTS = [("It waves.", 9), ("It jumps.", 4), ("It walks left.", 21), ("It grows.", 1), ("It turns around.", 7)]
LOOKS = (1000., 957.9288, 888.8889, 737.5887) # t of the four denoising steps: 1000, 740, 500, 260 of 1000 under shift 8


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    transformer = ShotTransformer(num_attention_heads=2, attention_head_dim=24, in_channels=16, out_channels=16,
                                  text_dim=32, freq_dim=32, ffn_dim=64, num_layers=2).eval()
    for p in transformer.parameters(): torch.nn.init.normal_(p, std=.2) if p.ndim == 1 else None
    tokenizer = toy_tokenizer()
    tokenizer.model_max_length = 512
    return ShotStreamPipeline(tiny_wan_vae(), toy_text_encoder(len(tokenizer), 32).eval(), tokenizer, transformer,
                              **{**PUBLISHED, "size": SIZE})


def counts(n):
    "Six frames over n shots; what is left goes to the newest, one each"
    share = [6//n]*n
    for i in range(1, 6 % n + 1): share[-i] += 1
    return share


@torch.no_grad()
def by_the_formulas(pipe, whole_first=False):
    """`whole_first`: in the public code's order, the noise of all chunks of a shot, then fresh noise as it is needed

    Yields (shot, chunk, look, clean latents after it), and keeps decoded shots as floats"""
    vae, model, films = pipe.vae, pipe.transformer, []
    mean, std = (torch.tensor(c)[None, :, None, None, None] for c in (vae.config.latents_mean, vae.config.latents_std))
    stock = super(WanVAE, vae)
    def features(k):
        ids = pipe.tokenizer(f"{CAPTION}shot{k}:{SHOTS[k][0]}", padding="max_length", max_length=512, truncation=True,
                             return_tensors="pt")
        return pipe.text_encoder(ids.input_ids, ids.attention_mask).last_hidden_state * ids.attention_mask[..., None]
    text = torch.cat([features(k) for k in range(len(SHOTS))])[None]
    for k, (_, latents) in enumerate(SHOTS):
        if k == 0: context, rows, captions = torch.zeros(1, 6, 16, SIZE[0]//8, SIZE[1]//8), [0]*6, [0]*7
        else:
            picks = [(j, int(f)) for j,
                     n in enumerate(counts(k)) for f in torch.linspace(0, films[j].shape[2]-1, n).round()]
            context = torch.cat([(stock.encode(films[j][:, :, [f]]).latent_dist.mode() - mean)/std for j, f in picks],
                                2).transpose(1, 2)
            rows, captions = [j for j, _ in picks], [*[j for j, _ in picks], k]
        table = next_shot_table(rows, latents, max(k, 1), captions=captions)
        attention_mask, generator, done = causal_mask(table, table), torch.Generator().manual_seed(1000*SEED + k), []
        first = torch.randn(1, latents, 16, SIZE[0]//8, SIZE[1]//8, generator=generator) if whole_first else None
        for chunk, start in enumerate(range(0, latents, 3)):
            f = min(3, latents-start)
            x = first[:, start:start+f] if whole_first else torch.randn(1, f, 16, SIZE[0]//8, SIZE[1]//8,
                                                                        generator=generator)
            for look, t in enumerate(LOOKS):
                frames = torch.cat([context, *done, x], 1)
                n = frames.shape[1]
                times = torch.tensor([[0.]*(n-f) + [t]*f])
                v = model(frames.transpose(1, 2), times, text, table=table[slice(0, n)],
                          attention_mask=attention_mask[:, :n, :n]).sample.transpose(1, 2)[:, -f:]
                x0 = x - t/1000*v
                yield k, chunk, look, x0
                if look < 3:
                    x = (1 - LOOKS[look+1]/1000)*x0 + LOOKS[look+1]/1000*torch.randn(x0.shape, generator=generator)
            done.append(x0)
        z = torch.cat(done, 1).transpose(1, 2)
        films.append(stock.decode(z*std + mean).sample)
    pipe.films = films


@torch.no_grad()
def by_the_stream(pipe):
    "The same things, overheard while a stream films"
    heard, films, now = [], [], {}
    def hear(model, args, kwargs, out):
        if args[0] is None: return                               # captions are read, no frames
        table = kwargs["table"]
        if kwargs.get("predict", True):
            heard.append((now["shot"], int(table.chunk[0, 0]),
                          (args[0] - table.sigma[:, None, :, None, None]*out.sample).transpose(1, 2)))
    hook = pipe.transformer.register_forward_hook(hear, with_kwargs=True)
    stream = pipe.stream(CAPTION, seed=SEED)
    try:
        for now["shot"], (prompt, latents) in enumerate(SHOTS):
            stream.next_shot(prompt, latents=latents)
            films.append(torch.cat([stream.pixels for _ in stream]))
    finally: hook.remove()
    return heard, films


def test_every_look_of_a_five_shot_story(pipe):
    expected, (heard, films) = list(by_the_formulas(pipe)), by_the_stream(pipe)
    assert len(heard) == len(expected) == 4*(3 + 2 + 7 + 1 + 3)
    for (k, chunk, look, a), (shot, c, b) in zip(expected, heard, strict=True):
        assert (k, chunk) == (shot, c)
        torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-4, msg=lambda m,
                                   at=(k, chunk, look): f"shot, chunk, look {at}: {m}")
    for a, b in zip(pipe.films, films, strict=True):
        torch.testing.assert_close(b, a[0].permute(1, 2, 3, 0), atol=1e-4, rtol=1e-4)
    assert torch.stack([e[3].abs().mean() for e in expected]).min() > .1         # something was compared


def test_noise_can_be_supplied(pipe):
    "The public code's own noise, in its own order, gives its film; by shot in a stream, for all shots in a pipeline"
    for _ in by_the_formulas(pipe, whole_first=True): pass
    def noise(k, shape): return whole_shot_noise(shape, torch.Generator().manual_seed(1000*SEED + k))
    stream, films = pipe.stream(CAPTION, seed=77), []
    for k, (prompt, latents) in enumerate(SHOTS):
        stream.next_shot(prompt, latents=latents, noise=noise(k, (1, latents, 16, SIZE[0]//8, SIZE[1]//8)))
        films.append(torch.cat([stream.pixels for _ in stream]))
    for a, b in zip(pipe.films, films, strict=True):
        torch.testing.assert_close(b, a[0].permute(1, 2, 3, 0), atol=1e-4, rtol=1e-4)
    story = parse_script(dict(caption="A red ball.", shots=[dict(caption=p, frames=4*n-3) for p, n in SHOTS[:2]]))
    drawn, given = pipe(story, seed=SEED), pipe(story, seed=SEED, noise=noise)
    assert (given.frames != drawn.frames).any()
    assert torch.equal(pipe(story, seed=0, noise=noise).frames, given.frames)
    shapes = [(1, n, 16, SIZE[0]//8, SIZE[1]//8) for _, n in SHOTS[:2]]
    tensors = [torch.randn(s, generator=torch.Generator().manual_seed(1000*SEED + k)) for k, s in enumerate(shapes)]
    one_step = dict(seed=SEED, steps=1)                                        # no fresh noise: the initial noise alone
    assert torch.equal(pipe(story, noise=tensors, **one_step).frames, pipe(story, noise=noise, **one_step).frames)
    with pytest.raises(ValueError, match="noise: numbers of shape"): pipe(story, noise=tensors[::-1])


def test_a_tokenizer_without_a_limit(pipe, tmp_path):
    "As umT5's own is saved; Wan reads 512 tokens all the same"
    pipe.save_pretrained(tmp_path)
    settings = json.loads((file := tmp_path/"tokenizer"/"tokenizer_config.json").read_text())
    file.write_text(json.dumps(settings | dict(model_max_length=10**30)))
    again = ShotStreamPipeline.from_pretrained(tmp_path)
    shape = (1, 512, again.transformer.config.text_dim)
    for p in (again, pipe): assert p.caption_features(CAPTION, SHOTS[0][0]).shape == shape


def test_options_travel_with_the_folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = ShotStreamPipeline.from_pretrained(tmp_path)
    assert type(again.vae) is WanVAE and type(again.transformer) is ShotTransformer and not again.is_toy
    assert {k: again.config[k] for k in PUBLISHED} == {**PUBLISHED,
                                                       "size": again.config.size} and tuple(again.config.size) == SIZE
    (tmp_path/"model_index.json").unlink()                       # the published choices are the default for Wan's codec
    assert {k: ShotStreamPipeline.from_pretrained(tmp_path).config[k] for k in PUBLISHED} == PUBLISHED
    stock = WanTransformer3DModel.from_pretrained(tmp_path/"transformer")        # unchanged state dict
    assert stock.state_dict().keys() == again.transformer.state_dict().keys()


def test_rounding_is_an_option(pipe):
    rounded = ShotStreamPipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.transformer,
                                 **{**PUBLISHED, "size": SIZE, "context_pixels": "uint8"})
    def two_shots(p): # latents: half a grey level of the context is seldom a whole one in the film
        prompts = [prompt for prompt, _ in SHOTS[:2]]
        return p(prompts, caption=CAPTION, seed=SEED, num_frames=1, output_type="latent").shots
    a, b = two_shots(pipe), two_shots(rounded)
    assert torch.equal(a[0], b[0]) and 0 < (a[1] - b[1]).abs().max() < .1
    with pytest.raises(ValueError, match="context_pixels"):
        ShotStreamPipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.transformer, context_pixels="bytes")


def test_a_stream_films_at_the_models_own_size(pipe):
    assert Stream(pipe, CAPTION).size == tuple(pipe.config.size) == SIZE != (64, 64)


def test_long_prompts_are_told(pipe):
    assert pipe.check("ball "*600, "It waves.").startswith("the last ") and pipe.check(CAPTION, "It waves.") == ""


def test_half_precision_films_almost_the_same(pipe):
    transformer = ShotTransformer.from_config(pipe.transformer.config).eval()
    half = ShotStreamPipeline(tiny_wan_vae().bfloat16(), pipe.text_encoder, pipe.tokenizer, transformer,
                              **{**PUBLISHED, "size": SIZE})
    half.transformer.load_state_dict(pipe.transformer.state_dict())
    half.transformer.bfloat16()
    def film(p):
        stream = p.stream(CAPTION, seed=SEED)
        for prompt, latents in SHOTS[:2]: stream.next_shot(prompt, latents=latents)
        return torch.cat([f.video for f in stream]).float()
    a, b = film(pipe), film(half)
    assert half.new_cache(SIZE).store.dtype == torch.bfloat16
    assert 0 < (a - b).abs().mean() < .05*a.std()


def test_weights_stored_in_eight_bits_film_almost_the_same(pipe):
    "diffusers stores the linear layers in fp8 and computes in the type of before"
    small = ShotTransformer.from_config(pipe.transformer.config).eval()
    small.load_state_dict(pipe.transformer.state_dict())
    small.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    lean = ShotStreamPipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, small, **{**PUBLISHED, "size": SIZE})
    def film(p):
        stream = p.stream(CAPTION, seed=SEED)
        for prompt, latents in SHOTS[:2]: stream.next_shot(prompt, latents=latents)
        return torch.cat([f.video for f in stream]).float()
    a, b = film(pipe), film(lean)
    assert small.blocks[0].ffn.net[2].weight.dtype == torch.float8_e4m3fn and small.dtype == torch.float32
    assert 0 < (a - b).abs().mean() < .2*a.std()


def test_weights_of_another_file(pipe, tmp_path):
    from shotstream.model.checkpoints import convert
    pipe.save_pretrained(tmp_path/"base")
    other = ShotTransformer.from_config(pipe.transformer.config)
    other.save_pretrained(tmp_path/"other")
    file = convert(tmp_path/"other", tmp_path/"other.safetensors", to="original")
    loaded = ShotStreamPipeline.from_pretrained(tmp_path/"base", weights=file).transformer
    for name, w in other.state_dict().items(): assert torch.equal(loaded.state_dict()[name], w)
    toy = ShotTransformer.from_config({**pipe.transformer.config, "prediction_type": "v_prediction"})
    toy.save_pretrained(tmp_path/"toy")
    with pytest.raises(ValueError, match="velocities"):
        convert(tmp_path/"toy", tmp_path/"toy.safetensors", to="original")
    with pytest.raises(OSError, match="nobody/nothing"): ShotStreamPipeline.from_pretrained("nobody/nothing")
