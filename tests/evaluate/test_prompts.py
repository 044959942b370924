"""The evaluation's stories: valid, whole and balanced; and nobody is told more than another."""
import json
import re
from collections import Counter

import pytest

from shotstream.data.script import Script, ShotPrompt, StoryError
from shotstream.evaluate.prompts import (
    CAMERA_WORDS, INPUT_STYLES, camera_moves, choose_toy_stories, draw_prompts, evaluation_folder, evaluation_stories,
    evaluation_truth, input_style, save_toy_stories, story_tags)
from shotstream.model.text import compose_prompt
from shotstream.toy.vocabulary import check_prompt, toy_tokenizer
from shotstream.toy.world import ACTIONS, CAMERAS, PLACES, TIMES, is_held_out

STYLE_WORDS = {"cinematic realism": "cinematic realism", "documentary": "documentary", "film noir": "noir",
               "watercolour": "watercolour",
               "claymation": "claymation", "anime": "anime", "3D animation": "3d animation",
               "oil painting": "oil painting",
               "super 8": "super 8", "neon": "neon"}


@pytest.fixture(scope="module")
def full(): return evaluation_stories("full")


@pytest.fixture(scope="module")
def toy(): return evaluation_stories("toy")


def test_a_hundred_of_each_and_twenty_of_every_length(full, toy):
    for stories in (full, toy):
        assert len(stories) == 100 == len({s.caption for s in stories.values()})
        assert Counter(len(s.shots) for s in stories.values()) == {n: 20 for n in (2, 3, 4, 5, 6)}
        assert [int(name[:3]) for name in stories] == list(range(1, 101))
    assert len({s.title for s in full.values()}) == 100


def test_full_stories_are_balanced(full):
    tags = story_tags()
    assert list(tags) == list(full)
    for what, kinds in (("theme", 10), ("style", 10), ("place", 10), ("subject", 8)):
        counts = Counter(t[what] for t in tags.values())
        assert len(counts) == kinds and max(counts.values()) - min(counts.values()) <= 1, (what, counts)
    for theme in {t["theme"] for t in tags.values()}:
        of_it = [t for t in tags.values() if t["theme"] == theme]
        assert len({t["style"] for t in of_it}) == len({t["place"] for t in of_it}) == 10
    for name, t in tags.items(): assert STYLE_WORDS[t["style"]] in full[name].caption.lower(), name


def test_full_stories_are_written_not_stamped(full):
    shots = [shot.caption for s in full.values() for shot in s.shots]
    assert len(shots) == len(set(shots)) == 400
    bodies = [tuple(re.findall(r"\w+", c.split(":", 1)[1].lower())) for c in shots]
    runs = Counter(b[i:i+6] for b in bodies for i in range(len(b)-5))
    assert max(runs.values()) <= 2, runs.most_common(3)  # no phrase of six words is used again and again
    assert len({w for b in bodies for w in b}) > 1500
    for c in shots: assert 8 <= len(c.split()) <= 45 and c.endswith("."), c
    for s in full.values(): assert 15 <= len(s.caption.split()) <= 45, s.caption


def test_every_shot_says_where_the_camera_is(full):
    heads = [shot.caption.split(":")[0].lower() for s in full.values() for shot in s.shots]
    unsaid = [h for h in heads if not any(re.search(w, h) for w in CAMERA_WORDS.values()) and "shot" not in h
              and "time-lapse" not in h]
    assert not unsaid
    moves = camera_moves(full.values())
    assert min(moves.values()) >= 8 and moves["wide"] < 130 and sum(moves.values()) > 400, moves
    by_hand = sum("crane" in h for h in heads)
    assert moves["crane"] == by_hand
    lengths = Counter(shot.frames for s in full.values() for shot in s.shots)
    assert set(lengths) == {49, 65, 81} and min(lengths.values()) > 60


