"""Wan's checkpoints: every layout gives the same tensors and outputs, and nothing that does not fit is loaded."""
import json
import pickle
import shutil

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from shotstream.model.files import InputError
from shotstream.model import checkpoints
from shotstream.model.transformer import ShotTransformer
from shotstream.model.checkpoints import (
    TINY, WAN_1_3B, convert, load_shotstream, merge_lora, read_checkpoint, to_diffusers, to_original)

HEADS = dict(head_dim=24)   # of TINY


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = WanTransformer3DModel(**TINY).eval().requires_grad_(False)
    for p in model.parameters(): p += .1*torch.randn_like(p)
    return model


@pytest.fixture(scope="module")
def original(model): return {n: t.contiguous() for n, t in to_original(model.state_dict()).items()}


@pytest.fixture(scope="module")
def lora(original):
    g, out = torch.Generator().manual_seed(1), {}
    for n, w in original.items():
        if n.startswith("blocks.") and n.endswith(".weight") and w.ndim == 2:
            name = n.removesuffix("weight")
            out |= {f"{name}lora_A.weight": .1*torch.randn(3, w.shape[1], generator=g),
                    f"{name}lora_B.weight": .1*torch.randn(w.shape[0], 3, generator=g)}
    return out


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(2)
    return torch.randn(1, 16, 4, 4, 6), torch.tensor([640.]), torch.randn(1, 5, 20)


def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
def prefixed(prefix, state): return {prefix + n: t for n, t in state.items()}
def inside(mark, state): return {n.replace("blocks.1.", f"blocks.1.{mark}."): t for n, t in state.items()}


# every layout: a function that writes the tiny model to a path and returns what to open

def _pt(content):
    def write(folder, model, original):
        torch.save(content(original), folder/"x.pt")
        return folder/"x.pt"
    return write

def _old_pth(folder, model, original):
    torch.save({"generator": original}, folder/"x.pth", _use_new_zipfile_serialization=False)
    return folder/"x.pth"

def _safetensors(folder, model, original):
    save_file(original, folder/"x.safetensors")
    return folder/"x.safetensors"

def _original_shards(folder, model, original):
    names = list(original)
    halves = {"diffusion_pytorch_model-00001-of-00002.safetensors": names[::2],
              "diffusion_pytorch_model-00002-of-00002.safetensors": names[1::2]}
    for file, some in halves.items(): save_file({n: original[n] for n in some}, folder/file)
    weight_map = {n: f for f, some in halves.items() for n in some}
    index = json.dumps(dict(metadata={}, weight_map=weight_map))
    (folder/"diffusion_pytorch_model.safetensors.index.json").write_text(index)
    (folder/"config.json").write_text(json.dumps(dict(_class_name="WanModel", dim=48, num_heads=2)))   # Wan's own words
    return folder

def _original_repo(folder, model, original):
    "A folder with the text encoder and the codec beside the transformer"
    save_file(original, folder/"diffusion_pytorch_model.safetensors")
    for other in ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"): (folder/other).write_bytes(b"something else")
    return folder

def _diffusers(size, at=""):
    def write(folder, model, original):
        model.save_pretrained(folder/at, max_shard_size=size)
        return folder
    return write

LAYOUTS = dict(
    published=_pt(lambda o: {"generator": prefixed("model.", o)}),
    bare=_pt(lambda o: o),
    flat=_pt(lambda o: prefixed("model.", o)),
    unknown_part=_pt(lambda o: {"weights": o, "step": torch.tensor(3)}),
    trainer=_pt(lambda o: {"generator": prefixed("model.", o),
                           "fake_score": {n: t+1 for n, t in prefixed("model.", o).items()},
                           "generator_optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}},
                                                   "param_groups": [{"lr": 1e-6}]}, "step": 7}),
    ema=_pt(lambda o: {"generator": {n: t+1 for n, t in o.items()}, "generator_ema": prefixed("model.", o)}),
    fsdp=_pt(lambda o: {"generator": prefixed("model._fsdp_wrapped_module.",
                                              inside("_fsdp_wrapped_module._checkpoint_wrapped_module", o))}),
    compiled=_pt(lambda o: {"generator": prefixed("module._orig_mod.model.", inside("_orig_mod", o))}),
    old_torch=_old_pth,
    safetensors=_safetensors,
    comfy=_pt(lambda o: prefixed("model.diffusion_model.", o)),
    original_shards=_original_shards,
    original_repo=_original_repo,
    diffusers=_diffusers("1GB"),
    diffusers_shards=_diffusers("50KB"),
    pipeline=_diffusers("1GB", "transformer"),
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(layout, tmp_path, model, original, inputs):
    path = LAYOUTS[layout](tmp_path, model, original)
    found = read_checkpoint(path)
    assert found.naming == ("diffusers" if layout in ("diffusers", "diffusers_shards", "pipeline") else "original")
    assert same(to_diffusers(found.state), model.state_dict()) and same(to_original(found.state), original)
    loaded = load_shotstream(path, **HEADS)
    assert isinstance(loaded, ShotTransformer) and not loaded.training and loaded.config.num_attention_heads == 2
    torch.testing.assert_close(loaded(*inputs).sample, model(*inputs).sample, atol=1e-5, rtol=0)
    loaded.to("cpu", torch.float64)                          # nothing was left on meta


