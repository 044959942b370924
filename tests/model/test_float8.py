"""One byte per number: a scale per row, what is rounded, and what is not."""
import pytest
import torch
from tiny import network
from torch import nn

from shotstream.model.float8 import Float8Linear, fp8_linears, supports_scaled_mm, to_float8
from shotstream.model.files import InputError
from shotstream.model.frame_table import next_shot_table
from shotstream.train.stages import add_lora

CPU = torch.device("cpu")


def test_every_row_has_its_own_scale():
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))*torch.tensor([[1e-3], [1.], [1e4], [0.]])
    bytes_, scale = to_float8(x)
    assert bytes_.dtype == torch.float8_e4m3fn and scale.shape == (4, 1)
    assert bytes_.float().abs().amax(1).tolist() == [448.]*3 + [0.]
    error = (bytes_.float()*scale - x).abs()
    # three bits behind the point: half a step is a sixteenth; near zero the smallest number that a byte holds
    assert (error <= x.abs()/16 + scale*2**-10).all() and not error[3].any()
    assert to_float8(x.bfloat16())[1].dtype == torch.float32


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_the_product_of_what_was_rounded(bias):
    torch.manual_seed(0)
    linear = nn.Linear(24, 10, bias=bias)
    linear.weight.data *= torch.logspace(-3, 2, 10)[:, None]
    layer, x = Float8Linear(linear), torch.randn(2, 3, 24)*torch.tensor([1e-2, 1., 50.])[:, None]
    def rounded(t):
        bytes_, scale = to_float8(t.flatten(0, -2))
        return (bytes_.float()*scale).reshape(t.shape)
    expected = rounded(x) @ rounded(linear.weight.detach()).T + (linear.bias if bias else 0)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    # a sixteenth on either side
    assert ((layer(x) - linear(x)).abs() < (x.abs() @ linear.weight.abs().T)/7).all() and layer(x).shape == (2, 3, 10)
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_bytes_stay_bytes():
    layer = Float8Linear(nn.Linear(16, 16))
    before = layer.weight.clone()
    layer.to(torch.bfloat16)
    assert layer.weight.dtype == torch.uint8 and torch.equal(layer.weight, before)
    assert sum(b.numel()*b.element_size() for b in layer.buffers()) == 16*16 + 16*2
    assert not [n for n, _ in layer.named_parameters() if n != "bias"] and layer.one_way
    assert not supports_scaled_mm(CPU)


@torch.no_grad()
def test_all_linear_layers_of_the_blocks_and_no_other():
    model = network(0)
    x, text, table = torch.randn(1, 4, 9, 4, 4), torch.randn(1, 2, 5, 12), next_shot_table([0]*6, 3, 1)
    before = model(x, None, text, table=table).sample
    assert fp8_linears(model) is model
    inside = {n for n, m in model.named_modules() if isinstance(m, Float8Linear)}
    assert len(inside) == 2*10 and all(n.startswith("blocks.") for n in inside)
    outside = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    assert outside and not any(n.startswith("blocks.") for n in outside)
    after = model(x, None, text, table=table).sample
    assert 1e-4 < (after - before).norm()/before.norm() < .1


def test_a_lora_would_be_rounded_too():
    model = network(0)
    add_lora(model, 2)
    with pytest.raises(InputError, match="LoRA"): fp8_linears(model)
