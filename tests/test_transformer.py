"""The transformer is Wan's, to rounding, until a frame table asks for more; and then it does what the table says."""
from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel

from shotstream.core import next_shot_table, sees_all, sees_past, stack_stories
from shotstream.transformer import ShotTransformer, cross_attention, patchify, unpatchify

CONFIG = dict(num_attention_heads=3, attention_head_dim=16, in_channels=5, out_channels=5, text_dim=20, freq_dim=32, ffn_dim=40, num_layers=2)
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
    table = stack_stories(next_shot_table([0, 0, 1, 1], 5, shot=2, sigma=.7), next_shot_table([0]*4, 5, shot=1, sigma=.3))
    return torch.randn(B, 5, F, H, W), torch.randn(B, 3, L, 20), table


@pytest.mark.parametrize("patch", [(1, 2, 2), (1, 1, 1), (1, 1, 3), (1, 4, 2), (1, 2, 6)])
def test_equals_wan(patch, inputs):
    wan, ours = pair(patch_size=patch)
    x, text, _ = inputs
    for t in (torch.tensor([300., 700.]), torch.tensor([0., 1000.])): close(ours(x, t, text[:, 0]).sample, wan(x, t, text[:, 0]).sample)
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
    embed.weight.data = torch.eye(size).view(patch[1], patch[2], 3, size).permute(3, 2, 0, 1)[:, :, None]   # keeps the pixels as they are
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
    assert differs(ours(x, torch.tensor([700., 300.]), text, table=table).sample[:, :, :4], out[:, :, :4])   # one time for all is not the same
    assert differs(ours(x, None, text, table=table.at(.5)).sample, out)


def moved_by(model, x, text, table, visible):
    "(f, f): does output i move when frame j is changed?"
    run = lambda x: model(x, None, text, table=table, visible=visible).sample
    before, columns = run(x), []
    for j in range(x.shape[2]):
        other = x.clone()
        other[:, :, j] = 0
        columns.append((run(other) - before).abs().amax((0, 1, 3, 4)) > 1e-6)
    return torch.stack(columns, 1)


@pytest.mark.parametrize("shots, latents, window, sink", [([0, 0, 1, 1], 5, None, 0), ([], 7, None, 0), ([0, 1], 7, 2, 0), ([0], 6, 1, 1)])
def test_mask_keeps_its_promise(models, shots, latents, window, sink):
    _, ours = models
    torch.manual_seed(2)
    table = next_shot_table(shots, latents, shot=2, sigma=.5, chunk=1 if window else 3)
    x, text = torch.randn(1, 5, len(table), H, W), torch.randn(1, 3, L, 20)
    visible = sees_past(table, table, window, sink)
    looks = visible[0].float()
    assert torch.equal(moved_by(ours, x, text, table, visible), looks @ looks > 0)      # two blocks, two looks
    if window is None: assert torch.equal(looks @ looks > 0, visible[0])
    assert moved_by(ours, x, text, table, None).all()
    close(ours(x, None, text, table=table, visible=sees_all(table, table)).sample, ours(x, None, text, table=table).sample)


def test_context_can_be_computed_first(models, inputs):
    _, ours = models
    x, text, table = inputs
    alone = ours(x[:, :, :4], None, text, table=table[:4]).sample
    close(ours(x, None, text, table=table, visible=sees_past(table, table)).sample[:, :, :4], alone)


def test_captions_are_routed_by_frame(models, inputs):
    wan, ours = models
    _, text, table = inputs
    attn, x, words = wan.blocks[0].attn2, torch.randn(B, F, 6, 48), wan.condition_embedder.text_embedder(text)
    expected = torch.stack([torch.stack([attn(x[i, j][None], words[i, table.caption[i, j]][None])[0] for j in range(F)]) for i in range(B)])
    close(cross_attention(attn, x, words, table.caption), expected)


def test_caption_numbers_are_only_addresses(models, inputs):
    _, ours = models
    x, text, table = inputs
    out, order = ours(x, None, text, table=table).sample, torch.tensor([2, 0, 1])
    close(ours(x, None, text[:, order], table=replace(table, caption=order.argsort()[table.caption])).sample, out)
    assert differs(ours(x, None, text[:, order], table=table).sample, out)
    unread = text.clone()
    unread[1, 2] += 1                                                                   # the second story has no third shot
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
    (dict(table=next_shot_table([0], 8, 1)), "frame table has shape (1, 9)"), (dict(encoder_hidden_states=torch.zeros(1, 3, L, 20)), "captions for 1 stories"),
    (dict(encoder_hidden_states=torch.zeros(B, 2, L, 20)), "reads caption 2"), (dict(encoder_hidden_states=None), "give a caption"),
    (dict(hidden_states=torch.zeros(B, 5, F, 3, W)), "cannot be cut"), (dict(timestep=torch.zeros(B, 4)), "timestep has shape (2, 4)"),
    (dict(timestep=torch.arange(B*F*6.).view(B, F*6)), "different times"), (dict(encoder_hidden_states_image=torch.zeros(1)), "image conditioning"),
    (dict(attention_kwargs={"scale": .5}), "attention_kwargs")])
def test_mistakes_are_explained(models, inputs, change, says):
    x, text, table = inputs
    with pytest.raises(ValueError) as error: models[1](**dict(hidden_states=x, encoder_hidden_states=text, table=table) | change)
    assert says in str(error.value)
