"""What diffusers' tests for models and pipelines promise their users, kept by ours: written here from the promises.
Which of their checks apply, and which test is ours for it, stands in two tables at the end; a test counts them."""
import copy
import inspect
import json
import tempfile
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from diffusers import WanPipeline, WanTransformer3DModel, hooks
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from diffusers.training_utils import EMAModel
from peft import LoraConfig
from tiny import GROUPS, TRANSFORMER, tiny_pipe

from shotstream import ShotStreamPipeline
from shotstream.generate.components import PARTS
from shotstream.model.files import InputError
from shotstream.model.float8 import fp8_linears
from shotstream.model.transformer import ShotTransformer
from shotstream.model.wan_vae import tiny_wan_vae
from shotstream.toy.networks import toy_text_encoder
from shotstream.toy.vae import ToyVAE

CPU = torch.device("cpu")


def shot_transformer(): return ShotTransformer(**TRANSFORMER), dict(
    hidden_states=torch.randn(2, 4, 3, 4, 4), timestep=torch.tensor([300., 700.]),
    encoder_hidden_states=torch.randn(2, 5, 16))

def toy_vae(): return ToyVAE(z_dim=4, dims=(8, 8, 8)), dict(sample=torch.randn(1, 3, 5, 16, 16))

MODELS = dict(transformer=shot_transformer, vae=toy_vae)


@pytest.fixture(params=MODELS)
def made(request):
    "A model none of whose weights is at its starting value, and arguments of its forward"
    torch.manual_seed(0)
    model, inputs = MODELS[request.param]()
    with torch.no_grad():
        for p in model.parameters(): p += .05*torch.randn_like(p)
    return model.eval(), inputs


@pytest.fixture
def shot():
    torch.manual_seed(0)
    model, inputs = shot_transformer()
    with torch.no_grad():
        for p in model.parameters(): p += .05*torch.randn_like(p)
    return model.eval(), inputs


def run(model, inputs, **more):
    with torch.no_grad(): return model(**inputs, **more, return_dict=False)[0]

def public(model): return {k: list(v) if isinstance(v, tuple) else v for k, v in model.config.items() if k[0] != "_"}
def close(a, b, tolerance=1e-5): torch.testing.assert_close(a, b, atol=tolerance, rtol=0)
def differs(a, b): return (a - b).abs().max() > 1e-4


# Models: saving and loading

@pytest.mark.parametrize("saved", [{}, dict(variant="fp16"), dict(max_shard_size="3KB"),
                                   dict(max_shard_size="3KB", variant="fp16"), dict(safe_serialization=False)])
