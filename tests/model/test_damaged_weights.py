"""Damaged weights and configs, drawn at random but the same in every run: only our error, or the very same network,
comes out.

200 cases here; `SHOTSTREAM_FUZZ=10000` draws as many. A failure names its door and number."""
import json
import os
import random
import shutil
import struct
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from shotstream import ShotStreamPipeline
from shotstream.model.checkpoints import convert, load_shotstream, to_original
from shotstream.model.files import InputError
from shotstream.model.transformer import ShotTransformer
from shotstream.model.weights import KeyReport, load_text_encoder
from shotstream.toy.classifier import AttributeClassifier
from shotstream.toy.networks import toy_text_encoder
from shotstream.toy.vae import ToyVAE
from shotstream.toy.vocabulary import toy_tokenizer

CASES = int(os.environ.get("SHOTSTREAM_FUZZ", 200))
CONFIG = dict(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16,
              ffn_dim=24,
              num_layers=2, prediction_type="v_prediction")
FREE = {"eps", "rope_max_seq_len", "prediction_type", "qk_norm", "pos_embed_seq_len", "layer_norm_epsilon",
        "relative_attention_max_distance", "shift", "guidance", "history_guidance", "guide_above", "teacher_steps",
        "size",
        # no weight depends on these: they are obeyed
        "prompt_style", "context_pixels", "context_time", "negative_prompt"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A folder with one sound example for every door"
    home, tokenizer = tmp_path_factory.mktemp("whole"), toy_tokenizer()
    torch.manual_seed(0)
    transformer, vae = ShotTransformer(**CONFIG).half(), ToyVAE(z_dim=4, dims=(8, 8, 8))
    pipe = ShotStreamPipeline(vae, toy_text_encoder(len(tokenizer), 16), tokenizer, transformer, size=(16, 16))
    logging.disable_progress_bar()
    pipe.save_pretrained(home/"pipe")
    transformer.save_pretrained(home/"shards", max_shard_size="5KB")
    AttributeClassifier(width=8, features=8).save_pretrained(home/"classifier")
    state = {n: t.contiguous() for n, t in to_original(transformer.state_dict()).items()}
    for name in ("file", "pickle", "lora", "adapter"): (home/name).mkdir()
    save_file(state, home/"file"/"x.safetensors")
    torch.save({"generator": state}, home/"pickle"/"x.pt")
    lora = {f"blocks.{i}.attn1.{n}.lora_{x}.weight": .1*torch.randn((2, 24) if x == "A" else (24, 2)).half()
            for i in (0, 1) for n in ("to_q", "to_v") for x in "AB"}
    save_file(lora, home/"lora"/"x.safetensors")
    save_file(lora, home/"adapter"/"pytorch_lora_weights.safetensors")
    yield home
    logging.enable_progress_bar()


def adapted(folder, whole):
    model = ShotTransformer.from_pretrained(whole/"pipe"/"transformer", torch_dtype=torch.float32)
    model.load_lora_adapter(folder, prefix=None, use_safetensors=True)
    return model

def pipeline_state(pipe):
    parts = (pipe.transformer, pipe.text_encoder, pipe.vae)
    return {f"{i}.{n}": t for i, part in enumerate(parts) for n, t in part.state_dict().items()}

SHAPE = {k: v for k, v in CONFIG.items()}
DOORS = { # name -> (folder of the example, how it is opened: `open(folder, whole)`)
    "transformer": ("pipe/transformer", lambda folder, whole: ShotTransformer.from_pretrained(folder)),
    "shards": ("shards", lambda folder, whole: ShotTransformer.from_pretrained(folder, torch_dtype=torch.float32)),
    "vae": ("pipe/vae", lambda folder, whole: ToyVAE.from_pretrained(folder)),
    "text": ("pipe/text_encoder", lambda folder, whole: load_text_encoder(folder)),
    "classifier": ("classifier", lambda folder, whole: AttributeClassifier.from_pretrained(folder)),
    "diffusers folder": ("pipe/transformer", lambda folder, whole: load_shotstream(folder)),
    "file": ("file", lambda folder, whole: load_shotstream(folder/"x.safetensors", config=SHAPE)),
    "file, sizes read off": ("file", lambda folder, whole: load_shotstream(folder/"x.safetensors", head_dim=12)),
    "pickle": ("pickle", lambda folder, whole: load_shotstream(folder/"x.pt", config=SHAPE)),
    "lora": ("lora", lambda folder, whole: load_shotstream(folder/"x.safetensors", base=whole/"file"/"x.safetensors",
                                                           config=SHAPE)),
    "adapter": ("adapter", adapted),
    "pipeline": ("pipe", lambda folder, whole: ShotStreamPipeline.from_pretrained(folder)),
}

def state_of(opened): return pipeline_state(opened) if isinstance(opened, ShotStreamPipeline) else opened.state_dict()
def settings_of(opened):
    configs = [p.config for p in (opened.transformer, opened.vae, opened.text_encoder)] + [opened.config] if isinstance(
        opened, ShotStreamPipeline) else [opened.config]
    plain = lambda c: {k: list(v) if isinstance(v, tuple) else v
                       for k, v in (c if isinstance(c, dict) else c.to_dict()).items()}
    return [{k: v for k, v in plain(c).items() if k[0] != "_" and k not in ("dtype", "transformers_version")}
            for c in configs]


@pytest.fixture(scope="module")
def sound(whole):
    return {name: (state_of(m := open_(whole/place, whole)), settings_of(m)) for name, (place, open_) in DOORS.items()}


# How files are damaged: each takes the generator and a file, and says what it did

def cut(draw, file):
    data = file.read_bytes()
    file.write_bytes(data[:(n := draw.randrange(len(data)))])
    return f"cut to {n} of {len(data)} bytes"

def flip(draw, file):
    "Bits of the header: of the numbers themselves nobody can tell"
    data = bytearray(file.read_bytes())
    end = min(len(data), 8 + struct.unpack("<Q", data[:8])[0]) if file.suffix == ".safetensors" else len(data)
    places = [draw.randrange(8 if draw.random() < .2 else end) for _ in range(draw.choice((1, 1, 2, 5)))]
    for i in places: data[i] ^= 1 << draw.randrange(8)
    file.write_bytes(data)
    return f"bits flipped at {places}"

def splice(draw, file):
    data = file.read_bytes()
    i, n = draw.randrange(len(data)), draw.randrange(1, 60)
    new = (data[:i] + (draw.randbytes(n) if draw.random() < .5 else b"")
           + data[i+(n if draw.random() < .5 else 0):] + b" ")
    numbers = file.suffix == ".safetensors" and i >= 8 + struct.unpack("<Q", data[:8])[0]
    if numbers and len(new) == len(data): return None      # only numbers changed: nobody can tell
    file.write_bytes(new)
    return f"bytes at {i}"

def replaced(draw, file):
    file.write_bytes(content := draw.choice((b"", b"\0"*1000, b"<html>404</html>", b"{}", b"[]", b"null",
                                             b"[" * 100_000, b'{"a":' * 20_000,
        b"1" * 6000, b"\xff\xfe{\0}\0", b"\xed\xa0\x80",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"\xff"*8 + b"{}", struct.pack("<Q", 2**40) + b"{}", struct.pack("<Q", 2) + b"{}",
        b'{"weight_map": {"x": "../../x"}}',
        b'{"weight_map": 5}', b'{"_class_name": "ToyVAE"}', b"PK\x03\x04", b"\x80\x02c__builtin__\nprint\n(S'x'\ntR.")))
    return f"replaced by {content[:40]}"

def lost(draw, file):
    file.unlink()
    return "deleted"

def header(draw, file):
    "An entry of a safetensors header says something else"
    data = file.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8+n])
    name = draw.choice([k for k in head if k != "__metadata__"])
    field, value = draw.choice((("dtype",
                                 draw.choice(("F32", "F16", "BF16", "I32", "I16", "U8", "BOOL", "F64", "F8_E4M3", "Q4",
                                              7, None))),
        ("shape", draw.choice(([], [0], [1, 2], [2**40, 2**40], [-1], "x", None, head[name]["shape"][::-1],
                               [*head[name]["shape"], 1]))),
        ("data_offsets", draw.choice(([0, 1], [2**63, 2**64], [5, 1], [], None, [1.5, 2.5])))))
    if head[name][field] == value: return None
    head[name][field] = value
    new = json.dumps(head).encode()
    file.write_bytes(struct.pack("<Q", len(new)) + new + data[8+n:])
    return f"{name}: {field} is {value}"

