"""What the stages of training do beside their losses: LoRA, pasts, pairs on disk, straight lines between weights."""
import pytest
import torch
from tiny import SMALL

from shotstream.model.frame_table import next_shot_table
from shotstream.model.transformer import ShotTransformer
from shotstream.train.stages import add_lora, merged, own_history



@pytest.fixture
def small():
    torch.manual_seed(0)
    return ShotTransformer(**SMALL).eval()


def test_lora_can_be_taken_away(small):
    "Added, trained, merged, and subtracted again"
    x, text, table = torch.randn(1, 4, 9, 4, 4), torch.randn(1, 2, 5, 12), next_shot_table([0]*6, 3, 1)
    before, weights = small(x, None, text, table=table).sample, {k: v.clone() for k, v in small.state_dict().items()}
    add_lora(small, 3)
    assert torch.allclose(small(x, None, text, table=table).sample, before, atol=1e-6)
    trained = [n for n, p in small.named_parameters() if p.requires_grad]
    # two matrices for ten linear maps of two blocks
    assert len(trained) == 2*10*2 and all("lora_" in n for n in trained)
    with torch.no_grad():
        for p in small.parameters():
            if p.requires_grad: p += .1*torch.randn_like(p)
    plain = ShotTransformer(**SMALL)
    plain.load_state_dict(merged(small))
    after = small(x, None, text, table=table).sample
    assert torch.allclose(plain(x, None, text, table=table).sample, after, atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-3)
    untouched = {k for k, v in plain.state_dict().items() if torch.equal(v, weights[k])}
    assert len(plain.state_dict()) - len(untouched) == 20


def test_own_past_of_a_first_shot(pipe):
    "Zeros of shot 0 under the new shot's own caption, which is caption 0"
    context, table = own_history(pipe.vae, [], 5, 2, torch.zeros(32, 8, 8))
    assert context.shape == (2, 6, 32, 8, 8) and not context.any()
    assert table.caption.unique().tolist() == [0] and table.shot[0].tolist() == [0]*6 + [1]*5


def test_own_past_of_later_shots(pipe):
    shots = [torch.randn(2, 3, 32, 8, 8) for _ in range(2)]
    context, table = own_history(pipe.vae, shots, 4, 2, shots[0])
    assert context.shape == (2, 6, 32, 8, 8) and table.shot[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert torch.equal(table.caption, table.shot)
