"""Prompts in, features out."""
import warnings

import pytest
import torch

from shotstream.model.files import InputError
from shotstream.model.text import MAX_PROMPT, check_text, clean_prompt, compose_prompt, encode_prompts
from shotstream.toy.networks import toy_text_encoder
from shotstream.toy.vocabulary import toy_tokenizer



@pytest.mark.parametrize("prompt", ["", " a \t b\n\nc ", "cafÃ©", "&amp;lt;b&amp;gt;", "<i> rock &amp;amp; roll </i>",
                                    "don&#39;t", "“smart” ‘quotes’", "ﬁlm", "一只 猫　走"])
def test_words_are_cleaned_as_diffusers_does(prompt):
    clean = pytest.importorskip("diffusers.pipelines.wan.pipeline_wan").prompt_clean
    assert clean_prompt(prompt) == clean(prompt)


def test_only_texts():
    for x in (None, 3, ["a"], b"a"):
        with pytest.raises(TypeError, match="a prompt is text"): check_text(x)
    assert check_text("x"*MAX_PROMPT)
    with pytest.raises(InputError, match=f"{MAX_PROMPT + 1} characters"): check_text("x"*(MAX_PROMPT + 1))


def test_a_prompt_that_is_cut_warns():
    "At full size a long prompt is legal, but its end is not read"
    tokenizer, text_encoder = toy_tokenizer(), toy_text_encoder(len(toy_tokenizer()), 8).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_prompts(["ball "*9], tokenizer, text_encoder, 10)                       # nine words and an end mark
        with pytest.raises(UserWarning, match="11 tokens, the last 1 are not read"):
            encode_prompts(["ball", "ball "*10], tokenizer, text_encoder, 10)
        with pytest.warns(UserWarning, match="last 4"):
            long = encode_prompts(["ball "*13], tokenizer, text_encoder, 10)
        nine = encode_prompts(["ball "*9], tokenizer, text_encoder, 10)
        assert torch.equal(long, nine)                                                 # cut, and closed by its mark


def test_half_a_character():
    with pytest.raises(InputError, match="^the caption holds half a character.* at 3: delete it"):
        check_text("abc\ud83d", "the caption")


def test_two_styles():
    assert compose_prompt("A ball.", "It waves.", 3) == "A ball. It waves."
    assert compose_prompt("A ball. ", "It waves.", 3, "published") == "A ball. shot3:It waves."


@torch.no_grad()
def test_features_of_each_prompt_alone():
    "Neighbours and padding change nothing; behind the end there are zeros; the length is the tokenizer's limit"
    torch.manual_seed(0)
    tokenizer = toy_tokenizer()
    encoder = toy_text_encoder(len(tokenizer), 8).eval()
    prompts = ["the red ball waves.", "the ball"]
    both, long = encode_prompts(prompts, tokenizer, encoder), encode_prompts(prompts, tokenizer, encoder, 9)
    assert both.shape == (2, tokenizer.model_max_length, 8) and long.shape == (2, 9, 8)
    for features, prompt in zip(both, prompts):
        n = len(tokenizer(prompt).input_ids)
        assert features[:n].abs().amax(1).min() > 0 and not features[n:].any()
        ids = torch.tensor([tokenizer(prompt).input_ids])
        assert (features[:n] - encoder(input_ids=ids).last_hidden_state[0]).abs().max() < 1e-5
    assert (both[:, :9] - long).abs().max() < 1e-5
    with pytest.raises(TypeError): encode_prompts([None], tokenizer, encoder)
