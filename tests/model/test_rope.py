"""Rotary positions against Wan's, the formula of the cut token by token, and complex numbers."""
import math

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

from shotstream.model.frame_table import next_shot_table, single_shot_table
from shotstream.model.rope import (
    exact_type, rope_freqs, rope_similarity, rotate, split_axes, temporal_angles, video_angles)



def close(a, b, tolerance=1e-6):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=tolerance, rtol=0, check_dtype=False)


@pytest.mark.parametrize("head_dim, axes", [(128, (44, 42, 42)), (32, (12, 10, 10)), (16, (8, 4, 4))])
def test_plain_positions_are_wans(head_dim, axes):
    assert split_axes(head_dim) == axes
    f, h, w = 7, 4, 5
    theirs = WanRotaryPosEmbed(head_dim, (1, 2, 2), 64)(torch.zeros(1, 16, f, 2*h, 2*w))
    table = single_shot_table(2, f)
    for ours, their in zip(video_angles(table.position, table.shot, h, w, head_dim), theirs):
        assert ours.shape == (2, f*h*w, 1, head_dim//2)
        close(ours, their[..., ::2].expand_as(ours))


def test_phase_formula_on_every_token():
    position, shot = torch.tensor([[0, 1, 5], [3, 4, 9]]), torch.tensor([[0, 0, 2], [1, 3, 3]])
    h, w, phi, gap = 2, 3, .4, 1.5
    cos, sin = video_angles(position, shot, h, w, 32, phi, gap)
    for b in range(2):
        for f in range(3):
            for y in range(h):
                for x in range(w):
                    p, k = position[b, f].item(), shot[b, f].item()
                    angle = [(p + gap*k)*10_000**(-2*j/12) + k*phi for j in range(6)]
                    angle += [place*10_000**(-2*j/10) for place in (y, x) for j in range(5)]
                    token = f*h*w + y*w + x
                    close(cos[b, token, 0], [math.cos(a) for a in angle])
                    close(sin[b, token, 0], [math.sin(a) for a in angle])


def test_published_jump_is_a_sixth_on_22_clocks():
    table = next_shot_table([0, 0, 1, 1, 2, 2], 21, shot=3)
    jump = temporal_angles(table.position, table.shot, 44) - temporal_angles(table.position, table.shot, 44, phi=0)
    assert jump.shape == (1, 27, 22)
    close(jump, (table.shot.double()/6)[..., None].expand_as(jump), 1e-12)
    close((1/6)/rope_freqs(44)[[0, -1]], [.1667, 1097], .5)
    with pytest.raises(ValueError, match="even number"): rope_freqs(5)


def test_scores_see_only_differences():
    torch.manual_seed(2)
    q, k = torch.randn(1, 9, 2, 12), torch.randn(1, 9, 2, 12)
    position, shot = torch.arange(9), torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2])
    def scores(position, shot, phi=1/6):
        angles = temporal_angles(position, shot, 12, phi)[None, :, None].float()
        q_, k_ = (rotate(x, angles.cos(), angles.sin()) for x in (q, k))
        return torch.einsum("bqhd,bkhd->bhqk", q_, k_)
    plain = scores(position, shot)
    close(scores(position+5, shot+2), plain, 1e-4)
    close(scores(position, shot, 2*math.pi), scores(position, shot, 0), 1e-4)
    assert (plain - scores(position, shot, 0)).abs().max() > .1
    ones = torch.ones(1, 9, 1, 44)
    angles = temporal_angles(position, shot, 44)[None, :, None]
    hands = rotate(ones, angles.cos(), angles.sin())[0, :, 0]
    close(hands @ hands.T/44, rope_similarity(position, shot), 1e-5)


def test_rotation_keeps_length_and_type():
    x, angle = torch.randn(2, 5, 3, 8), torch.randn(1, 5, 1, 4)
    close(rotate(x, angle.cos(), angle.sin()).norm(dim=-1), x.norm(dim=-1), 1e-5)
    assert rotate(x.bfloat16(), angle.cos(), angle.sin()).dtype == torch.bfloat16
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())*torch.polar(torch.ones_like(angle), angle)
    close(rotate(x, angle.cos(), angle.sin()), torch.view_as_real(z).flatten(-2), 1e-5)


def test_similarity_knows_jump_and_gap():
    position, shot = torch.arange(4), torch.tensor([0, 0, 1, 2])
    for phi, gap in ((.4, 0.), (0., 2.5), (.4, 2.5)):
        angles = temporal_angles(position, shot, 12, phi, gap)
        expected = torch.tensor([[(a - b).cos().mean() for b in angles] for a in angles])
        close(rope_similarity(position, shot, 12, phi, gap), expected)
    still = rope_similarity(torch.zeros(3), torch.tensor([0, 0, 1]), 12, .5)
    close(still, torch.tensor([[1, 1, math.cos(.5)], [1, 1, math.cos(.5)], [math.cos(.5), math.cos(.5), 1]]))


def test_clocks_from_fast_to_slow():
    close(rope_freqs(6, base=8.), [1., .5, .25])
    assert exact_type() == exact_type("cpu") == torch.float64 and exact_type("meta") == torch.float32
    assert rope_freqs(4, device="meta").device.type == "meta"
