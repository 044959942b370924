"""Prompts that are too long, broken, or strange: told at once, in a message that fits on a screen."""
import random
import time

import pytest

from shotstream.model.files import InputError
from shotstream.toy.vocabulary import check_prompt

CAPTION, PROMPT = "a red ball with a hat in the forest by day.", "wide shot: the ball waves."


@pytest.mark.parametrize("prompt",
                         ["x"*99_000, "x"*19_000, "dragon "*2_000, " ".join(f"dragon{i}" for i in range(1500)),
                          "ball "*3_000, "\x1b[31mdragon",
                                    "half \ud83d", "😀"*5_000, "a\u0300"*9_000, "\0", "ball\u202e waves"])
def test_strange_prompts(pipe, prompt):
    for say in (lambda: pipe.check(CAPTION, prompt), lambda: pipe.check(prompt, PROMPT),
                lambda: check_prompt(prompt, pipe.tokenizer),
                lambda: pipe.stream(CAPTION).next_shot(prompt), lambda: pipe(prompt, caption=CAPTION),
                lambda: pipe.encode_prompt(prompt, caption=CAPTION)):
        start = time.monotonic()
        with pytest.raises(ValueError) as e: say()
        said = str(e.value)
        assert len(said) <= 2000 and len(said.splitlines()) <= 20 and time.monotonic() - start < 10
        assert all(c.isprintable() or c == "\n" for c in said), ascii(said[:200])


def test_any_characters(pipe):
    "Random texts: understood, or one of our errors"
    draw = random.Random(0)
    for _ in range(200):
        text = "".join(draw.choice("ball waves.,:-_\n\t\0é字😀\u200b\ufeff\udc80") if draw.random() < .7
                       else chr(draw.randrange(0x11000))
                       for _ in range(draw.randrange(1, 40)))
        try: pipe.check(CAPTION, text)
        except InputError as e: assert all(c.isprintable() or c == "\n" for c in str(e)), ascii(str(e))
