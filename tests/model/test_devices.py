"""Nothing asks a device for float64: Apple's has none."""
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shotstream.model.flow import bell_weight
from shotstream.model.frame_table import next_shot_table
from shotstream.model.kv_cache import KVCache, StaticKVCache
from shotstream.model.rope import temporal_angles, video_angles
from shotstream.model.transformer import ShotTransformer
from shotstream.model.wan_vae import tiny_wan_vae
from shotstream.toy.vae import ToyVAE


class NoFloat64(TorchDispatchMode):
    "Complains when an operation makes float64 anywhere but on the CPU"
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(out):
            if torch.is_tensor(t) and t.dtype == torch.float64 and t.device.type != "cpu":
                raise AssertionError(f"{function} makes float64")
        return out


def test_the_watch_sees_float64():
    with pytest.raises(AssertionError, match="float64"), NoFloat64(): torch.ones(2, device="meta").double()


@pytest.mark.parametrize("relative", [False, True])
def test_transformer(relative):
    with torch.device("meta"):
        model = ShotTransformer(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
                                text_dim=16,
                                                       freq_dim=16, ffn_dim=24, num_layers=2)
    z, text = torch.zeros(1, 4, 4, 4, 4, device="meta"), torch.zeros(1, 2, 5, 16, device="meta")
    table = next_shot_table([0], 3, 1).to("meta")
    with NoFloat64(), torch.no_grad():
        model(z, None, text, table=table)
        for cache in (KVCache(2, relative=relative),
                      StaticKVCache(2, 1, 4, 2, 12, budget=1, window=3, relative=relative, device="meta")):
            cache.expect(context=True)
            model(z[:, :, :1], None, text, table=table[slice(0, 1)], cache=cache, predict=False)
            cache.append()
            cache.expect(context=False)
            model(z[:, :, 1:], None, text, table=table[slice(1, None)], cache=cache)


@pytest.mark.parametrize("vae", [ToyVAE(z_dim=4, dims=(8, 8, 8)), tiny_wan_vae(4)], ids=["toy", "wan"])
def test_codecs(vae):
    vae = vae.to("meta")
    with NoFloat64(), torch.no_grad():
        z = vae.encode(torch.zeros(1, 3, 5, 16, 16, device="meta")).latent_dist.mode()
        vae.decode_next(z)


def test_angles_and_weights_elsewhere_are_the_cpus():
    "In float32 they are what float64 says, rounded: tried by asking for them as another device would"
    position, shot = torch.arange(40)[None], torch.full((1, 40), 7)
    exact = temporal_angles(position, shot, 44)
    assert exact.dtype == torch.float64
    assert temporal_angles(position.to("meta"), shot.to("meta"), 44).dtype == torch.float32
    assert [t.dtype for t in video_angles(position.to("meta"), shot.to("meta"), 2, 3, 128)] == [torch.float32]*2
    assert bell_weight(torch.rand(3, device="meta")).dtype == torch.float32


def test_angles_in_float32(monkeypatch):
    position, shot = torch.arange(100)[None], torch.arange(100)[None]//20
    exact = video_angles(position, shot, 4, 4, 128)
    monkeypatch.setattr("shotstream.model.rope.exact_type", lambda device=None: torch.float32)
    for a, b in zip(video_angles(position, shot, 4, 4, 128), exact): torch.testing.assert_close(a, b, atol=2e-5, rtol=0)
