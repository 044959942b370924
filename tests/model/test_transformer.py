"""The transformer is Wan's, to rounding, until a frame table asks for more; and then it does what the table says."""
from collections import Counter
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from accelerate import cpu_offload
from diffusers import WanTransformer3DModel, __version__ as DIFFUSERS
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformerBlock
from packaging.version import Version

from shotstream.model.kv_cache import KVCache, StaticKVCache
from shotstream.model.files import InputError
from shotstream.model.frame_table import next_shot_table, bidirectional_mask, causal_mask, stack_stories
from shotstream.model.transformer import (
    ShotAttnProcessor, ShotBlock, ShotTransformer, attend, cpu_options, cross_attention, patchify, unpatchify)

CONFIG = dict(num_attention_heads=3, attention_head_dim=16, in_channels=5, out_channels=5, text_dim=20, freq_dim=32,
              ffn_dim=40, num_layers=2)
B, F, H, W, L = 2, 9, 4, 6, 7   # stories, frames, latent height and width, words per caption


def pair(**changes):
    "Wan and ours with the same weights, none of them at its starting value"
    torch.manual_seed(0)
    wan = WanTransformer3DModel(**CONFIG | changes).eval().requires_grad_(False)
    for p in wan.parameters(): p += .05*torch.randn_like(p)
    ours = ShotTransformer(**CONFIG | changes).eval().requires_grad_(False)
    ours.load_state_dict(wan.state_dict(), strict=True)
    return wan, ours


def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def differs(a, b): return (a - b).abs().max() > 1e-4


@pytest.fixture(scope="module")
def models(): return pair()


@pytest.fixture
def inputs(models):
    "Latents, three captions per story, and a table: one story with three shots, one with two"
    torch.manual_seed(1)
    table = stack_stories(next_shot_table([0, 0, 1, 1], 5, shot=2, sigma=.7),
                          next_shot_table([0]*4, 5, shot=1, sigma=.3))
    return torch.randn(B, 5, F, H, W), torch.randn(B, 3, L, 20), table


