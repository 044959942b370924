"""The toy's networks are Wan's and umT5's classes, only small."""
import json

import torch
from transformers import UMT5EncoderModel

from shotstream.model.transformer import ShotTransformer
from shotstream.toy.networks import ASSETS, toy_text_encoder, toy_transformer


def test_a_small_wan():
    c = toy_transformer(8, 24, heads=3, layers=2, ffn=40, patch=2).config
    assert (c.in_channels, c.out_channels, c.text_dim, c.num_attention_heads, c.attention_head_dim) == (8, 8, 24, 3, 32)
    assert (c.num_layers, c.ffn_dim, list(c.patch_size), c.prediction_type) == (2, 40, [1, 2, 2], "v_prediction")


def test_the_defaults_are_the_shipped_networks():
    "Read from the files of the shipped weights"
    made, shipped = toy_transformer(), ShotTransformer.load_config(ASSETS/"toy"/"transformer")
    names = ("in_channels", "out_channels", "text_dim", "attention_head_dim", "freq_dim", "prediction_type")
    assert type(made) is ShotTransformer and {n: made.config[n] for n in names} == {n: shipped[n] for n in names}
    text = json.loads((ASSETS/"toy"/"text_encoder"/"config.json").read_text())
    encoder = toy_text_encoder(text["vocab_size"])
    for name in ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "feed_forward_proj", "pad_token_id",
                 "eos_token_id", "dropout_rate"):
        assert getattr(encoder.config, name) == text[name], name


@torch.no_grad()
def test_an_encoder_reads_without_chance():
    "No dropout, in training too; padding is not read"
    torch.manual_seed(0)
    encoder = toy_text_encoder(7, 12).train()
    ids, mask = torch.tensor([[3, 4, 1, 0]]), torch.tensor([[1, 1, 1, 0]])
    def read(ids): return encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    assert type(encoder) is UMT5EncoderModel and torch.equal(read(ids), read(ids)) and read(ids).shape == (1, 4, 12)
    torch.testing.assert_close(read(torch.tensor([[3, 4, 1, 5]]))[:, :3], read(ids)[:, :3])