def test_saved_and_loaded(made, tmp_path, saved):
    model, inputs = made
    model.save_pretrained(tmp_path, **saved)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == ("max_shard_size" in saved)
    if variant := saved.get("variant"):
        assert all(variant in f.name for f in tmp_path.glob("*.safetensors"))
        with pytest.raises(OSError): type(model).from_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, variant=variant,
                                        use_safetensors=saved.get("safe_serialization", True))
    assert not again.training and public(again) == public(model)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(run(again, inputs), run(model, inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_loaded_in_a_number_type(made, tmp_path, dtype):
    model, _ = made
    model.to(dtype).save_pretrained(tmp_path)
    exact = set(model._keep_in_fp32_modules or ())
    for named in (dict(torch_dtype=dtype), dict(dtype=dtype), dict(dtype=str(dtype))):
        again = type(model).from_pretrained(tmp_path, **named)
        assert again.dtype == dtype
        for n, p in again.named_parameters():
            assert p.dtype == (torch.float32 if exact & set(n.split(".")) else dtype), n


def test_a_config_makes_the_same_model(made, tmp_path):
    model, inputs = made
    new = type(model).from_config(model.config).eval()
    assert run(new, inputs).shape == run(model, inputs).shape
    model.save_config(tmp_path)
    assert public(type(model).from_config(type(model).load_config(tmp_path))) == public(new) == public(model)
    assert json.loads((tmp_path/"config.json").read_text())["_class_name"] == type(model).__name__
    for owner in (model, model.config):
        with pytest.raises(AttributeError): getattr(owner, "does_not_exist")  # noqa: B009


def test_loading_info(made, tmp_path):
    model, _ = made
    model.save_pretrained(tmp_path)
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is type(model)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_other_sizes_only_when_asked(shot, tmp_path):
    model, _ = shot
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="proj_out"): ShotTransformer.from_pretrained(tmp_path, out_channels=9)
    other = ShotTransformer.from_pretrained(tmp_path, out_channels=9, ignore_mismatched_sizes=True,
                                            low_cpu_mem_usage=True)
    assert other.config.out_channels == 9 and other.proj_out.out_features == 36
    assert torch.equal(other.blocks[1].attn1.to_q.weight, model.blocks[1].attn1.to_q.weight)


def test_subfolder_and_stock_class(shot, tmp_path):
    model, inputs = shot
    model.save_pretrained(tmp_path/"transformer")
    assert torch.equal(run(ShotTransformer.from_pretrained(tmp_path, subfolder="transformer"), inputs),
                       run(model, inputs))
    close(run(WanTransformer3DModel.from_config(model.config).eval(), inputs).flatten()[:0], torch.zeros(0))
    stock = WanTransformer3DModel(**TRANSFORMER).eval()
    stock.load_state_dict(model.state_dict())
    close(run(stock, inputs), run(model, inputs))


def test_single_files_have_their_own_reader(shot):
    with pytest.raises(NotImplementedError, match="load_shotstream"): ShotTransformer.from_single_file("x.safetensors")


# Models: forward

def test_twice_the_same_and_of_the_right_shape(made):
    model, inputs = made
    first = run(model, inputs)
    assert torch.equal(first, run(model, inputs)) and torch.isfinite(first).all()
    assert first.shape == next(iter(inputs.values())).shape


def test_tuple_and_output_agree(made):
    model, inputs = made
    with torch.no_grad(): out = model(**inputs)
    assert torch.equal(out.sample, run(model, inputs)) and torch.equal(out[0], out["sample"])
    names = list(inspect.signature(model.forward).parameters)
    assert names[0] == next(iter(inputs)) and "return_dict" in names


def test_training_and_ema(made):
    model, inputs = made
    model.train()
    ema = EMAModel(model.parameters(), decay=.5)
    before = [p.detach().clone() for p in model.parameters()]
    out = model(**inputs).sample
    torch.nn.functional.mse_loss(out, torch.randn_like(out)).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    with torch.no_grad():
        for p in model.parameters(): p -= .1*p.grad
    ema.step(model.parameters())
    assert any(differs(a, b) for a, b in zip(before, ema.shadow_params))


def test_gradient_checkpointing(made):
    model, inputs = made
    if not model._supports_gradient_checkpointing:
        with pytest.raises(ValueError, match="gradient checkpointing"): model.enable_gradient_checkpointing()
        return
    def grads():
        model.zero_grad()
        model(**inputs).sample.pow(2).mean().backward()
        return [p.grad.clone() for p in model.parameters()]
    plain, calls = grads(), []
    model.enable_gradient_checkpointing()
    assert model.is_gradient_checkpointing
    inner = model._gradient_checkpointing_func
    model._gradient_checkpointing_func = lambda *a: (calls.append(1), inner(*a))[1]
    for a, b in zip(plain, grads()): close(a, b, 1e-6)
    assert len(calls) == len(model.blocks)
    model.disable_gradient_checkpointing()
    assert not model.is_gradient_checkpointing


def test_exact_modules_stay_exact(shot, tmp_path):
    model, _ = shot
    model.save_pretrained(tmp_path)
    half = ShotTransformer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    whole = half.blocks[0].scale_shift_table, half.condition_embedder.time_embedder.linear_1.weight
    assert all(t.dtype == torch.float32 for t in whole)
    assert half.blocks[0].ffn.net[2].weight.dtype == torch.bfloat16


# Models: hooks, offloading, casting, compiling

@pytest.mark.parametrize("how", ["cpu", "disk", "dispatch"])
def test_offloaded_by_accelerate(made, tmp_path, how):
    model, inputs = made
    expected = run(model, inputs)
    if how == "cpu": cpu_offload(model, CPU)
    elif how == "disk": disk_offload(model, tmp_path, CPU)
    else:
        own = [*model.named_children(), *model.named_parameters(recurse=False), *model.named_buffers(recurse=False)]
        places = {n: "disk" if n in ("blocks", "decoder") else "cpu" for n, _ in own}
        assert "disk" in places.values()
        dispatch_model(model, places, CPU, offload_dir=tmp_path, force_hooks=True)
    assert model.device == CPU
    close(run(model, inputs), expected)


@GROUPS
@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
@pytest.mark.parametrize("more", ["", "disk", "casting"])
def test_group_offloading(made, tmp_path, level, more):
    model, inputs = made
    expected = run(model, inputs)
    if more == "casting": model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    model.enable_group_offload(CPU, CPU, offload_type=level, num_blocks_per_group=1 if level == "block_level" else None,
                               offload_to_disk_path=str(tmp_path) if more == "disk" else None)
    close(run(model, inputs), expected, .2 if more == "casting" else 1e-5)
    assert model.device == CPU


@pytest.mark.parametrize("storage", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_layerwise_casting(made, storage):
    model, inputs = made
    expected = run(model, inputs)
    model.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
    cast = [n for n, p in model.named_parameters() if p.dtype == storage]
    skipped = model._skip_layerwise_casting_patterns or ()
    assert cast and not any(pattern in n for n in cast for pattern in skipped)
    got = run(model, inputs)
    assert torch.isfinite(got).all() and (got - expected).abs().mean() < .3*expected.abs().mean()


@pytest.mark.parametrize("autocast", [False, True])
def test_layerwise_casting_trains(made, autocast):
    model, inputs = made
    model.train()
    model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if isinstance(model, ToyVAE) and not autocast:
            with pytest.raises(NotImplementedError, match="autocast"): model(**inputs)
            return
        loss = model(**inputs).sample.float().pow(2).mean()
    loss.backward()
    assert any(p.grad is not None for p in model.parameters())


def test_repeated_blocks_are_compiled(made):
    model, inputs = made
    if hasattr(model, "blocks"): model.blocks = model.blocks[:1]
    expected, graphs = run(model, inputs), []
    def backend(graph, examples):
        graphs.append(graph)
        return graph
    try:
        model.compile_repeated_blocks(backend=backend)
        close(run(model, inputs), expected)
        assert graphs
    finally: torch._dynamo.reset()


def test_a_compiled_block_may_have_many_versions(shot):
    "dynamo's own limit is met at the second picture size; after that it runs uncompiled and hardly says so"
    from torch._dynamo import config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    with config.patch({limit: 8}):
        shot[0].compile_blocks(backend="eager")
        assert getattr(config, limit) >= 64
    with config.patch({limit: 200}):
        shot[0].compile_blocks(backend="eager")
        assert getattr(config, limit) == 200


def test_hooks_fire_and_may_change(made):
    model, inputs = made
    expected, heard = run(model, inputs), []
    part = next(m for m in model.modules() if type(m).__name__ in model._repeated_blocks)
    handle = part.register_forward_hook(lambda m, args, out: (heard.append(1), -out)[1])
    assert differs(run(model, inputs), expected) and heard
    handle.remove()
    assert torch.equal(run(model, inputs), expected)


# Models: attention

@pytest.fixture
def own_backend():
    before = _AttentionBackendRegistry._active_backend
    yield
    _AttentionBackendRegistry.set_active_backend(before)


def test_attention_backends(shot, own_backend):
    model, inputs = shot
    expected = run(model, inputs)
    for name in ("native", "_native_math"):
        model.set_attention_backend(name)
        close(run(model, inputs), expected)
    model.reset_attention_backend()
    assert torch.equal(run(model, inputs), expected)
    with pytest.raises(InputError, match="must be one of"): model.set_attention_backend("fastest")
    with pytest.raises(InputError, match="missing package"): model.set_attention_backend("sage")


def test_attention_processors(shot):
    model, inputs = shot
    assert set(model.attn_processors) == {f"blocks.{i}.attn{j}.processor" for i in (0, 1) for j in (1, 2)}
    expected = run(model, inputs)
    model.set_attn_processor(model.attn_processors)
    assert torch.equal(run(model, inputs), expected)
    with pytest.raises(ValueError, match="does not know frames"):
        model.set_attn_processor(diffusers.models.transformers.transformer_wan.WanAttnProcessor())
    with pytest.raises(ValueError): model.set_attn_processor(dict(list(model.attn_processors.items())[:1]))


def test_no_kernel_is_set_that_nobody_reads(made):
    model, _ = made
    for enable in (model.enable_xformers_memory_efficient_attention, model.enable_npu_flash_attention,
                   model.enable_xla_flash_attention):
        with pytest.raises((NotImplementedError, ModuleNotFoundError, ValueError), match=" "): enable()
    for disable in (model.disable_xformers_memory_efficient_attention, model.disable_npu_flash_attention): disable()


def test_no_backend_without_attention(own_backend):
    before = _AttentionBackendRegistry._active_backend
    for model in (toy_vae()[0], tiny_wan_vae()):
        with pytest.raises(NotImplementedError, match="no attention"): model.set_attention_backend("_native_math")
    assert _AttentionBackendRegistry._active_backend == before


CACHES = dict(PyramidAttentionBroadcastConfig={}, FasterCacheConfig={}, FirstBlockCacheConfig={},
              TaylorSeerCacheConfig={},
              MagCacheConfig=dict(mag_ratios=[1.]*4), TextKVCacheConfig={}, SeaCacheConfig={})

@pytest.mark.parametrize("name", CACHES)
def test_caches_that_skip_steps_refuse(shot, name):
    if (config := getattr(diffusers, name, None)) is None: pytest.skip("not in this diffusers")
    model, inputs = shot
    expected = run(model, inputs)
    with pytest.raises(NotImplementedError, match="KVCache"): model.enable_cache(config(**CACHES[name]))
    assert torch.equal(run(model, inputs), expected) and not model.is_cache_enabled


def test_hooks_that_skip_work_refuse(shot):
    "Put there by hand, past `enable_cache`"
    model, inputs = shot
    config = diffusers.PyramidAttentionBroadcastConfig(
        cross_attention_block_skip_range=2, cross_attention_timestep_skip_range=(0, 1000),
        current_timestep_callback=lambda: 500,
        cross_attention_block_identifiers=("blocks",))
    hooks.apply_pyramid_attention_broadcast(model, config)
    with pytest.raises(NotImplementedError, match="pyramid_attention_broadcast.*remove the hook"): run(model, inputs)


def test_other_ways_to_split_refuse(shot):
    model, _ = shot
    for call in (lambda: model.enable_parallelism(config=None), model.fuse_qkv_projections):
        with pytest.raises(NotImplementedError, match=" "): call()


# Models: LoRA

def with_lora(model, seed=0, name="default", **options):
    torch.manual_seed(seed)
    model.add_adapter(LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["to_q", "to_v", "to_out.0"],
                                    "init_lora_weights": False} | options), adapter_name=name)
    return model


