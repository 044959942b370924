"""The strict loader, piece by piece: what each check lets through and what it stops."""
import json

import pytest
import torch
from torch import nn

from shotstream.model.files import InputError, MissingFile
from shotstream.model.weights import (
    align, check_numbers, check_text_config, compare_keys, guess, shards_of, strange_types, unfinite, weight_files)

TEXT = dict(model_type="umt5", layer_norm_epsilon=1e-6)


@pytest.mark.parametrize("name", ["../b.safetensors", "/etc/b.safetensors", "a/b.safetensors", "..", ""])
def test_an_index_stays_in_its_folder(tmp_path, name):
    for folder in (tmp_path, tmp_path/"a", tmp_path/"in"):
        folder.mkdir(exist_ok=True)
        (folder/"b.safetensors").touch()
    index = tmp_path/"in"/"x.safetensors.index.json"
    index.write_text(json.dumps(dict(weight_map={"w": name})))
    with pytest.raises(InputError, match="outside") as e: shards_of(index)
    assert not isinstance(e.value, MissingFile)
    index.write_text(json.dumps(dict(weight_map={"w": "b.safetensors"})))
    assert shards_of(index) == [tmp_path/"in"/"b.safetensors"]
    index.write_text(json.dumps(dict(weight_map={"w": "c.safetensors"})))
    with pytest.raises(MissingFile, match="c.safetensors"): shards_of(index)


@pytest.mark.parametrize("stem, single_first", [("model", True), ("diffusion_pytorch_model", False)])
def test_an_index_beside_a_single_file(tmp_path, stem, single_first):
    "As the libraries choose: transformers takes the single file, diffusers the index"
    shard = tmp_path/"shard.safetensors"
    shard.touch()
    (tmp_path/f"{stem}.safetensors.index.json").write_text(json.dumps(dict(weight_map={"w": shard.name})))
    assert weight_files(tmp_path, stem) == [shard]
    single = tmp_path/f"{stem}.safetensors"
    single.touch()
    assert weight_files(tmp_path, stem) == [single if single_first else shard]
    assert weight_files(tmp_path, stem, "fp16") == []
    (tmp_path/f"{stem}.fp16.safetensors").touch()
    assert weight_files(tmp_path, stem, "fp16") == [tmp_path/f"{stem}.fp16.safetensors"]


def test_two_halves_in_one_network():
    assert strange_types({"a": "F16", "b": "F32"}) == strange_types({"F16": "F32", "BF16": "F32"}) == []
    assert "look at b" in strange_types({"a": "F16", "b": "BF16", "c": "F16"})[0]
    assert len(strange_types({f"n{k}": "I64" for k in range(9)})) == 5


def test_of_tied_tensors_one_name_is_enough():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 2, False), nn.Linear(2, 2, False), nn.Linear(2, 3, False)
            self.b.weight = self.a.weight
    header = {"a.weight": ((2, 2), "F32"), "c.weight": ((3, 2), "F32")}
    assert compare_keys(header, Net()).fits
    report = compare_keys({"c.weight": ((2, 3), "F32"), "d": ((1,), "F32")}, Net())
    assert (report.missing, report.unexpected) == (["a.weight", "b.weight"], ["d"])
    assert report.wrong == {"c.weight": ((2, 3), (3, 2))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_none(dtype, bad):
    "Also when it is only the largest, or only the smallest"
    fine = torch.tensor([1., 2., 3.]).to(dtype)
    wrong = torch.tensor([1., bad, 3.]).to(dtype)
    if torch.isfinite(wrong.float()).all(): pytest.skip("this number type has no infinity")
    assert unfinite([("a", fine), ("b", wrong), ("none", fine[:0]), ("n", torch.tensor([1]))]) == ["b"]
    if dtype != torch.float8_e4m3fn:
        with pytest.raises(InputError, match="not finite.*b"): check_numbers({"a": fine, "b": wrong}, "x.pt")


def test_why_there_may_be_other_tensors():
    assert "LoRA" in guess(["blocks.0.lora_A.weight"]) and "LoRA" in guess(["blocks.0.base_layer.weight"])
    assert "fp8" in guess(["blocks.0.scale"]) and guess(["blocks.0.weight", "scales"]) == ""


def test_numbers_lie_where_the_kernels_like_it():
    store = torch.arange(64, dtype=torch.float32)
    net = nn.Module()
    start = next(k for k in range(1, 32) if (store.data_ptr() + 4*k) % 64)
    net.w = nn.Parameter(store[start:start+8])
    net.register_buffer("b", store[start+8:start+8])
    before = net.w.clone()
    assert net.w.data_ptr() % 64 and align(net) is net
    assert net.w.data_ptr() % 64 == 0 and torch.equal(net.w, before) and isinstance(net.w, nn.Parameter)


@pytest.mark.parametrize("change", [
    dict(model_type="t5"), dict(feed_forward_proj="relu"), dict(is_gated_act=1), dict(dense_act_fn="relu"),
    dict(layer_norm_epsilon=.02), dict(layer_norm_epsilon=0), dict(layer_norm_epsilon="x"), dict(num_layers=0),
    dict(num_layers=1001), dict(d_kv=4097), dict(relative_attention_max_distance=0)])
def test_a_text_config(change):
    check_text_config(TEXT)
    with pytest.raises(InputError, match=next(iter(change))): check_text_config(TEXT | change)
