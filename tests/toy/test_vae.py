"""The codec's frames, latents and memory, checked against plain loops; its loss by hand."""
import pytest
import torch

from shotstream.model.files import InputError
from shotstream.model.pixels import VideoStream
from shotstream.toy.vae import (
    ResBlock, ToyVAE, codec_loss, edges, group_frames, psnr, set_statistics, start_from_pca, ungroup_frames)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    vae = ToyVAE(z_dim=4, dims=(8, 16, 8)).eval().requires_grad_(False)
    for p in vae.parameters(): torch.nn.init.normal_(p, std=.1)
    vae.latents_mean.copy_(torch.randn(4))
    vae.latents_std.copy_(torch.rand(4) + .5)
    return vae


def video(n=1, frames=9, h=16, w=24, seed=0):
    return torch.rand(n, 3, frames, h, w, generator=torch.Generator().manual_seed(seed))*2 - 1


def close(a, b, tolerance=1e-5): torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def test_four_frames_are_one_group_and_the_first_stands_for_four():
    v = video(2)
    groups = group_frames(v)
    assert groups.shape == (2, 3, 12, 16, 24)
    for c in range(3):
        for i in range(4):
            close(groups[:, 0, 4*c+i], v[:, c, 0])
            close(groups[:, 2, 4*c+i], v[:, c, 5+i])
    assert torch.equal(ungroup_frames(groups), v) and torch.equal(ungroup_frames(groups[:, 1:], False), v[:, :, 1:])
    for n in (2, 4, 8):
        with pytest.raises(ValueError, match=f"got {n}; drop {(n-1) % 4} frames"): group_frames(v[:, :, :n])


def test_a_block_starts_as_the_identity():
    x, block = torch.randn(1, 8, 4, 4), ResBlock(8)
    assert torch.equal(block(x), x) and block.conv1.weight.any()


def test_a_latent_reads_its_frames_and_the_last_one_before(vae):
    "Changed frame by frame: the first latent reads frame 0; latent k reads frames 4k-4 to 4k"
    before = vae.encode(video()).latent_dist.mode()
    for f in range(9):
        v = video()
        v[:, :, f] += .1
        moved = (vae.encode(v).latent_dist.mode() - before).abs().amax((0, 1, 3, 4)) > 1e-6
        assert moved.tolist() == [f == 0, f <= 4, f >= 4], f


def test_a_frame_reads_its_latent_and_the_one_before(vae):
    z = torch.randn(1, 4, 3, 2, 3)
    before = vae.decode(z).sample
    assert before.shape == (1, 3, 9, 16, 24)
    for k in range(3):
        other = z.clone()
        other[:, :, k] += 1
        moved = (vae.decode(other).sample - before).abs().amax((0, 1, 3, 4)) > 1e-6
        assert moved.tolist() == [k == 0] + [k in (0, 1)]*4 + [k in (1, 2)]*4


def test_nothing_moves_in_a_still(vae):
    "All latents of a film that stands still are alike, the first too; and all frames of a latent that is repeated"
    z = vae.encode(video(frames=1).expand(-1, -1, 9, -1, -1)).latent_dist.mode()
    close(z, z[:, :, :1].expand_as(z))
    film = vae.decode(torch.randn(1, 4, 1, 2, 3).expand(-1, -1, 3, -1, -1)).sample
    close(film[:, :, 1:5], film[:, :, 5:]), close(film[:, :, 0], film[:, :, 4])


def test_latent_and_pixel_place(vae):
    "Eight pixels are one latent, at the same place; nothing is turned"
    v = video()
    before = vae.encoder.linear(group_frames(v).flatten(0, 1))
    v[:, :, :, 8:, 16:] += 1
    moved = (vae.encoder.linear(group_frames(v).flatten(0, 1)) - before).abs().amax((0, 1)) > 1e-5
    assert moved.tolist() == [[False]*3, [False, False, True]]


@pytest.mark.parametrize("parts", [[1, 1, 1, 1], [1, 3], [2, 2]])
def test_a_stream_is_the_whole(vae, parts):
    z, stream = torch.randn(2, 4, 4, 2, 3), VideoStream(vae)
    close(torch.cat([stream(part) for part in z.split(parts, 2)], 2), vae.decode(z).sample)
    assert torch.equal(stream.state, z[:, :, -1])