@pytest.mark.parametrize("layout", LAYOUTS)
def test_converts_there_and_back(layout, tmp_path, model, original):
    (tmp_path/"source").mkdir()
    path = LAYOUTS[layout](tmp_path/"source", model, original)
    convert(path, tmp_path/"new"/"diffusers", **HEADS)
    stock = WanTransformer3DModel.from_pretrained(tmp_path/"new"/"diffusers")
    assert same(stock.state_dict(), model.state_dict()) and stock.config.num_attention_heads == 2
    convert(tmp_path/"new"/"diffusers", tmp_path/"new"/"o.safetensors", to="original")     # sizes from config.json
    assert same(load_file(tmp_path/"new"/"o.safetensors"), original)
    assert sorted(p.name for p in (tmp_path/"new").iterdir()) == ["diffusers", "o.safetensors"]
    assert json.loads((tmp_path/"new"/"diffusers"/"config.json").read_text())["_class_name"] == "WanTransformer3DModel"


def test_part_by_name(tmp_path, model, original):
    path = LAYOUTS["trainer"](tmp_path, model, original)
    critic = load_shotstream(path, part="fake_score", **HEADS)
    torch.testing.assert_close(critic.proj_out.bias, model.proj_out.bias + 1)
    with pytest.raises(ValueError, match="no 'critic'; it holds generator, fake_score"): read_checkpoint(path, "critic")
    with pytest.raises(ValueError, match="no 'generator'"):
        read_checkpoint(LAYOUTS["safetensors"](tmp_path, model, original), "generator")


def test_several_unknown_parts(tmp_path, original):
    torch.save({"a": original, "b": original}, tmp_path/"x.pt")
    with pytest.raises(ValueError, match="which part.*a, b"): read_checkpoint(tmp_path/"x.pt")


def test_names_agree_with_diffusers(original, model):
    "diffusers has a converter of its own, for one direction"
    converter = pytest.importorskip("diffusers.loaders.single_file_utils").convert_wan_transformer_to_diffusers
    assert same(converter(dict(original)), model.state_dict())


def test_names_are_one_to_one():
    assert len(set(checkpoints.NAMES.values())) == len(checkpoints.NAMES)
    with torch.device("meta"): full = ShotTransformer(**WAN_1_3B).state_dict()
    assert len(full) == 825 and sum(t.numel() for t in full.values()) == 1_418_996_800
    names = to_original(full)
    renamed = {n for n in full if "patch" not in n and "norm" not in n}
    assert list(to_diffusers(names)) == list(full) and not set(names) & renamed
    assert {n.split(".")[2] for n in names if n.startswith("blocks.7.")} == {"self_attn", "cross_attn", "norm3", "ffn",
                                                                             "modulation"}


def test_names_that_collide(original):
    with pytest.raises(ValueError, match="lose their name"): to_diffusers(original | {"proj_out.bias": torch.zeros(1)})


def test_prefixes_that_collide(tmp_path, original):
    torch.save(original | {"model.head.head.bias": original["head.head.bias"]}, tmp_path/"x.pt")
    with pytest.raises(ValueError, match="lose their name.*head.head.bias"): read_checkpoint(tmp_path/"x.pt")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_number_type_as_diffusers(dtype, tmp_path, model, original):
    theirs = ShotTransformer.from_pretrained(_diffusers("1GB")(tmp_path, model, original), torch_dtype=dtype)
    ours = load_shotstream(LAYOUTS["published"](tmp_path, model, original), dtype=dtype, **HEADS)
    assert {n: p.dtype for n, p in ours.named_parameters()} == {n: p.dtype for n, p in theirs.named_parameters()}
    assert same(ours.state_dict(), theirs.state_dict()) and ours.dtype == theirs.dtype


