"""Wan's codec behind the toy's interface: normalised, latent by latent, laid out for GPUs, always the same frames."""
import pytest
import torch
from diffusers import AutoencoderKLWan

from shotstream.model.files import InputError
from shotstream.model.pixels import VideoStream
from shotstream.model.wan_vae import PadsInside, WanCausalConv3d, WanVAE, tiny_wan_vae


def close(a, b, tolerance=1e-5): torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def vae():
    vae = tiny_wan_vae(4).requires_grad_(False)
    for p in vae.parameters(): p += .05*torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    return vae


@pytest.fixture(scope="module")
def stock(vae):
    stock = AutoencoderKLWan.from_config(vae.config).eval()
    stock.load_state_dict(vae.state_dict())
    return stock


@pytest.fixture(scope="module")
def z(): return torch.randn(2, 4, 4, 2, 3, generator=torch.Generator().manual_seed(1))


def statistics(vae):
    return (torch.tensor(c)[:, None, None, None] for c in (vae.config.latents_mean, vae.config.latents_std))


@torch.no_grad()
def test_latents_are_normalised_on_both_ways(vae, stock, z):
    mean, std = statistics(vae)
    assert mean.any() and (std != 1).any()
    video = torch.rand(1, 3, 5, 16, 24, generator=torch.Generator().manual_seed(2))*2 - 1
    latents = vae.encode(video).latent_dist.mode()
    close(latents, (stock.encode(video).latent_dist.mode() - mean)/std)
    assert torch.equal(vae.encode(video, return_dict=False)[0].mode(), latents) and latents.shape == (1, 4, 2, 2, 3)
    close(vae.decode(z).sample, stock.decode(z*std + mean).sample)
    assert torch.equal(vae.decode(z, return_dict=False)[0], vae.decode(z).sample)
    for dtype in (torch.float64, torch.float32): assert vae._scale(z.to(dtype))[0].dtype == dtype


@torch.no_grad()
@pytest.mark.parametrize("parts", [[1, 1, 1, 1], [1, 3], [3, 1], [4]])
def test_latent_by_latent_is_all_at_once(vae, z, parts):
    whole, stream = vae.decode(z).sample, VideoStream(vae)
    assert (whole.min(), whole.max()) >= (-1, -1) and whole.max() <= 1
    films = [stream(part) for part in z.split(parts, 2)]
    assert [f.shape[2] for f in films] == [4*n - 3*(i == 0) for i, n in enumerate(parts)]
    close(torch.cat(films, 2), whole)
    close(VideoStream(vae)(z), whole)                                         # a new stream remembers nothing


@torch.no_grad()
def test_padding_inside_and_other_layouts_change_nothing(vae, z):
    other = tiny_wan_vae(4)
    other.load_state_dict(vae.state_dict())
    names, seen = list(other.state_dict()), []
    assert other.fuse_padding() is other and other.channels_last() is other and list(other.state_dict()) == names
    causal = [m for m in other.modules() if isinstance(m, WanCausalConv3d)]
    assert len(causal) > 10 and {type(m) for m in causal} == {PadsInside}
    for p in other.parameters():
        if p.ndim == 5: seen.append(p.is_contiguous(memory_format=torch.channels_last_3d))
        if p.ndim == 4: seen.append(p.is_contiguous(memory_format=torch.channels_last))
    assert len(seen) > 10 and all(seen)
    close(other.decode(z).sample, vae.decode(z).sample)
    stream = VideoStream(other)
    close(torch.cat([stream(part) for part in z.split(1, 2)], 2), vae.decode(z).sample)
    video = torch.randn(1, 3, 5, 16, 24, generator=torch.Generator().manual_seed(3)).tanh()
    close(other.encode(video).latent_dist.mode(), vae.encode(video).latent_dist.mode())


@torch.no_grad()
@pytest.mark.parametrize("remembered", [None, 1, 2])
def test_a_convolution_that_is_not_square(remembered):
    "Height is not width; of what is remembered so much less is padded in front"
    conv = WanCausalConv3d(2, 3, (3, 3, 1), padding=(1, 1, 0))
    x, memory = torch.randn(1, 2, 4, 5, 6), None if remembered is None else torch.randn(1, 2, remembered, 5, 6)
    expected = conv(x, memory)
    conv.__class__ = PadsInside
    close(conv(x, memory), expected)
    assert expected.shape == (1, 3, 4, 5, 6)


def test_random_but_the_same_and_nobody_notices():
    before = torch.random.get_rng_state()
    a, b, c = tiny_wan_vae(4), tiny_wan_vae(4), tiny_wan_vae(4, seed=1)
    assert torch.equal(before, torch.random.get_rng_state()) and not a.training and a.config.z_dim == 4
    one, two, three = (m.decoder.conv_in.weight for m in (a, b, c))
    assert torch.equal(one, two) and not torch.equal(one, three)


def test_what_a_stream_cannot_do(z):
    vae = tiny_wan_vae(4)
    vae.enable_tiling()
    with pytest.raises(InputError, match="tiling"): VideoStream(vae)(z)
    vae.disable_tiling()
    vae.register_to_config(patch_size=2)
    with pytest.raises(ValueError, match="Wan2.1"): VideoStream(vae)(z)


@pytest.mark.parametrize("config, said", [
    (dict(z_dim=0), "z_dim"), (dict(base_dim=4097), "base_dim"), (dict(num_res_blocks=True), "num_res_blocks"),
    (dict(dim_mult=3), "dim_mult"), (dict(dim_mult=[1]*17), "dim_mult"),
    (dict(z_dim=2, latents_mean=[0.]), "latents_mean"),
    (dict(latents_std=[1.]*15 + [0.]), "latents_std"), (dict(latents_mean=[float("nan")]*16), "latents_mean"),
    (dict(z_dim=1, latents_std=[2e3]), "latents_std")])
def test_a_config_that_cannot_be(config, said):
    with pytest.raises(InputError, match=said): WanVAE.check_config(config)
    WanVAE.check_config(dict(z_dim=2, latents_mean=[-1., 1.], latents_std=(.1, 2.), dim_mult=[1, 2]))