@pytest.mark.parametrize("rank, alpha", [(4, 4), (4, 8), (2, 1)])
def test_lora_saved_and_loaded(shot, tmp_path, rank, alpha):
    model, inputs = shot
    other, plain = copy.deepcopy(model), run(model, inputs)
    with_lora(model, r=rank, lora_alpha=alpha)
    strong = run(model, inputs)
    assert differs(strong, plain)
    model.save_lora_adapter(tmp_path)
    other.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
    close(run(other, inputs), strong, 1e-6)
    other.disable_lora()
    assert torch.equal(run(other, inputs), plain)
    other.enable_lora()
    other.set_adapters(["default_0"] if "default_0" in other.peft_config else list(other.peft_config), [0.])
    close(run(other, inputs), plain)
    other.delete_adapters(list(other.peft_config))
    close(run(other, inputs), plain)
    with pytest.raises(ValueError): model.save_lora_adapter(tmp_path, adapter_name="nobody")


def test_lora_fused_and_saved(shot, tmp_path):
    model, inputs = shot
    with_lora(model)
    strong = run(model, inputs)
    with pytest.raises(InputError, match="fuse_lora"): model.save_pretrained(tmp_path)
    assert not (tmp_path/"config.json").exists()
    with pytest.raises(InputError, match="fuse_lora"): fp8_linears(model)
    model.fuse_lora()
    close(run(model, inputs), strong, 1e-4)
    model.unload_lora()
    model.save_pretrained(tmp_path)
    close(run(ShotTransformer.from_pretrained(tmp_path), inputs), strong, 1e-4)
    rounded = run(fp8_linears(model), inputs)
    assert (rounded - strong).abs().mean() < .2*strong.abs().mean()
    with pytest.raises(InputError, match="before rounding"): model.save_pretrained(tmp_path/"again")