def test_number_type_of_the_file(tmp_path, original):
    torch.save({"generator": {n: t.bfloat16() for n, t in original.items()}}, tmp_path/"x.pt")
    assert {p.dtype for p in load_shotstream(tmp_path/"x.pt", **HEADS).parameters()} == {torch.bfloat16}
    convert(tmp_path/"x.pt", tmp_path/"x.safetensors", to="original", **HEADS)
    assert {t.dtype for t in load_file(tmp_path/"x.safetensors").values()} == {torch.bfloat16}


# LoRA

@pytest.mark.parametrize("prefix, adapter", [("base_model.model.", ""), ("base_model.model.", ".default"),
                                             ("_fsdp_wrapped_module.base_model.model.model.", ""),
                                             ("transformer.", "")])
def test_lora(prefix, adapter, tmp_path, model, original, lora):
    names = {f"{prefix}{n.removesuffix('.weight')}{adapter}.weight": t for n,
             t in inside("_checkpoint_wrapped_module", lora).items()}
    torch.save({"generator_lora": names, "critic_lora": {n: t+1 for n, t in names.items()}, "step": 9},
               tmp_path/"lora.pt")
    base = _diffusers("1GB")(tmp_path/"base", model, original)
    merged = load_shotstream(tmp_path/"lora.pt", base=base, scale=.5)
    for n, w in original.items():
        a = n.removesuffix("weight") + "lora_A.weight"
        expected = w + .5*(lora[a.replace("lora_A", "lora_B")] @ lora[a]) if a in lora else w
        torch.testing.assert_close(to_original(merged.state_dict())[n], expected, atol=1e-6, rtol=0)
    assert same(read_checkpoint(base).state, model.state_dict())    # the base is as it was


@pytest.mark.parametrize("dots", [True, False])
def test_lora_of_other_trainers(dots, tmp_path, model, original, lora):
    "lora_down, lora_up and alpha; alpha over rank is its strength"
    def theirs(n): return f"lora_unet_{n.replace('.', '_')}" if not dots else f"diffusion_model.{n}"
    layers = [n.removesuffix(".lora_A.weight") for n in lora if n.endswith(".lora_A.weight")]
    state = {f"{theirs(n)}.{new}.weight": lora[f"{n}.{old}.weight"] for n in layers
             for old, new in (("lora_A", "lora_down"), ("lora_B", "lora_up"))} | {f"{theirs(n)}.alpha": torch.tensor(6.)
                 for n in layers}
    save_file(state, tmp_path/"x.safetensors")
    base = _diffusers("1GB")(tmp_path/"base", model, original)
    loaded, expected = load_shotstream(tmp_path/"x.safetensors", base=base), merge_lora(original, lora, 6/3)
    for n, t in to_original(loaded.state_dict()).items(): torch.testing.assert_close(t, expected[n], atol=1e-5, rtol=0)
    for bad in ({n: t for n, t in state.items() if n != f"{theirs(layers[0])}.lora_up.weight"},
                {n.replace("blocks", "block"): t for n, t in state.items()},
                {n: t*float("nan") for n, t in state.items()}):
        save_file(bad, tmp_path/"x.safetensors")
        with pytest.raises(InputError): load_shotstream(tmp_path/"x.safetensors", base=base)


def test_numbers_that_are_no_weights(tmp_path, original):
    for bad in (float("nan"), float("inf")):
        save_file(original | {"head.head.bias": torch.full((64,), bad)}, tmp_path/"x.safetensors")
        with pytest.raises(InputError, match="x.safetensors.*\\n.*not finite.*head.head.bias"):
            load_shotstream(tmp_path/"x.safetensors", **HEADS)
    save_file(original | {"head.head.bias": torch.zeros(64, dtype=torch.int32)}, tmp_path/"x.safetensors")
    with pytest.raises(InputError, match="numbers with a fraction"): load_shotstream(tmp_path/"x.safetensors", **HEADS)
    for dtype in ("auto", torch.int8, 16):
        with pytest.raises(InputError, match="dtype"): load_shotstream(tmp_path/"x.safetensors", dtype=dtype, **HEADS)


def test_lora_in_and_out(original, lora):
    low = {n: t.bfloat16() for n, t in original.items()}
    assert {t.dtype for t in merge_lora(low, lora).values()} == {torch.bfloat16}
    back = merge_lora(merge_lora(original, lora), lora, -1.)
    for n in original: torch.testing.assert_close(back[n], original[n], atol=1e-6, rtol=0)


def test_lora_is_converted(tmp_path, original, lora):
    save_file(original, tmp_path/"base.safetensors"); save_file(lora, tmp_path/"lora.safetensors")
    convert(tmp_path/"lora.safetensors", tmp_path/"merged.safetensors", to="original", base=tmp_path/"base.safetensors",
            **HEADS)
    assert same(load_file(tmp_path/"merged.safetensors"), merge_lora(original, lora))