def test_latents_have_no_mean_and_unit_spread(vae):
    "Measured again and again: it stays"
    for _ in range(2):
        set_statistics(vae, video(3))
        z = vae.encode(video(3)).latent_dist.mode().transpose(0, 1).flatten(1)
        close(z.mean(1), torch.zeros(4), 1e-4), close(z.std(1), torch.ones(4), 1e-4)
    raw = z*vae.latents_std[:, None] + vae.latents_mean[:, None]
    vae.latents_mean.zero_(), vae.latents_std.fill_(1)
    close(vae.encode(video(3)).latent_dist.mode().transpose(0, 1).flatten(1), raw, 1e-4)


def test_a_linear_start_is_the_best_linear_code():
    "Films of four latent numbers come back exactly; a seed turns the code, not the films"
    torch.manual_seed(0)
    basis = torch.randn(4, 12*64)
    codes = torch.randn(2, 4, 2*3, 4)                                         # groups of three films' worth
    groups = (codes.flatten(0, 2) @ basis).reshape(2, 4, 2, 3, 12, 8, 8).permute(0, 1, 4, 2, 5, 3, 6)
    groups = groups.reshape(2, 4, 12, 16, 24)*.02 + .1
    still = groups[:, :1].unflatten(2, (3, 4)).mean(3, keepdim=True).expand(-1, -1, -1, 4, -1, -1).flatten(2, 3)
    films = ungroup_frames(torch.cat([still, groups], 1))
    codes = []
    for seed in (0, 1):
        vae = ToyVAE(z_dim=10, dims=(8, 16, 8)).eval()
        for p in vae.parameters(): torch.nn.init.normal_(p, std=.1)
        start_from_pca(vae, films, seed)
        codes.append(vae.encode(films).latent_dist.mode())
        assert psnr(vae.decode(codes[-1]).sample[:, :, 1:], films[:, :, 1:]) > 30
        close(codes[-1].transpose(0, 1).flatten(1).std(1), torch.ones(10), 1e-3)
    assert (codes[0] - codes[1]).abs().max() > .1


def test_decibels_edges_and_loss_by_hand():
    a, b = torch.zeros(1, 1, 1, 2, 3), torch.tensor([[0., .2, 0.], [0., 0., 0.]])[None, None, None]
    assert psnr(a, b).item() == pytest.approx(-10*torch.tensor(.1**2/6).log10().item(), abs=1e-4)
    assert psnr(torch.ones(1), -torch.ones(1)).item() == 0
    right, down = edges(b[0, 0, 0])
    close(right, torch.tensor([[.2, -.2], [0., 0.]])), close(down, torch.tensor([[0., -.2, 0.]]))
    assert codec_loss(b, a).item() == pytest.approx(.2/6 + .4/4 + .2/3 + 2*.04/6)


def test_tuples_and_names(vae):
    v = video()
    z = vae.encode(v, return_dict=False)[0].mode()
    assert torch.equal(z, vae.encode(v).latent_dist.mode()) and z.shape == (1, 4, 3, 2, 3)
    out = vae(v).sample
    assert torch.equal(out, vae.decode(z, return_dict=False)[0]) and torch.equal(vae(v, return_dict=False)[0], out)


@pytest.mark.parametrize("wrong, said", [(dict(z_dim=0), "z_dim"), (dict(dims=(8, 8)), "dims"), (dict(dims=8), "dims"),
                                         (dict(dims=(8, 8, True)), "dims")])
def test_sizes_that_cannot_be(wrong, said):
    with pytest.raises(InputError, match=said): ToyVAE(**wrong)


def test_rounded_weights_are_not_trained_outside_of_autocast():
    vae = ToyVAE(z_dim=4, dims=(8, 8, 8))
    vae.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    with pytest.raises(NotImplementedError, match="autocast"): vae.encode(video())
    with torch.no_grad(): vae.encode(video())
    with torch.autocast("cpu", torch.bfloat16): vae.encode(video())
    vae.eval().encode(video())