@pytest.mark.parametrize("patch", [(1, 2, 2), (1, 1, 1), (1, 1, 3), (1, 4, 2), (1, 2, 6)])
def test_equals_wan(patch, inputs):
    wan, ours = pair(patch_size=patch)
    x, text, _ = inputs
    for t in (torch.tensor([300., 700.]), torch.tensor([0., 1000.])):
        close(ours(x, t, text[:, 0]).sample, wan(x, t, text[:, 0]).sample)
    per_frame = torch.rand(B, F)*1000
    per_token = per_frame.repeat_interleave(H*W//(patch[1]*patch[2]), 1)
    expected = wan(x, per_token, text[:, 0]).sample
    close(ours(x, per_token, text[:, 0]).sample, expected)
    close(ours(x, per_frame, text[:, 0]).sample, expected)
    close(ours(x, per_frame, text[:, 0], return_dict=False)[0], expected)


def test_equals_wan_without_cross_norm(inputs):
    wan, ours = pair(cross_attn_norm=False)
    x, text, _ = inputs
    close(ours(x, torch.tensor([300., 700.]), text[:, 0]).sample, wan(x, torch.tensor([300., 700.]), text[:, 0]).sample)


def test_equals_wan_in_bfloat16(inputs):
    wan, ours = (m.to(torch.bfloat16) for m in pair())
    x, text, _ = inputs
    x, text, t = x.bfloat16(), text.bfloat16(), torch.tensor([300., 700.])
    expected = wan(x, t, text[:, 0]).sample
    got = ours(x, t, text[:, 0]).sample
    assert got.dtype == torch.bfloat16
    assert (got - expected).abs().max() <= .02*expected.abs().max()


def test_strict_state_dict_and_folder(models, tmp_path, inputs):
    wan, ours = models
    assert list(ours.state_dict()) == list(wan.state_dict())
    x, text, _ = inputs
    wan.save_pretrained(tmp_path)
    again = ShotTransformer.from_pretrained(tmp_path).eval()
    assert type(again) is ShotTransformer
    close(again(x, torch.tensor([5., 50.]), text[:, 0]).sample, wan(x, torch.tensor([5., 50.]), text[:, 0]).sample)


@pytest.mark.parametrize("patch", [(1, 1, 2), (1, 2, 3), (1, 4, 1)])
def test_patches_there_and_back(patch):
    x = torch.randn(B, 3, F, 8, 12)
    size = 3*patch[1]*patch[2]
    embed = torch.nn.Conv3d(3, size, patch, patch, bias=False)
    # keeps the pixels as they are
    embed.weight.data = torch.eye(size).view(patch[1], patch[2], 3, size).permute(3, 2, 0, 1)[:, :, None]
    close(unpatchify(patchify(embed, x), patch), x)


def test_batch_equals_single_runs(models, inputs):
    _, ours = models
    x, text, table = inputs
    together = ours(x, None, text, table=table).sample
    for i in range(B):
        alone = replace(table, **{name: getattr(table, name)[i:i+1] for name in vars(table)})
        s = int(alone.caption.max()) + 1
        close(together[i:i+1], ours(x[i:i+1], None, text[i:i+1, :s], table=alone).sample)


def test_time_comes_from_the_table(models, inputs):
    _, ours = models
    x, text, table = inputs
    out = ours(x, None, text, table=table).sample
    close(ours(x, table.sigma*1000, text, table=table).sample, out)
    # one time for all is not the same
    assert differs(ours(x, torch.tensor([700., 300.]), text, table=table).sample[:, :, :4], out[:, :, :4])
    assert differs(ours(x, None, text, table=table.at(.5)).sample, out)


def moved_by(model, x, text, table, attention_mask):
    "(f, f): does output i move when frame j is changed?"
    run = lambda x: model(x, None, text, table=table, attention_mask=attention_mask).sample
    before, columns = run(x), []
    for j in range(x.shape[2]):
        other = x.clone()
        other[:, :, j] = 0
        columns.append((run(other) - before).abs().amax((0, 1, 3, 4)) > 1e-6)
    return torch.stack(columns, 1)


@pytest.mark.parametrize("shots, latents, window, sink", [([0, 0, 1, 1], 5, None, 0), ([], 7, None, 0),
                                                          ([0, 1], 7, 2, 0), ([0], 6, 1, 1)])
def test_mask_keeps_its_promise(models, shots, latents, window, sink):
    _, ours = models
    torch.manual_seed(2)
    table = next_shot_table(shots, latents, shot=2, sigma=.5, chunk=1 if window else 3)
    x, text = torch.randn(1, 5, len(table), H, W), torch.randn(1, 3, L, 20)
    attention_mask = causal_mask(table, table, window, sink)
    looks = attention_mask[0].float()
    # two blocks, two denoising steps
    assert torch.equal(moved_by(ours, x, text, table, attention_mask), looks @ looks > 0)
    if window is None: assert torch.equal(looks @ looks > 0, attention_mask[0])
    assert moved_by(ours, x, text, table, None).all()
    everybody = bidirectional_mask(table, table)
    close(ours(x, None, text, table=table, attention_mask=everybody).sample, ours(x, None, text, table=table).sample)


def test_context_can_be_computed_first(models, inputs):
    _, ours = models
    x, text, table = inputs
    alone = ours(x[:, :, :4], None, text, table=table[:4]).sample
    close(ours(x, None, text, table=table, attention_mask=causal_mask(table, table)).sample[:, :, :4], alone)


def test_captions_are_routed_by_frame(models, inputs):
    wan, ours = models
    _, text, table = inputs
    attn, x, words = wan.blocks[0].attn2, torch.randn(B, F, 6, 48), wan.condition_embedder.text_embedder(text)
    read = lambda i, j: attn(x[i, j][None], words[i, table.caption[i, j]][None])[0]
    expected = torch.stack([torch.stack([read(i, j) for j in range(F)]) for i in range(B)])
    close(cross_attention(attn, x, words, table.caption), expected)


def test_caption_numbers_are_only_addresses(models, inputs):
    _, ours = models
    x, text, table = inputs
    out, order = ours(x, None, text, table=table).sample, torch.tensor([2, 0, 1])
    close(ours(x, None, text[:, order], table=replace(table, caption=order.argsort()[table.caption])).sample, out)
    assert differs(ours(x, None, text[:, order], table=table).sample, out)
    unread = text.clone()
    unread[1, 2] += 1  # the second story has no third shot
    close(ours(x, None, unread, table=table).sample, out)


def test_phi_is_felt_at_cuts_only(models, inputs):
    _, ours = models
    x, text, table = inputs
    run = lambda table, phi: ours(x, None, text, table=table, phi=phi).sample
    assert differs(run(table, 0.), run(table, 1/6))
    one = replace(table, shot=torch.full_like(table.shot, 3))
    close(run(one, 0.), run(one, 1/6))
    close(run(replace(table, shot=table.shot+2), 1/6), run(table, 1/6))
    close(run(replace(table, position=table.position+5), 1/6), run(table, 1/6))


def test_gradient_checkpointing_changes_nothing(inputs):
    _, ours = pair()
    ours.requires_grad_(True)
    x, text, table = inputs
    grads = []
    for checkpointing in (False, True):
        if checkpointing: ours.enable_gradient_checkpointing()
        ours.zero_grad()
        ours(x, None, text, table=table).sample.pow(2).mean().backward()
        grads.append([p.grad.clone() for p in ours.parameters()])
    assert len(grads[0]) == len(list(pair()[1].parameters())) and all(g.abs().max() > 0 for g in grads[0])
    for a, b in zip(*grads): close(a, b, 1e-6)


@pytest.mark.parametrize("change, says", [
    (dict(table=next_shot_table([0], 8, 1)), "frame table has shape (1, 9)"),
    (dict(encoder_hidden_states=torch.zeros(1, 3, L, 20)), "captions for 1 stories"),
    (dict(encoder_hidden_states=torch.zeros(B, 2, L, 20)), "reads caption 2"),
    (dict(encoder_hidden_states=None), "give a caption"),
    (dict(hidden_states=torch.zeros(B, 5, F, 3, W)), "cannot be cut"),
    (dict(timestep=torch.zeros(B, 4)), "timestep has shape (2, 4)"),
    (dict(timestep=torch.arange(B*F*6.).view(B, F*6)), "different times"),
    (dict(encoder_hidden_states_image=torch.zeros(1)), "image conditioning"),
    (dict(attention_kwargs={"scale": .5}), "attention_kwargs")])
def test_mistakes_are_explained(models, inputs, change, says):
    x, text, table = inputs
    right = dict(hidden_states=x, encoder_hidden_states=text, table=table)
    with pytest.raises(ValueError) as error: models[1](**right | change)
    assert says in str(error.value)


def three_ways(model, x, text, table):
    "Everything a model can be asked: to answer, to read captions, to fill a memory and look into it"
    first = table[slice(0, 4)], table[slice(4, None)]
    cache = KVCache(len(model.blocks))
    with torch.no_grad():
        words = model.encode_text_kv(text)
        nothing = model(x[:, :, :4], None, words, table=first[0].at(0.), cache=cache, predict=False)
        cache.append()
        more = model(x[:, :, 4:], None, words, table=first[1], cache=cache).sample
        return nothing, model(x, None, text, table=table).sample, more


def same_three(got, expected, tolerance=1e-5):
    assert got[0] is None and expected[0] is None
    for a, b in zip(got[1:], expected[1:]): close(a, b, tolerance)


def test_frames_at_the_front_may_have_no_output(models, inputs):
    _, ours = models
    x, text, table = inputs
    attention_mask = causal_mask(table, table)
    for rule in (None, attention_mask):
        whole = ours(x, None, text, table=table, attention_mask=rule).sample
        close(ours(x, None, text, table=table, attention_mask=rule, num_context=4).sample, whole[:, :, 4:])
    v = ShotTransformer(**CONFIG, prediction_type="v_prediction").eval().requires_grad_(False)
    v.load_state_dict(ours.state_dict())
    close(v(x, None, text, table=table, num_context=4).sample, v(x, None, text, table=table).sample[:, :, 4:])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_output_costs_no_gradient(inputs, checkpointing):
    x, text, table = inputs
    grads = []
    for num_context in (0, 4):
        _, ours = pair()
        ours.requires_grad_(True)
        if checkpointing: ours.enable_gradient_checkpointing()
        ours(x, None, text, table=table, num_context=num_context).sample[:, :, 4-num_context:].pow(2).mean().backward()
        grads.append([p.grad for p in ours.parameters()])
    for a, b in zip(*grads): close(a, b, 1e-6)


def test_at_least_one_frame_has_an_output(models, inputs):
    x, text, table = inputs
    for n in (-1, F):
        with pytest.raises(ValueError, match="at least one frame"): models[1](x, None, text, table=table, num_context=n)


def test_blocks_are_ours_and_start_as_wans():
    torch.manual_seed(0)
    wan = WanTransformer3DModel(**CONFIG)
    torch.manual_seed(0)
    ours = ShotTransformer(**CONFIG)
    assert {type(block) for block in ours.blocks} == {ShotBlock}
    assert {type(block) for block in wan.blocks} == {WanTransformerBlock}
    for (a, x), (b, y) in zip(wan.state_dict().items(), ours.state_dict().items()): assert a == b and torch.equal(x, y)
    torch.manual_seed(0)
    built = ShotBlock(48, 40, 3, cross_attn_norm=True)
    assert list(built.state_dict()) == list(ours.blocks[0].state_dict())


def test_every_module_is_called(inputs):
    "A hook hears each pass through each block, attention and MLP: offloading, sharding and probes hang on that"
    _, ours = pair()
    x, text, table = inputs
    heard = Counter()
    for name, module in ours.named_modules():
        module.register_forward_hook(lambda m, args, out, name=name: heard.update([name]))
    ours(x, None, text, table=table)
    for i in range(2):
        for name in ("", ".attn1", ".attn1.to_q", ".attn1.norm_q", ".attn1.to_out.0", ".attn2", ".attn2.to_k", ".norm2",
                     ".ffn", ".ffn.net.0"):
            assert heard[f"blocks.{i}{name}"] == 1, name
    assert heard[""] == heard["patch_embedding"] == heard["proj_out"] == 1
    heard.clear()
    ours.encode_text_kv(text)
    assert heard[""] == heard["blocks.0"] == heard["blocks.1"] == heard["blocks.1.attn2.to_v"] == 1
    assert not heard["blocks.1.attn1"]
    heard.clear()
    ours(x, None, text, table=table, cache=KVCache(2), predict=False)
    assert heard["blocks.0"] == heard["blocks.1"] == heard["blocks.1.attn1.to_k"] == 1
    assert not heard["blocks.1.attn1.to_q"]


def test_a_hook_may_change_what_a_block_says(inputs):
    _, ours = pair()
    x, text, table = inputs
    before = ours(x, None, text, table=table).sample
    ours.blocks[0].register_forward_hook(lambda block, args, out: 0*out)
    assert differs(ours(x, None, text, table=table).sample, before)


def test_sequential_offload(models, inputs):
    "All weights away until a module is called: what was not called as a module would fail"
    _, ours = pair()
    expected = three_ways(models[1], *inputs)
    cpu_offload(ours, torch.device("cpu"))
    assert ours.blocks[0].attn1.to_q.weight.device.type == "meta"
    same_three(three_ways(ours, *inputs), expected)


@pytest.mark.skipif(not torch.cuda.is_available() and Version(DIFFUSERS) < Version("0.42"),
                    reason="diffusers before 0.42 wants an accelerator even where everything stays on the CPU")
@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_group_offload(models, inputs, level, tmp_path):
    _, ours = pair()
    expected = three_ways(models[1], *inputs)
    cpu, blocks = torch.device("cpu"), 1 if level == "block_level" else None
    ours.enable_group_offload(cpu, cpu, offload_type=level, num_blocks_per_group=blocks,
                              offload_to_disk_path=str(tmp_path))
    same_three(three_ways(ours, *inputs), expected)


def test_layerwise_casting(models, inputs):
    _, ours = pair()
    expected = three_ways(models[1], *inputs)
    ours.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert ours.blocks[0].ffn.net[2].weight.dtype == torch.bfloat16
    same_three(three_ways(ours, *inputs), expected, .05)


@pytest.mark.parametrize("how", ["compile_blocks", "compile_repeated_blocks"])
def test_compiled_blocks_say_the_same(models, inputs, how):
    _, ours = pair()
    x, text, table = inputs
    getattr(ours, how)(backend="eager")
    for model in (ours, deepcopy(ours)) if how == "compile_blocks" else (ours,):
        close(model(x, None, text, table=table).sample, models[1](x, None, text, table=table).sample)


def test_compiled_for_a_cpu_with_its_options(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda f, **options: (asked.append(options), f)[1])
    _, ours = pair()
    ours.compile_blocks()
    ours.compile_blocks(mode="reduce-overhead")
    assert asked == [dict(options=cpu_options()), dict(mode="reduce-overhead")]


def test_hooks_stay_outside_of_compiled_blocks(inputs):
    _, ours = pair()
    ours.compile_blocks(backend="eager", fullgraph=True)
    x, text, table = inputs
    heard = []
    ours.blocks[1].register_forward_hook(lambda block, args, out: heard.append(out))
    ours(x, None, text, table=table)
    assert len(heard) == 1 and heard[0].shape == (B, F, 6, 48)


@pytest.fixture
def own_backend():
    "diffusers keeps the last backend for all models"
    before = _AttentionBackendRegistry._active_backend
    yield
    _AttentionBackendRegistry.set_active_backend(before)


def test_attention_backend_of_diffusers(models, inputs, own_backend, monkeypatch):
    _, ours = pair()
    x, text, table = inputs
    expected = ours(x, None, text, table=table, attention_mask=causal_mask(table, table)).sample
    asked = []
    def dispatch(q, k, v, attn_mask, backend):
        asked.append(backend)
        return attend(*(z.transpose(1, 2) for z in (q, k, v)), attn_mask).transpose(1, 2)
    monkeypatch.setattr("shotstream.model.transformer.dispatch_attention_fn", dispatch)
    ours.set_attention_backend("_native_math")
    close(ours(x, None, text, table=table, attention_mask=causal_mask(table, table)).sample, expected)
    assert asked == ["_native_math"]*4                                          # two blocks, two kinds of attention
    ours.reset_attention_backend()
    close(ours(x, None, text, table=table, attention_mask=causal_mask(table, table)).sample, expected)
    assert len(asked) == 4
    with pytest.raises(ValueError, match="must be one of"): ours.set_attention_backend("fast")


def test_attention_backends_agree(inputs, own_backend):
    _, ours = pair()
    x, text, table = inputs
    for attention_mask in (None, causal_mask(table, table)):
        ours.reset_attention_backend()
        expected = ours(x, None, text, table=table, attention_mask=attention_mask).sample
        ours.set_attention_backend("native")
        close(ours(x, None, text, table=table, attention_mask=attention_mask).sample, expected)


def test_processors_are_exchanged_for_their_like_only(inputs):
    _, ours = pair()
    x, text, table = inputs
    class Silent(ShotAttnProcessor):
        def __call__(self, attn, hidden_states, *args, num_context=0, **kwargs): return 0*hidden_states[:, num_context:]
    before = ours(x, None, text, table=table).sample
    ours.set_attn_processor(Silent())
    assert differs(ours(x, None, text, table=table).sample, before)
    with pytest.raises(ValueError, match="does not know frames"): ours.set_attn_processor(WanAttnProcessor())
    with pytest.raises(ValueError, match="does not know frames"):
        ours.set_attn_processor({name: WanAttnProcessor() for name in ours.attn_processors})


@pytest.mark.parametrize("call", [lambda m: m.enable_parallelism(config=None), lambda m: m.enable_cache(None),
                                  lambda m: m.fuse_qkv_projections()])
def test_what_cannot_work_says_so(models, call):
    with pytest.raises(NotImplementedError, match=" "): call(models[1])


@pytest.mark.parametrize("options", [dict(variant="fp16"), dict(max_shard_size="50KB"), dict(safe_serialization=False)])
def test_saved_and_opened_again(models, inputs, tmp_path, options):
    _, ours = models
    x, text, table = inputs
    ours.save_pretrained(tmp_path, **options)
    how = dict(variant=options.get("variant"), use_safetensors=options.get("safe_serialization", True))
    again = ShotTransformer.from_pretrained(tmp_path, **how).eval()
    close(again(x, None, text, table=table).sample, ours(x, None, text, table=table).sample)
    half = ShotTransformer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16, **how).eval()
    assert half.dtype == torch.bfloat16 and half.blocks[0].scale_shift_table.dtype == torch.float32  # as Wan keeps it
    rounded = half(x, None, text.bfloat16(), table=table).sample
    assert (rounded - ours(x, None, text, table=table).sample).abs().max() < .1