def test_toy_stories_have_a_truth_that_nobody_trained_on(toy):
    tokenizer, shots = toy_tokenizer(), []
    for s in toy.values():
        story = evaluation_truth(s)
        hero = story.characters[0]
        assert is_held_out(hero.body, hero.colour, hero.accessory)
        assert [x.frames for x in story.shots] == [x.frames for x in s.shots]
        for x in s.shots: check_prompt(compose_prompt(s.caption, x.caption), tokenizer)
        shots += [(story.scenes[x.scene], x) for x in story.shots]
    heroes = [evaluation_truth(s).characters[0] for s in toy.values()]
    for what in ("body", "colour", "accessory", "pattern"):
        counts = Counter(getattr(h, what) for h in heroes)
        assert min(counts.values()) > .6*100/len(counts), (what, counts)
    for values, kinds in (([c.place for c, _ in shots], PLACES), ([c.time for c, _ in shots], TIMES),
                          ([x.action for _, x in shots], ACTIONS), ([x.camera for _, x in shots], CAMERAS)):
        counts = Counter(values)
        assert set(counts) == set(kinds) and min(counts.values()) > .6*len(shots)/len(kinds), counts
    assert 15 <= sum(len(evaluation_truth(s).characters) == 2 for s in toy.values()) <= 60


def test_toy_stories_are_made_by_the_code_that_says_so(toy, tmp_path):
    save_toy_stories(tmp_path, choose_toy_stories(10))
    for path in tmp_path.glob("*.json"): assert path.read_text() == (evaluation_folder()/"toy"/path.name).read_text()
    assert len(list(tmp_path.glob("*.json"))) == 10


def test_other_stories_have_no_truth(toy):
    first = next(iter(toy.values()))
    with pytest.raises(StoryError, match="draws another story"):
        evaluation_truth(Script(first.caption, first.shots, "mine", first.seed+1))


@pytest.mark.parametrize("system", INPUT_STYLES)
def test_every_system_is_told_all_of_it_in_order(full, toy, system):
    for script in (*full.values(), *toy.values()):
        said = json.dumps(input_style(script, system), ensure_ascii=False)
        at = [said.index(json.dumps(s.caption, ensure_ascii=False)[1:-1]) for s in script.shots]
        assert at == sorted(at) and json.dumps(script.caption, ensure_ascii=False)[1:-1] in said


def test_input_styles_by_hand():
    script = Script("G", (ShotPrompt("a", 33), ShotPrompt("b", 17), ShotPrompt("c", 49)))
    style = lambda system: input_style(script, system)
    assert style("ShotStream") == dict(global_caption="G", shot1="a", shot2="b", shot3="c",
                                       frame_number=[[0, 33], [33, 50], [50, 99]])
    assert style("LongLive") == style("Self Forcing") == dict(prompts_list=["G a", "G b", "G c"],
                                                              switch_frame_indices=[9, 14])
    assert style("LongLive 2.0") == dict(prompts_list=["G a", "The scene transitions. G b",
                                                       "The scene transitions. G c"], latents=[9, 5, 13])
    assert style("Infinity-RoPE") == "G a[2.06s] | G b[1.06s#] | G c[3.06s#]"
    assert style("CineTrans") == dict(prompts=["a", "b", "c", "G"], mask_info=[9, 5, 13])
    assert style("EchoShot") == dict(shots=3, cap_list=["G a", "G b", "G c"], inner_t=[9, 5, 13])
    assert style("HoloCine") == dict(prompt="[global caption] G [per shot caption] a [shot cut] b [shot cut] c",
                                     shot_cut_frames=[33, 50])
    assert style("Mask2DiT") == dict(prompts=["G a", "G b", "G c"], scenes=3)
    assert style("MultiShotMaster") == dict(prompts=["G a", "G b", "G c"], frames=[33, 17, 49])
    assert style("StoryMem")["scenes"] == [dict(video_prompts=["G a", "G b", "G c"], cut=[True]*3)]
    with pytest.raises(ValueError, match="no system is called 'Sora'; there are ShotStream"): style("Sora")


def test_some_for_the_user_study(full):
    some = draw_prompts(24, seed=1)
    assert len(some) == 24 and list(some) == sorted(some)
    assert some == draw_prompts(24, seed=1) != draw_prompts(24, seed=2)
    assert all(full[name] == s for name, s in some.items())
    with pytest.raises(ValueError, match="n=101"): draw_prompts(101)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(StoryError, match="no data_samples/evaluation here or above"): evaluation_folder(tmp_path)
    with pytest.raises(StoryError, match="kind 'tiny': there are full and toy"): evaluation_stories("tiny")
    with pytest.raises(StoryError, match="no story files"): evaluation_stories("toy", tmp_path)
