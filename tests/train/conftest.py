"""What tests of losses ask: three small networks, a shot, and a negative prompt."""
import pytest
import torch
from tiny import network, tiny_shot


@pytest.fixture(scope="module")
def models(): return [network(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def shot(): return tiny_shot()


@pytest.fixture(scope="module")
def negative(): return torch.randn(1, 1, 5, 12, generator=torch.Generator().manual_seed(8))
