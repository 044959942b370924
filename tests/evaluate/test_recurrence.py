"""A hero comes back: films whose memory is known."""
import pytest
import torch

from shotstream.evaluate.features import caption_attributes
from shotstream.train.stages import Models
from shotstream.evaluate.recurrence import recurrence, recurrence_films, recurrence_story
from shotstream.generate.pipeline import ASSETS
from shotstream.model.pixels import to_float
from shotstream.model.text import compose_prompt
from shotstream.toy.classifier import AttributeClassifier
from shotstream.toy.render import render_shot
from shotstream.toy.vocabulary import check_prompt
from shotstream.toy.world import is_held_out

N = 4


@pytest.fixture(scope="module")
def classifier(): return AttributeClassifier.from_pretrained(ASSETS/"classifier").float().eval()


class Memory:
    "Plays renders in the order in which shots are asked for; after `forgets` shots away, strangers come back"
    def __init__(self, vae, gaps, forgets=99):
        self.vae, self.asked, self.tables = vae, [], []
        stories, most = [recurrence_story(i, max(gaps)) for i in range(N)], max(gaps)
        self.queue = [(0, 0)]
        for k in range(1, most+1): self.queue += [(k, 0)] + [(most+1, int(k >= forgets))]*(k in gaps)
        self.films = {(k, off): torch.stack([render_shot(stories[(i+off) % N], k) for i in range(N)])
                      for k, off in set(self.queue)}

    def __call__(self, context, table, text, generator):
        self.asked.append(text)
        self.tables.append((context.shape[1], int(table.caption.max())))
        return self.vae.encode(to_float(self.films[self.queue.pop(0)])).latent_dist.mode().transpose(1, 2)


def test_the_story_leaves_and_comes_back(pipe):
    for i in range(6):
        story = recurrence_story(i, 8)
        assert [s.cast for s in story.shots] == [(0,), *[(1,)]*8, (0,)]
        assert [s.scene for s in story.shots] == [0, *[1]*8, 0]
        hero, other = story.characters
        assert hero.body != other.body and hero.colour != other.colour
        assert is_held_out(hero.body, hero.colour, hero.accessory)
        for shot in story.shots:
            said = caption_attributes(story.caption, shot.caption)
            check_prompt(compose_prompt(story.caption, shot.caption), pipe.tokenizer)
            who, where = story.characters[shot.cast[0]], story.scenes[shot.scene]
            assert len(said) == 7 and shot.frames == 33
            assert caption_attributes(story.caption,
                                      story.shots[-1].caption) | dict(action=0) == caption_attributes(story.caption,
                story.shots[0].caption) | dict(action=0)
            assert said["place"] == ("meadow", "forest", "beach", "desert", "mountains", "city").index(where.place)
            assert who
    assert recurrence_story(3, 8) == recurrence_story(3, 8) != recurrence_story(4, 8)


def test_who_remembers_scores_one_and_who_forgets_nothing(pipe, classifier):
    models = Models(pipe.vae, pipe.text_encoder, pipe.tokenizer, classifier=classifier)
    memory = Memory(pipe.vae, (1, 2), forgets=2)
    curve = recurrence(memory, models, n=N, gaps=(1, 2), batch=N)
    assert not memory.queue and list(curve) == [1, 2]
    for name in ("hero", "place"):
        assert curve[1][name][0] > .6, curve                             # the codec costs a little
        assert curve[2][name][0] < .35 < curve[1][name][0], curve
        assert all(low <= value <= high for value, low, high in (curve[g][name] for g in curve))
    first, one, back_1, two, back_2 = memory.asked                       # every shot with its own past
    assert [t.shape[1] for t in memory.asked] == [1, 2, 3, 3, 4]
    assert torch.equal(back_1[:, :2], one) and torch.equal(back_2[:, :3], two)
    assert torch.equal(back_1[:, -1], back_2[:, -1])
    assert [c for _, c in memory.tables] == [0, 1, 2, 2, 3]              # the new shot reads the last caption


def test_bad_questions_get_one_sentence(pipe, classifier):
    models = Models(pipe.vae, pipe.text_encoder, pipe.tokenizer, classifier=classifier)
    with pytest.raises(ValueError, match="gaps lie between 1 and 2, got .3."):
        recurrence_films(None, models, [recurrence_story(0, 2)], (3,))
    with pytest.raises(ValueError, match="leaves a story alone"): recurrence(None, models, n=17, batch=16)