def test_lora_errors(tmp_path, original, lora):
    save_file(lora, tmp_path/"lora.safetensors"); save_file(original, tmp_path/"base.safetensors")
    with pytest.raises(ValueError, match="only a LoRA.*base"): load_shotstream(tmp_path/"lora.safetensors")
    with pytest.raises(ValueError, match="only a LoRA"):
        load_shotstream(tmp_path/"lora.safetensors", base=tmp_path/"lora.safetensors")
    one = "blocks.0.ffn.0.lora_A.weight"
    with pytest.raises(ValueError, match="lora_A and lora_B.*blocks.0.ffn.0"):
        merge_lora(original, {n: t for n, t in lora.items() if n != one})
    with pytest.raises(ValueError, match="nothing else.*alpha"):
        merge_lora(original, lora | {"blocks.0.ffn.0.alpha": torch.tensor(1.)})
    with pytest.raises(ValueError, match="does not have: blocks.2.*ffn.2.weight"):
        merge_lora({n: t for n, t in original.items() if n != "blocks.2.ffn.2.weight"}, lora)
    with pytest.raises(ValueError, match="another size: blocks.0.ffn.0.weight"):
        merge_lora(original, lora | {one: torch.zeros(3, 47)})


# what does not fit

def test_every_complaint_at_once(tmp_path, original):
    spoiled = {n: t for n, t in original.items() if not n.endswith("norm_q.weight") and n != "blocks.1.modulation"}
    spoiled |= {"img_emb.proj.0.bias": torch.zeros(1), "head.head.bias": torch.zeros(9)}
    save_file(spoiled, tmp_path/"x.safetensors")
    with pytest.raises(ValueError) as e: load_shotstream(tmp_path/"x.safetensors", config=TINY)
    for words in ("x.safetensors does not fit", "image-to-video", "missing: 7",
                  "blocks.*.self_attn.norm_q.weight   (3 blocks)", "blocks.1.modulation",
                  "unexpected: 1", "img_emb.proj.0.bias", "wrong size: 1", "head.head.bias is (9,), should be (64,)"):
        assert words in str(e.value), words


@pytest.mark.parametrize("change", [dict(num_layers=4), dict(num_layers=2), dict(ffn_dim=41), dict(text_dim=21),
                                    dict(num_attention_heads=3), dict(in_channels=17), dict(cross_attn_norm=False)])
def test_wrong_config(change, tmp_path, original):
    save_file(original, tmp_path/"x.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        load_shotstream(tmp_path/"x.safetensors", config=TINY | change)


def test_long_report_is_short(original):
    report = checkpoints.check_keys(original, TINY | dict(num_attention_heads=3))
    assert len(report.wrong) > 80 and len(str(report).splitlines()) < 8 and not report.fits
    assert checkpoints.check_keys(original, TINY).fits


def test_config_from_sizes(original):
    odd = TINY | dict(in_channels=36, out_channels=8, patch_size=(1, 1, 2), num_layers=1)
    state = WanTransformer3DModel(**odd).state_dict()
    assert checkpoints.infer_config(state, 24) == odd == checkpoints.infer_config(to_original(state), 24)
    with pytest.raises(ValueError, match="heads of 128"): checkpoints.infer_config(original)
    assert checkpoints.infer_config({"blocks.0.norm3.bias": torch.zeros(1536)}) == WAN_1_3B | dict(num_layers=1)


@pytest.mark.parametrize("names, model", [
    (["encoder.block.0.layer.0.SelfAttention.q.weight"], "T5"),
    (["token_embedding.weight", "blocks.0.attn.q.weight"], "Wan's text encoder"),
    (["encoder.conv1.weight", "decoder.middle.0.residual.0.gamma"], "autoencoder"),
    (["transformer_blocks.0.attn.to_q.weight"], "another diffusers"),
    (["lm_head.weight", "wte.weight"], "first names are lm_head.weight, wte.weight")])
def test_another_model(names, model, tmp_path):
    save_file({n: torch.zeros(1) for n in names}, tmp_path/"x.safetensors")
    with pytest.raises(ValueError, match=model): read_checkpoint(tmp_path/"x.safetensors")


@pytest.mark.parametrize("layout", ["published", "old_torch", "safetensors"])
@pytest.mark.parametrize("share", [0, .001, .1, .5, .999])
def test_cut_short(layout, share, tmp_path, model, original):
    path = LAYOUTS[layout](tmp_path, model, original)
    whole = path.read_bytes()
    path.write_bytes(whole[:int(share*len(whole))])
    with pytest.raises(ValueError, match="cut short"): read_checkpoint(path)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_pointer_instead_of_weights(name, tmp_path):
    (tmp_path/name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="git lfs pull"): read_checkpoint(tmp_path/name)


class Trap:
    "Unpickling this would leave a file behind"
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_does_not_run(zipped, tmp_path, original):
    torch.save({"generator": original, "args": Trap(tmp_path/"trapped")}, tmp_path/"x.pt",
               _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="could run its code: not opened"): read_checkpoint(tmp_path/"x.pt")
    (tmp_path/"y.pt").write_bytes(pickle.dumps(Trap(tmp_path/"trapped")))
    with pytest.raises(ValueError): read_checkpoint(tmp_path/"y.pt")
    assert not (tmp_path/"trapped").exists()


def test_missing_files(tmp_path, model, original):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"): read_checkpoint(tmp_path/"x.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint in"): read_checkpoint(tmp_path)
    (tmp_path/"x.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="ends in .safetensors"): read_checkpoint(tmp_path/"x.gguf")
    (tmp_path/"shards").mkdir()
    path = _original_shards(tmp_path/"shards", model, original)
    (path/"diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks diffusion_pytorch_model-00002"): read_checkpoint(path)


def test_several_files_in_a_folder(tmp_path, original):
    for name in ("ode_init.pt", "shotstream_merged.pt"): torch.save(original, tmp_path/name)
    with pytest.raises(ValueError, match="name one of ode_init.pt, shotstream_merged.pt"): read_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"step": 5}, torch.zeros(3), {"generator": {}}])
