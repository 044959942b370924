"""Tiny networks and shots that tests share: nothing in them is at its starting value, so everything matters."""
import pytest
import torch

from shotstream import ShotStreamPipeline
from shotstream.model.frame_table import next_shot_table
from shotstream.model.transformer import ShotTransformer
from shotstream.toy.networks import toy_text_encoder
from shotstream.toy.vae import ToyVAE
from shotstream.toy.vocabulary import toy_tokenizer

SMALL = dict(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=12, freq_dim=16,
             ffn_dim=40, num_layers=2)
TRANSFORMER = dict(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
                   freq_dim=16, ffn_dim=24, num_layers=2)
LATENTS = 8
TIMES = (1000., 957.9288, 888.8889, 737.5887)          # 1000, 740, 500, 260 of 1000 under shift 8


def network(seed=0):
    "A transformer whose vectors are random too, and to which noise levels matter"
    torch.manual_seed(seed)
    model = ShotTransformer(**SMALL).eval()
    with torch.no_grad():
        for p in model.parameters(): torch.nn.init.normal_(p, std=.3) if p.ndim == 1 else None
        model.condition_embedder.time_proj.weight *= 8
    return model


def tiny_shot():
    "Context of two shots, the table of a third, and three captions"
    g = torch.Generator().manual_seed(9)
    table = next_shot_table([0, 0, 0, 1, 1, 1], LATENTS, 2)
    return torch.randn(1, 6, 4, 4, 4, generator=g), table, torch.randn(1, 3, 5, 12, generator=g)


def velocity(model, context, x, t, table, text):
    "Past and film together, every frame told `t`"
    v = model(torch.cat([context, x], 1).transpose(1, 2), torch.full((1, len(table)), float(t)), text,
              table=table).sample
    return v.transpose(1, 2)[:, context.shape[1]:]


def tiny_pipe(**changes):
    "A pipeline of the toy's kind with 4 latent channels; none of its weights is at its starting value"
    torch.manual_seed(0)
    tokenizer = toy_tokenizer()
    parts = dict(vae=ToyVAE(z_dim=4, dims=(8, 8, 8)), tokenizer=tokenizer,
                 text_encoder=toy_text_encoder(len(tokenizer), 16),
                 transformer=ShotTransformer(**TRANSFORMER), teacher=ShotTransformer(**TRANSFORMER))
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
            for p in part.parameters(): p += .05*torch.randn_like(p)
    return ShotStreamPipeline(**parts | changes)


def _groups_go():
    try: torch.accelerator.current_accelerator()
    except RuntimeError: return False                        # torch 2.6
    return True


# diffusers asks torch for an accelerator, and torch 2.6 has an error where newer ones say that there is none
GROUPS = pytest.mark.skipif(not _groups_go(), reason="this torch offloads groups only beside an accelerator")
