"""What the toy reads: words, hints for words it does not know, and limits."""
import pytest
import torch

from shotstream.model.files import InputError
from shotstream.model.text import encode_prompts
from shotstream.toy.networks import toy_text_encoder
from shotstream.toy.vocabulary import (
    MOST_HINTS, TEXT_LENGTH, check_prompt, encode_captions, nearest_word, split_words, toy_tokenizer, unknown_words)
from shotstream.toy.world import vocabulary


@pytest.fixture(scope="module")
def tokenizer(): return toy_tokenizer()


def test_one_token_for_each_word_and_mark(tokenizer):
    words = vocabulary()
    assert len(tokenizer) == len(words) + 3 and tokenizer.model_max_length == TEXT_LENGTH
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer(words[0]).input_ids == [3, 1] and tokenizer(words[-1]).input_ids == [len(words) + 2, 1]
    ids = tokenizer("the ball", padding="max_length").input_ids
    assert len(ids) == TEXT_LENGTH and set(ids[3:]) == {0} and ids[2] == 1
    small = toy_tokenizer(["a", "b"])
    assert small("b c a").input_ids == [4, 2, 3, 1]


def test_capitals_hyphens_and_wide_letters_are_the_same_words(tokenizer):
    assert split_words("Close-up: the RED_ball，waves.", tokenizer) == ["close", "up", ":", "the", "red", "ball", ",",
                                                                       "waves", "."]
    assert tokenizer("Close-Up").input_ids == tokenizer("close up").input_ids
    assert split_words("", tokenizer) == split_words(" \n ", tokenizer) == []


@pytest.mark.parametrize("word, meant", [("bal", "ball"), ("jumpin", "jumping"), ("forrest", "forest"),
                                         ("dragon", None), ("sunst", "sunset"), ("xyz", None)])
def test_a_word_that_was_meant(word, meant): assert nearest_word(word, vocabulary()) == meant


def test_a_hint_is_as_safe_as_asked():
    "Common letters, and a fifth for three common first ones"
    assert nearest_word("abcd", ["abcx"], 2*3/8 + .2) == "abcx" and nearest_word("abcd", ["abcx"], .951) is None
    assert nearest_word("abcd", ["xabc", "abcx"], .1) == "abcx"               # the beginning counts
    assert nearest_word("ab", ["abcdef"], .63) == "abcdef" and nearest_word("ab", ["abcdef"], .64) is None


def test_unknown_words_once_and_in_order(tokenizer):
    assert unknown_words("the dragon, the bal and the dragon", tokenizer) == {"dragon": None, "bal": "ball"}
    assert unknown_words("the red ball waves.", tokenizer) == {}
    many = " ".join(f"ball{chr(97+i)}" for i in range(MOST_HINTS + 1))        # each is near to "ball"
    hints = list(unknown_words(many, tokenizer).values())
    assert hints[:MOST_HINTS] == ["ball"]*MOST_HINTS and hints[MOST_HINTS:] == [None]
    assert unknown_words("ball"*11, tokenizer) == {"ball"*11: None}           # no word is that long


def test_a_prompt_that_can_be_understood(tokenizer):
    prompt = "Wide shot: the red ball waves."
    assert check_prompt(prompt, tokenizer) is prompt
    full = " ".join(["ball"]*(TEXT_LENGTH - 1))
    assert check_prompt(full, tokenizer) == full
    with pytest.raises(InputError, match=f"have {TEXT_LENGTH + 1} words and marks.*reads {TEXT_LENGTH}"):
        check_prompt(full + " ball", tokenizer)


@pytest.mark.parametrize("prompt, said", [
    ("  ", "is empty"), ("the bal waves", r"know 'bal' \(did you mean 'ball'\?\)\. `shotstream words`"),
    ("the dragon waves", "know 'dragon'\\. "), ("the ball # waves", r"'#' \(leave it out\)"),
    (" ".join(f"drag{chr(97+i)}n" for i in range(MOST_HINTS + 3)), "and 3 more words")])
def test_a_prompt_that_cannot(tokenizer, prompt, said):
    with pytest.raises(InputError, match=said): check_prompt(prompt, tokenizer)


@torch.no_grad()
def test_captions_of_many_stories(tokenizer):
    torch.manual_seed(0)
    encoder = toy_text_encoder(len(tokenizer), 8).eval()
    stories = [["the ball", "the red ball"], ["the cube waves", "the"]]
    text = encode_captions(stories, tokenizer, encoder)
    assert text.shape == (2, 2, TEXT_LENGTH, 8)
    for b in range(2):
        for s in range(2):
            alone = encode_prompts([stories[b][s]], tokenizer, encoder)[0]
            assert (text[b, s] - alone).abs().max() < 1e-5