def test_nothing_inside(content, tmp_path):
    torch.save(content, tmp_path/"x.pt")
    with pytest.raises(ValueError, match="x.pt"): read_checkpoint(tmp_path/"x.pt")


# writing

@pytest.fixture
def source(tmp_path, original):
    save_file(original, tmp_path/"source.safetensors")
    return tmp_path/"source.safetensors"


@pytest.mark.parametrize("to, name", [("diffusers", "out"), ("original", "out.safetensors")])
def test_nothing_is_overwritten(to, name, source, tmp_path, original):
    target = convert(source, tmp_path/name, to, **HEADS)
    save_file({n: t+1 for n, t in original.items()}, source)
    with pytest.raises(FileExistsError, match="--overwrite"): convert(source, target, to, **HEADS)
    assert same(to_original(read_checkpoint(target).state), original)
    convert(source, target, to, overwrite=True, **HEADS)
    assert same(to_original(read_checkpoint(target).state), {n: t+1 for n, t in original.items()})
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "source.safetensors"])


def test_a_folder_of_yours_is_safe(source, tmp_path):
    (tmp_path/"home").mkdir(); (tmp_path/"home"/"thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="thesis.txt"): convert(source, tmp_path/"home", overwrite=True, **HEADS)
    assert (tmp_path/"home"/"thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("target, to, words",
                         [("x.safetensors", "diffusers", "is a folder"), ("folder", "original", "a .safetensors file"),
                          ("x.pt", "original", "only read here"), ("x", "flax", "diffusers")])
def test_impossible_targets(target, to, words, source, tmp_path):
    with pytest.raises(ValueError, match=words): convert(source, tmp_path/target, to, **HEADS)
    assert not (tmp_path/target).exists()


@pytest.mark.parametrize("to, name", [("diffusers", "file"), ("original", "folder.safetensors")])
def test_target_of_another_kind(to, name, source, tmp_path):
    (tmp_path/"file").write_text("mine"); (tmp_path/"folder.safetensors").mkdir()
    with pytest.raises(FileExistsError, match="choose another name"):
        convert(source, tmp_path/name, to, overwrite=True, **HEADS)


def test_no_space(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda folder: usage._replace(free=1_200_000))
    with pytest.raises(OSError, match="0.00 GB free.*needed"): convert(source, tmp_path/"out", **HEADS)
    assert [p.name for p in tmp_path.iterdir()] == ["source.safetensors"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_disk_that_fills_up_leaves_nothing(overwrite, source, tmp_path, monkeypatch, original):
    target = tmp_path/"out.safetensors"
    if overwrite: convert(source, target, "original", **HEADS)
    def full(state, path, metadata=None):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        convert(source, target, "original", overwrite=overwrite, **HEADS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.safetensors", "source.safetensors"][1-overwrite:]
    if overwrite: assert same(load_file(target), original)


def test_onto_itself(tmp_path, model, original):
    path = _diffusers("1GB")(tmp_path/"m", model, original)
    convert(path, path, overwrite=True)
    assert same(read_checkpoint(path).state, model.state_dict())


# words