def tensors(draw, file):
    "Sound file, wrong tensors"
    state = load_file(file) if file.suffix == ".safetensors" else torch.load(file)["generator"]
    name, kind = draw.choice(list(state)), draw.choice(("nan", "inf", "drop", "extra", "rename", "longer", "flat",
                                                        "int", "swap", "empty", "many"))
    t = state[name]
    if kind in ("nan", "inf"):
        if not t.numel(): return None
        state[name] = t.clone()
        state[name].view(-1)[draw.randrange(t.numel())] = float(kind)
    elif kind == "drop": del state[name]
    elif kind == "extra":
        state[draw.choice((name + "2", "blocks.7.x", "a\x1b[31m\nb", "x"*5000, "blocks.99999999999.attn1.to_q.weight",
                           ""))] = torch.ones(1)
    elif kind == "rename": state[name.replace("e", "a", 1) + "_"] = state.pop(name)
    elif kind == "longer": state[name] = torch.cat([t, t]) if t.ndim else t[None]
    elif kind == "flat": state[name] = t.flatten()[None]
    elif kind == "int": state[name] = t.to(draw.choice((torch.int8, torch.int64, torch.bool, torch.uint8)))
    elif kind == "swap": state[name] = (t.bfloat16() if t.dtype == torch.float16 else t.to(torch.complex64))
    elif kind == "empty": state = {}
    elif kind == "many": state |= {f"{draw.random()}.{i}": torch.ones(1) for i in range(300)}
    if file.suffix == ".safetensors":
        save_file({n: x.contiguous() for n, x in state.items()}, file, metadata=dict(format="pt"))
    else: torch.save({"generator": state}, file)
    return f"{kind}: {name}"

