"""The toy world: the same stories on every machine, because models are trained on them."""
import hashlib
import json
import re
from dataclasses import asdict

import pytest

from shotstream.toy.world import COLOURS, draw_story, is_held_out, vocabulary, world_hash


STORED = {  # (seed, held_out): fingerprint of all attributes, captions and lengths
    (0, False): "8b6135da95", (0, True): "d6ccfe7600", (1, False): "cbcfd43796", (1, True): "feca7ceac6",
    (2, False): "6dd6cb9505", (2, True): "f014d58f52", (3, False): "c598696eae", (3, True): "95df0eeeb3",
    (4, False): "b07a20f219", (4, True): "231b293544", (5, False): "f05c1b780f", (5, True): "e11efa3841",
}


def rounded(o):
    if isinstance(o, float): return round(o, 6)
    if isinstance(o, dict): return {k: rounded(v) for k, v in o.items()}
    return [rounded(v) for v in o] if isinstance(o, (list, tuple)) else o


def fingerprint(story):
    return hashlib.sha256(json.dumps(rounded(asdict(story)), sort_keys=True).encode()).hexdigest()[:10]


def attributes(c): return c.body, c.colour, c.accessory


def test_the_same_stories_everywhere():
    assert {key: fingerprint(draw_story(key[0], held_out=key[1])) for key in STORED} == STORED
    assert world_hash() == "c347215d3387"


def test_heroes_of_training_and_test_never_meet():
    train, test = ([draw_story(seed, held_out=held_out) for seed in range(1500)] for held_out in (False, True))
    assert not any(is_held_out(*attributes(s.characters[0])) for s in train)
    assert all(is_held_out(*attributes(s.characters[0])) for s in test)
    seen = {value for s in train for value in attributes(s.characters[0])}
    # every single value is seen in training
    assert {value for s in test for value in attributes(s.characters[0])} <= seen
    alone = [draw_story(seed, pair=0.) for seed in range(500)]
    assert not any(is_held_out(*attributes(c)) for s in alone for c in s.characters)


def test_captions_use_known_words_only():
    known = set(vocabulary())
    for seed in range(600):
        story = draw_story(seed, held_out=bool(seed % 2), pair=.5)
        for caption in (story.caption, *(s.caption for s in story.shots)):
            assert set(re.findall(r"[a-z]+|[^a-z\s]", caption)) <= known, caption


def test_lengths():
    for seed in range(1000):
        story = draw_story(seed)
        assert 2 <= len(story.shots) <= 5
        assert all(s.frames % 4 == 1 and 9 <= s.frames <= 81 for s in story.shots)
        assert sum(s.frames for s in story.shots) <= 250
    assert [s.frames for s in draw_story(0, n_shots=7, frames=13).shots] == [13]*7
    assert [s.frames for s in draw_story(0, n_shots=1, frames=1).shots] == [1]


def test_shots_point_to_what_exists():
    for seed in range(300):
        story = draw_story(seed, pair=.5, switch=.5)
        assert all(set(s.cast) <= set(range(len(story.characters))) and s.scene < len(story.scenes)
                   for s in story.shots)
        for c in story.characters:
            low, high = COLOURS[c.colour]
            assert (c.hue - low) % 360 <= high - low
        if len(story.characters) == 2:
            assert (story.characters[0].body != story.characters[1].body
                    and story.characters[0].colour != story.characters[1].colour)


@pytest.mark.parametrize("wrong",
                         [dict(n_shots=0), dict(n_shots=-1), dict(frames=34), dict(frames=85), dict(frames=0),
                          dict(frames=-3)])
def test_bad_input_is_an_error(wrong):
    with pytest.raises(ValueError, match=str(*wrong)): draw_story(0, **wrong)


if __name__ == "__main__":  # python tests/toy/test_world.py: what to store after a wanted change of the world
    print({key: fingerprint(draw_story(key[0], held_out=key[1])) for key in STORED}, world_hash())