@pytest.mark.parametrize("damage, says",
                         [("prefix", "begin with transformer"), ("nan", "not finite"), ("alone", "lora_A and lora_B"),
                                          ("layer", "does not have")])
def test_lora_that_does_not_fit(shot, tmp_path, damage, says):
    from safetensors.torch import load_file, save_file
    model, inputs = shot
    plain, other = run(model, inputs), copy.deepcopy(model)
    with_lora(other).save_lora_adapter(tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    state = load_file(file)
    first = next(iter(state))
    if damage == "nan": state[first] = state[first]*float("nan")
    if damage == "alone": del state[first]
    if damage == "layer": state = {n.replace("blocks.1.", "blocks.9."): t for n, t in state.items()}
    save_file(state, file)
    with pytest.raises(InputError, match=says):
        model.load_lora_adapter(tmp_path, prefix="transformer" if damage == "prefix" else None, use_safetensors=True)
    assert torch.equal(run(model, inputs), plain)


# Pipelines

CAPTION, PROMPTS = "a red ball with a hat in the forest by day.", ["wide shot: the ball waves.",
    "close up: the ball jumps."]
FILM = dict(prompt=PROMPTS, caption=CAPTION, num_frames=5, size=(16, 32))


@pytest.fixture
def small(): return tiny_pipe()

def frames(pipe, **more): return pipe(**FILM | more).frames


@pytest.fixture(scope="module")
def expected(): return frames(tiny_pipe())


def test_pipeline_saved_and_loaded(small, tmp_path, expected):
    small.save_pretrained(tmp_path)
    assert torch.equal(frames(ShotStreamPipeline.from_pretrained(tmp_path)), expected)
    assert ShotStreamPipeline.from_pretrained(tmp_path, teacher=None).teacher is None
    index = json.loads((tmp_path/"model_index.json").read_text())
    assert index["_class_name"] == "ShotStreamPipeline" and set(PARTS) <= set(index)


def test_pipeline_with_optional_parts_missing(small, tmp_path):
    small.release_text(dict(caption=CAPTION, shots=PROMPTS))
    lean = tiny_pipe(text_encoder=None, teacher=None)
    lean.save_pretrained(tmp_path)
    again = ShotStreamPipeline.from_pretrained(tmp_path)
    assert again.text_encoder is None and again.teacher is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pipeline_variant_and_number_type(small, tmp_path, dtype):
    small.to(dtype)
    small.save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(OSError): ShotStreamPipeline.from_pretrained(tmp_path)
    again = ShotStreamPipeline.from_pretrained(tmp_path, variant="fp16", torch_dtype=dtype)
    assert again.transformer.dtype == again.text_encoder.dtype == dtype and again.vae.dtype == torch.float32
    assert (frames(again).float() - frames(small).float()).abs().mean() < 3


def test_pipeline_number_types_by_part(small, tmp_path):
    small.save_pretrained(tmp_path)
    load = ShotStreamPipeline.from_pretrained
    mixed = load(tmp_path, dtype={"transformer": torch.bfloat16, "default": torch.float16})
    assert mixed.transformer.dtype == torch.bfloat16
    assert mixed.teacher.dtype == mixed.text_encoder.dtype == torch.float16
    twin = ShotStreamPipeline.from_pipe(mixed)
    assert twin.transformer.dtype == torch.bfloat16 and twin.text_encoder.dtype == torch.float16      # as they were
    for wrong in ({"transfomer": torch.float16}, "auto", "int8", torch.int8, 16, {"transformer": "half a float"}):
        with pytest.raises(InputError, match="dtype"): load(tmp_path, dtype=wrong)


def test_pipeline_call_signature(small):
    theirs = inspect.signature(WanPipeline.__call__).parameters
    ours = inspect.signature(small.__call__).parameters
    assert {"prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps", "guidance_scale",
            "generator",
            "latents", "output_type", "return_dict", "callback_on_step_end",
            "callback_on_step_end_tensor_inputs"} <= ours.keys() & theirs.keys()


def test_pipeline_output_types(small, expected):
    (tuple_out,) = small(**FILM, return_dict=False)
    assert torch.equal(tuple_out, expected)
    arrays, images, latents = (frames(small, output_type=t) for t in ("np", "pil", "latent"))
    assert np.array_equal((arrays*255).round().astype("uint8"), expected.numpy())
    assert np.array_equal(np.stack([np.asarray(i) for i in images]), expected.numpy())
    assert latents.shape == (1, 4, 4, 2, 4) and not latents.isnan().any()


def test_pipeline_is_deterministic(small, expected):
    assert torch.equal(frames(small), expected)
    seeded = [frames(small, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4)]
    assert torch.equal(seeded[0], seeded[1]) and not torch.equal(seeded[0], seeded[2])


def test_pipeline_steps_and_callback(small):
    seen = []
    def look(pipe, step, timestep, given):
        assert set(given) == {"latents"} and pipe is small
        seen.append(step)
        return dict(latents=torch.zeros_like(given["latents"]))
    latents = frames(small, callback_on_step_end=look, num_inference_steps=3, output_type="latent")
    assert seen == list(range(6)) and not latents.any()
    with pytest.raises(ValueError, match="latents"):
        frames(small, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["x"])


def test_pipeline_guidance(small):
    a, b = (frames(small, teacher=True, num_inference_steps=2, guidance_scale=g) for g in (1., 8.))
    assert not torch.equal(a, b)


def test_pipeline_components_are_shared(small, expected):
    again = ShotStreamPipeline(**small.components)
    assert again.transformer is small.transformer and torch.equal(frames(again), expected)
    twin = ShotStreamPipeline.from_pipe(small)
    assert all(getattr(twin, n) is getattr(small, n) for n in PARTS) and torch.equal(frames(twin), expected)
    small.rest_text(visits=False)
    small.encoded_prompts = {"a": torch.zeros(1)}
    twin = ShotStreamPipeline.from_pipe(small, shift=5.)
    assert twin.text_rests and not twin.text_visits and twin.encoded_prompts == small.encoded_prompts
    assert twin.config.shift == 5.
    with pytest.raises(TypeError, match="nonsense"): ShotStreamPipeline.from_pipe(small, nonsense=1)
    with pytest.raises(InputError, match="vae"): ShotStreamPipeline.from_pipe(small, vae=None)


def test_pipeline_to_and_number_type(small):
    small.to(torch.float64)
    assert small.transformer.dtype == small.text_encoder.dtype == torch.float64 and small.vae.dtype == torch.float32
    assert small.to("cpu") is small and small.device == CPU
    assert torch.isfinite(frames(small, output_type="latent")).all()


@pytest.mark.parametrize("how", ["sequential", "model", *(pytest.param(how, marks=GROUPS) for how in (
    "group block", "group leaf", "group with casting"))])
def test_pipeline_offloaded(small, expected, how):
    if how == "sequential":       # what enable_sequential_cpu_offload does, which itself wants an accelerator
        for part in (small.vae, small.text_encoder, small.transformer): cpu_offload(part, CPU)
    elif how == "model": small.enable_model_cpu_offload(device="cpu")
    else:
        if "casting" in how:
            small.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
        small.enable_group_offload(CPU, CPU, offload_type="leaf_level" if "leaf" in how else "block_level",
                                   num_blocks_per_group=None if "leaf" in how else 1)
    for _ in range(2):
        got = frames(small)
        assert torch.equal(got, expected) if "casting" not in how else (got.float() - expected.float()).abs().mean() < 8
    if how != "sequential": small.remove_all_hooks()


def test_pipeline_refuses_by_name(small):
    for call, words in ((small.enable_attention_slicing, "fused"),
                        (small.enable_xformers_memory_efficient_attention, "fused"),
                        (lambda: ShotStreamPipeline.from_pretrained("toy", device_map="balanced"), "device_map")):
        with pytest.raises(NotImplementedError, match=words): call()
    fp8_linears(small.transformer)
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(InputError, match="before rounding"): small.save_pretrained(folder)
        assert not list(Path(folder).iterdir())


def test_a_tiled_codec_does_not_stream():
    vae = tiny_wan_vae(4)
    vae.enable_tiling()
    with pytest.raises(InputError, match="tiling"): vae.decode_next(torch.zeros(1, 4, 1, 2, 2))
    vae.disable_tiling()
    with torch.no_grad(): assert vae.decode_next(torch.zeros(1, 4, 1, 2, 2))[0].shape == (1, 3, 1, 16, 16)


@pytest.mark.parametrize("size",
                         [(70, 100), (64.5, 64), (64.0, 64), "64x64", (0, 64), (64,), (-16, 16), (True, 16),
                          (2**20, 16), 64, ()])
def test_sizes_that_do_not_exist(small, size):
    for call in (lambda: small(PROMPTS[0], caption=CAPTION, size=size), lambda: small.stream(CAPTION, size=size)):
        with pytest.raises(ValueError, match="multiples of 16"): call()
    with pytest.raises(ValueError, match="multiples of 16"): tiny_pipe(size=size)


@pytest.mark.parametrize("setting",
                         [dict(shift=0), dict(shift=float("nan")), dict(shift="3"), dict(prompt_style="x"),
                          dict(guidance=-1),
                                     dict(context_pixels="int8"), dict(context_time=None), dict(teacher_steps=2.5),
                                     dict(guide_above=2),
                                     dict(negative_prompt=None), dict(teacher_steps=0),
                                     dict(history_guidance=float("inf"))])
def test_settings_that_do_not_exist(setting):
    with pytest.raises(InputError, match=next(iter(setting))): tiny_pipe(**setting)


def test_parts_of_other_pipelines(small):
    wrong = dict(vae=ToyVAE(z_dim=5, dims=(8, 8, 8)), text_encoder=toy_text_encoder(200, 24),
                 teacher=ShotTransformer(**TRANSFORMER | dict(text_dim=9)))
    for name, part in wrong.items():
        with pytest.raises(InputError, match="belong to different pipelines"): tiny_pipe(**{name: part})
    with pytest.raises(InputError, match="the text encoder knows 20"): tiny_pipe(text_encoder=toy_text_encoder(20, 16))


def test_a_stream_opened_in_inference_mode_goes_on_outside(small):
    with torch.inference_mode():
        stream = small.stream(CAPTION, size=(16, 32))
        stream.next_shot(PROMPTS[0], latents=2)
        assert len(list(stream)) == 2
    stream.next_shot(PROMPTS[1], latents=2)
    assert len(list(stream)) == 2


@pytest.mark.parametrize("twice, words", [(dict(height=16), "size"), (dict(num_inference_steps=3, steps=4), "steps"),
                                          (dict(teacher=True, guidance=2., guidance_scale=3.), "guidance")])
def test_nothing_is_said_twice(small, twice, words):
    with pytest.raises(InputError, match=words): frames(small, **{"size": (32, 16)} | twice)


def test_stories_made_by_hand_are_checked_too(small):
    "A `Script` that never went through a file"
    from shotstream.data.script import Script, ShotPrompt, StoryError
    for n in (10, 0, 2.5, "9", 85, True):
        with pytest.raises(StoryError, match="frames"):
            small(Script(CAPTION, (ShotPrompt(PROMPTS[0], n),)), size=(16, 32))


# What their mixins check, and where it is checked here

def test_no_hidden_arguments_and_attributes(made):
    "A constructor takes no `**kwargs` that nobody reads; a config's values are the config's"
    model, _ = made
    assert "kwargs" not in inspect.signature(type(model).__init__).parameters and not model._deprecated_kwargs
    model.register_to_config(another=5)
    with pytest.warns(FutureWarning): assert model.another == 5


def test_files_are_read_side_by_side(made, tmp_path, monkeypatch):
    from diffusers.models import modeling_utils
    model, inputs = made
    model.save_pretrained(tmp_path, max_shard_size="3KB")
    monkeypatch.setattr(modeling_utils, "HF_ENABLE_PARALLEL_LOADING", True)
    assert torch.equal(run(type(model).from_pretrained(tmp_path), inputs), run(model, inputs))


def test_an_adapter_that_is_not_there(shot, tmp_path):
    model, _ = shot
    with_lora(model)
    with pytest.raises(ValueError, match="nobody"): model.save_lora_adapter(tmp_path, adapter_name="nobody")
    assert not [*tmp_path.iterdir()]


SAVED, TYPES, CONFIG = "saved_and_loaded", "loaded_in_a_number_type", "a_config_makes_the_same_model"
LORA, GROUP, PIPE_OFF = "lora_saved_and_loaded", "group_offloading", "pipeline_offloaded"
# their check, without "test_" -> our test, without "test_"; or, after a "-", why it is none for us
MODEL_CHECKS = dict(
    from_save_pretrained=SAVED, from_save_pretrained_variant=SAVED, sharded_checkpoints=SAVED,
    sharded_checkpoints_with_variant=SAVED, variant_sharded_ckpt_right_format=SAVED,
    sharded_checkpoints_with_parallel_loading="files_are_read_side_by_side", from_save_pretrained_dtype=TYPES,
    from_save_pretrained_dtype_inference=TYPES, keep_in_fp32_modules="exact_modules_stay_exact",
    model_from_config=CONFIG, getattr_is_correct="no_hidden_arguments_and_attributes",
    deprecated_kwargs="no_hidden_arguments_and_attributes", weight_overwrite="other_sizes_only_when_asked",
    determinism="twice_the_same_and_of_the_right_shape", output="twice_the_same_and_of_the_right_shape",
    outputs_equivalence="tuple_and_output_agree", forward_signature="tuple_and_output_agree",
    training="training_and_ema", ema_training="training_and_ema",
    enable_disable_gradient_checkpointing="gradient_checkpointing",
    effective_gradient_checkpointing="gradient_checkpointing",
    gradient_checkpointing_is_applied="gradient_checkpointing", mixed_precision_training="layerwise_casting_trains",
    cpu_offload="offloaded_by_accelerate", disk_offload_with_safetensors="offloaded_by_accelerate",
    disk_offload_without_safetensors="offloaded_by_accelerate", group_offloading=GROUP,
    group_offloading_with_layerwise_casting=GROUP, group_offloading_with_disk=GROUP,
    layerwise_casting_inference="layerwise_casting", layerwise_casting_training="layerwise_casting_trains",
    torch_compile_repeated_blocks="repeated_blocks_are_compiled",
    torch_compile_recompilation_and_graph_break="repeated_blocks_are_compiled",
    compile_on_different_shapes="a_compiled_block_may_have_many_versions",
    set_attn_processor_for_determinism="attention_processors", attention_backends="attention_backends",
    save_load_lora_adapter=LORA, lora_adapter_metadata_is_loaded_correctly=LORA,
    lora_adapter_wrong_metadata_raises_error="lora_that_does_not_fit",
    lora_wrong_adapter_name_raises_error="an_adapter_that_is_not_there",
    from_single_file="single_files_have_their_own_reader",
    compile_with_group_offloading="", fuse_unfuse_qkv_projections="",
    layerwise_casting_memory="- memory of a GPU", model_parallelism="- two GPUs", context_parallel="- several GPUs",
    sharded_checkpoints_device_map="- two GPUs", wrong_device_map_string="- device_map is refused by name",
    passing_dict_device_map_works="- device_map is refused by name", push_to_hub="- the hub",
    local_files_only_with_sharded_checkpoint="- the hub", set_xformers_attn_processor="- xformers is refused by name",
    auto_model="- diffusers does not know the names of our classes", quantization="- GPU libraries",
    ip_adapter="- no image conditioning")
PIPELINE_CHECKS = dict(
    save_load_local="pipeline_saved_and_loaded", save_load_optional_components="pipeline_with_optional_parts_missing",
    pipeline_call_signature="pipeline_call_signature", dict_tuple_outputs_equivalent="pipeline_output_types",
    components_function="pipeline_components_are_shared", save_load_float16="pipeline_variant_and_number_type",
    serialization_with_variants="pipeline_variant_and_number_type",
    loading_with_variants="pipeline_variant_and_number_type", torch_dtype_dict="pipeline_number_types_by_part",
    loading_with_incorrect_variants_raises_error="pipeline_variant_and_number_type",
    to_device="pipeline_to_and_number_type", to_dtype="pipeline_to_and_number_type",
    callback_inputs="pipeline_steps_and_callback", callback_cfg="pipeline_steps_and_callback",
    cfg="pipeline_guidance", model_cpu_offload_forward_pass=PIPE_OFF, cpu_offload_forward_pass_twice=PIPE_OFF,
    sequential_cpu_offload_forward_pass=PIPE_OFF, sequential_offload_forward_pass_twice=PIPE_OFF,
    group_offloading_inference=PIPE_OFF, pipeline_level_group_offloading_inference=PIPE_OFF,
    attention_slicing_forward_pass="pipeline_refuses_by_name", xformers_attention="pipeline_refuses_by_name",
    pipeline_with_accelerator_device_map="pipeline_refuses_by_name", layerwise_casting_inference="layerwise_casting",
    encode_prompt_works_in_isolation="- every shot reads its own prompt: embeddings are no argument",
    pyramid_attention_broadcast="caches_that_skip_steps_refuse", faster_cache="caches_that_skip_steps_refuse",
    first_block_cache="caches_that_skip_steps_refuse",
    inference_batch_consistent="- a list of prompts is one story, not a batch",
    inference_batch_single_identical="- a list of prompts is one story, not a batch",
    num_images_per_prompt="- one film for a story", float16_inference="- float16 needs a GPU",
    freeu="- no UNet", save_load_dduf="- the hub's own file format", push_to_hub="- the hub")


def test_their_checks_are_here():
    "Every check that applies names a test; 95 of 100 have one"
    checks = [*MODEL_CHECKS.values(), *PIPELINE_CHECKS.values()]
    apply = [ours for ours in checks if not ours.startswith("-")]
    assert [ours for ours in apply if ours and f"test_{ours}" not in globals()] == []
    covered = sum(map(bool, apply))
    assert len(apply) >= 70 and covered >= .95*len(apply), f"{covered} of {len(apply)}, {len(checks)} in all"