def test_static_memory_under_offload(models, inputs):
    "The preallocated cache writes in place, whatever hooks do around the blocks"
    _, ours = pair()
    x, text, table = inputs
    def run(model):
        cache = StaticKVCache(2, B, 6, 3, 16)
        with torch.no_grad():
            model(x[:, :, :4], None, text, table=table[slice(0, 4)].at(0.), cache=cache, predict=False)
            cache.append()
            return model(x[:, :, 4:], None, text, table=table[slice(4, None)], cache=cache).sample
    expected = run(models[1])
    cpu_offload(ours, torch.device("cpu"))
    close(run(ours), expected)


# attention by name

@pytest.mark.parametrize("name", ["cudnn", "_native_cudnn"])
def test_two_names_of_one_kernel(models, name):
    _, ours = models
    ours.attention = name
    assert ours.attention == "cudnn"
    ours.attention = None
    with pytest.raises(InputError, match="attention: one of cudnn, flash"): ours.attention = "typo"
    assert ours.attention is None


def test_a_kernel_that_cannot_do_it_here(models, inputs):
    _, ours = models
    x, text, table = inputs
    ours.attention = "cudnn"
    try:
        with pytest.raises(InputError, match="no such kernel for these tensors on this device"):
            ours(x, None, text, table=table)
    finally: ours.attention = None


def test_sizes_of_latents_and_captions_are_said(models, inputs):
    _, ours = models
    x, text, table = inputs
    with pytest.raises(ValueError, match=r"latents of 4 dimensions.*\(b, c, f, h, w\)"):
        ours(x[0], None, text, table=table)
    with pytest.raises(ValueError, match="captions of 3 features, this transformer reads"):
        ours(x, None, text[..., :3], table=table)


def test_a_cache_for_another_depth(models, inputs):
    _, ours = models
    x, text, table = inputs
    with pytest.raises(ValueError, match="a cache for 5 layers, this transformer has"):
        ours(x, None, text, table=table, cache=KVCache(5))