def setting(draw, file):
    "Another value in a config"
    config = json.loads(file.read_text())
    if not isinstance(config, dict) or not config: return None
    key = draw.choice(list(config))
    old = config[key]
    kind = draw.choice(("drop", "value", "value", "value", "near", "key"))
    if kind == "drop": del config[key]
    elif kind == "key": config[draw.choice((key + "s", "x"*3000, "a\x1b[31m"))] = old
    elif kind == "near" and isinstance(old, int | float): config[key] = old + draw.choice((-1, 1, .5, 1e-9))
    else:
        config[key] = draw.choice((None, True, -1, 0, 1, 2, 2.5, 10**6, 10**12, 10**400, float("nan"), float("inf"),
                                   "x", "", [], [1], [1, 2, 2], {},
                                     {"a": 1}, [[]], "x"*10_000, "\ud800", [10**9]*3))
    file.write_text(json.dumps(config))
    return f"{key}: {kind}, {str(config.get(key))[:40]}"

def damage(draw, folder):
    "Damage one file of a folder; what was done, and where"
    while True:
        file = draw.choice(sorted(f for f in folder.rglob("*") if f.is_file()))
        weights, told = file.suffix in (".safetensors", ".pt"), file.suffix == ".json"
        how = draw.choice([cut, flip, splice, replaced, lost, *([header]*3 if file.suffix == ".safetensors" else []),
                           *([tensors]*4 if weights else []),
                           *([setting]*8 if told and file.name != "tokenizer.json" else [])])
        if how in (flip, splice) and file.suffix in (".pt", ".json"):
            how = cut                                 # inside a text or a zip it may be the numbers that change
        before = file.read_bytes()
        if (did := how(draw, file)) and (not file.exists() or file.read_bytes() != before):
            return f"{file.name}: {how.__name__}: {did}"
        file.write_bytes(before)


