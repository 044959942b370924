"""The caches' call order; what they hold and show is compared in lesson 14 and where films are."""
import pytest
import torch

from shotstream.model.frame_table import single_shot_table
from shotstream.model.kv_cache import KVCache, StaticKVCache


def test_a_pass_updates_every_block_in_order():
    "A block that was left out would keep keys of an older pass"
    for make in (lambda: KVCache(2), lambda: StaticKVCache(2, 1, 4, 1, 8, budget=1)):
        cache, k = make(), torch.ones(1, 4, 1, 8)
        def run(*layers, cache=cache, k=k):
            cache.begin_step(single_shot_table(1, 1))
            for layer in layers: cache.update(layer, k, k)
            cache.append()
        run(0, 1)
        with pytest.raises(RuntimeError, match=r"update\(1\) before update\(0\)"): run(1)
        with pytest.raises(RuntimeError, match="1 of 2 blocks"): run(0)
        run(0, 0, 1)                                         # a block may be computed again, as checkpointing does
