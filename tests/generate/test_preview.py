"""The small decoder is the best linear one: where frames are linear in the latents it finds them."""
import pytest
import torch

from shotstream.generate.preview import Preview, coarse, neighbours
from shotstream.model.pixels import to_uint8


def test_a_pixel_and_those_around_it():
    "Zeros outside of the picture, and a 1"
    z = torch.arange(1., 13).reshape(1, 2, 2, 3)
    rows = neighbours(z)
    assert rows.shape == (1, 6, 19) and (rows[..., -1] == 1).all()
    at = lambda c, y, x: z[0, c, y, x].item() if 0 <= y < 2 and 0 <= x < 3 else 0.
    for y in range(2):
        for x in range(3):
            around = [at(c, y+dy, x+dx) for c in range(2) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            assert rows[0, 3*y + x, :-1].tolist() == around
    assert neighbours(z.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("cells", [1, 2, 4, 8])
def test_squares_are_averaged(cells):
    video, n = torch.randn(2, 3, 2, 8, 16), 8//cells
    small = coarse(video, cells)
    assert small.shape == (2, 2, 3, cells, 2*cells)
    for y in range(cells):
        for x in range(2*cells):
            mean = video[1, 2, 1, n*y:n*y+n, n*x:n*x+n].mean()
            torch.testing.assert_close(small[1, 1, 2, y, x], mean)


class Linear:
    "A codec whose frames are linear in a latent pixel and its neighbours: what `Preview` must find"
    def __init__(self, cells):
        g = torch.Generator().manual_seed(0)
        self.maps = {t: .05*torch.randn(9*2 + 1, t, 3, cells, cells, generator=g) for t in (1, 4)}
        self.cells = cells
    def frames(self, z): # (b, 2, f, h, w) -> (b, 1+4(f-1), 8h, 8w, 3) uint8
        b, _, f, h, w = z.shape
        parts = []
        for i in range(f):
            x = neighbours(z[:, :, i]).unflatten(1, (h, w))
            small = torch.einsum("bhwk,ktcyx->bcthywx", x, self.maps[4 if i else 1]).flatten(5, 6).flatten(3, 4)
            parts.append(small)
        big = torch.cat(parts, 2)
        return to_uint8(big.repeat_interleave(8//self.cells, 3).repeat_interleave(8//self.cells, 4))


@pytest.mark.parametrize("cells", [1, 4, 8])
def test_what_is_linear_is_found(cells):
    "Also on latents that were not seen; every frame at its time, every colour and cell at its place"
    codec, g = Linear(cells), torch.Generator().manual_seed(1)
    z, new = torch.randn(3, 2, 5, 4, 6, generator=g), torch.randn(1, 2, 3, 4, 6, generator=g)
    preview = Preview.fit(z, codec.frames(z), cells, ridge=1e-6)
    film = torch.cat([preview(new[:, :, i:i+1], i == 0) for i in range(3)])
    expected = codec.frames(new)[0, :, ::8//cells, ::8//cells]
    assert film.shape == (9, 4*cells, 6*cells, 3) and film.dtype == torch.uint8
    assert (film.int() - expected.int()).abs().max() <= 2 and expected.float().std() > 10


def test_the_ridge_keeps_numbers_small():
    codec, z = Linear(4), torch.randn(1, 2, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    def fit(z, ridge): return Preview.fit(z, codec.frames(z), ridge=ridge).maps[4]
    assert fit(z, 10.).norm() < .5*fit(z, 1e-3).norm()
    # as strong for many films as for one
    torch.testing.assert_close(fit(torch.cat([z, z]), .1), fit(z, .1), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("latents, frames, cells, said", [(3, 9, 3, "1, 2, 4 or 8"), (3, 12, 4, "are 9 frames, got 12"),
                                                          (1, 1, 4, "at least two")])
def test_what_cannot_be_fitted(latents, frames, cells, said):
    film = torch.zeros(1, frames, 16, 16, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=said): Preview.fit(torch.zeros(1, 2, latents, 2, 2), film, cells)