def outcome(door, number, whole, sound, tmp_path):
    "Damage, open, judge; a text if that went wrong"
    place, open_ = DOORS[door]
    draw, folder = random.Random(f"{door} {number}"), tmp_path/"x"
    shutil.copytree(whole/place, folder)
    did, start = damage(draw, folder), time.monotonic()
    case = f"{door} {number}: {did[:200]}"
    try: opened = open_(folder, whole)
    except InputError as e:
        said = str(e)
        if len(said) > 2000 or len(said.splitlines()) > 21 or not all(c.isprintable() or c == "\n" for c in said):
            return f"{case}: a message of {len(said)} characters, {len(said.splitlines())} lines: {said[:200]!r}"
    except BaseException as e: return f"{case}: {type(e).__name__}: {str(e)[:300]}"
    else:
        state, settings = sound[door]
        new = state_of(opened)
        if new.keys() != state.keys() or not all(torch.equal(new[n], state[n]) for n in state):
            return f"{case}: other weights"
        changed = {k for a, b in zip(settings, settings_of(opened), strict=True) for k in a if a[k] != b.get(k)}
        if changed - FREE - UNUSED: return f"{case}: opened with another {changed - FREE - UNUSED}"
    finally: shutil.rmtree(folder)
    if time.monotonic() - start > 20: return f"{case}: took {time.monotonic() - start:.0f} s"


# of a umT5's config: nothing of an encoder in `eval` reads them
UNUSED = {"dropout_rate", "classifier_dropout", "initializer_factor", "num_decoder_layers", "use_cache",
          "is_encoder_decoder", "is_decoder",
          "tie_word_embeddings", "scalable_attention", "decoder_start_token_id", "pad_token_id", "eos_token_id",
          "bos_token_id", "tokenizer_class", "architectures",
          "max_length", "id2label", "label2id", "num_labels", "problem_type", "return_dict", "output_attentions",
          "output_hidden_states"}


@pytest.mark.parametrize("door", DOORS)
def test_only_our_error_or_the_same_network(door, whole, sound, tmp_path):
    bad = [said for i in range(max(1, CASES//len(DOORS))) if (said := outcome(door, i, whole, sound, tmp_path))]
    assert not bad, "\n".join(bad[:30])


def test_conversion_is_a_door_too(whole, tmp_path):
    draw = random.Random(7)
    for _ in range(max(3, CASES//20)):
        shutil.copytree(whole/"file", tmp_path/"x")
        did = damage(draw, tmp_path/"x")
        try: convert(tmp_path/"x"/"x.safetensors", tmp_path/"y", config=SHAPE)
        except InputError: assert not (tmp_path/"y").exists(), did
        else: pytest.fail(f"{did}: CONFIG answers with v_prediction, which stock Wan does not know")
        shutil.rmtree(tmp_path/"x")


def test_a_million_unknown_names_are_a_short_message(whole, tmp_path):
    names = [f"blocks.{i}.x{i % 1000}" for i in range(50_000)] + ["y"*100_000]
    start = time.monotonic()
    said = str(KeyReport(names[::-1], names, {n: ((1,), (2,)) for n in names}))
    assert len(said) < 2000 and len(said.splitlines()) <= 20 and time.monotonic() - start < 20
    shutil.copytree(whole/"pipe"/"transformer", tmp_path/"x")
    file = tmp_path/"x"/"diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {n: torch.zeros(1) for n in names[-2000:]}, file)
    for open_ in (ShotTransformer.from_pretrained, load_shotstream):
        with pytest.raises(InputError) as e: open_(tmp_path/"x")
        assert len(str(e.value)) < 2000 and len(str(e.value).splitlines()) <= 20, str(e.value)
