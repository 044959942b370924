"""Stories on the device: shards, batches, and what a resumed run reads."""
from functools import lru_cache

import pytest
import torch
from safetensors.torch import load_file, save_file

from shotstream.toy.vae import ToyVAE
from shotstream.model.pixels import to_float
from shotstream.model.frame_table import FrameTable
from shotstream.toy.latents import (
    BUDGET, LatentCache, LatentDataset, batch_generator, context_picks, encode_groups, encode_ids, encode_story,
    frame_groups, latent_counts, loss_weights, needed_singles, next_shot_example, shot_weights, train_story)
from shotstream.toy.probe import story_targets
from shotstream.toy.render import StoryTable, circle, coverage, own_coordinates, pose, render_shot, screen
from shotstream.generate.teacher import drop_history
from shotstream.model.text import compose_prompt, encode_prompts
from shotstream.toy.networks import toy_text_encoder
from shotstream.toy.world import draw_story


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    vae = ToyVAE(dims=(16, 16, 8)).eval()
    # at first convolutions are zero: nothing could be wrong
    for p in vae.encoder.parameters(): torch.nn.init.normal_(p, std=.05)
    return vae


@pytest.fixture(scope="module")
def data(vae):
    data = LatentDataset(vae, shard_size=4)
    data.add(8)
    return data


@pytest.fixture(scope="module")
def encoded(vae):
    "A story's latents, made once"
    return lru_cache(lambda story: encode_story(vae, story))


def shots_of(data): return [(o, k) for i, *_ in data.shards for o in data.stories_of(i) for k in range(len(o.shots))]


def weights_one_by_one(story, k, latents, size, start=0, hero=2., badge=4.):
    "The plain version"
    shot, (x, y) = story.shots[k], screen(size)
    t, weight = start + torch.arange(latents)*4., torch.ones(latents, size, size)
    for slot in range(len(shot.cast)):
        p = pose(shot, t, slot)
        u, v = own_coordinates(p, x, y)
        px = 1/size/p["size"][:, None, None]
        weight += hero*coverage(circle(u, v, 1.3), px) + badge*coverage(circle(u, v-.38, .5), px)
    return (weight/weight.mean())[:, None]


def test_loss_weights_of_many_shots():
    stories = [draw_story(seed, pair=.6) for seed in range(8)]
    table, shots = StoryTable.from_stories(stories), [(o, k) for o in stories for k in range(len(o.shots))]
    rows = torch.randperm(len(shots), generator=torch.Generator().manual_seed(0))
    start = torch.arange(len(rows)) % 5
    got = loss_weights(table, rows, 3, start=start)
    for i, row in enumerate(rows.tolist()):
        assert (got[i] - weights_one_by_one(*shots[row], 3, 8, start[i])).abs().max() < 1e-6
    assert (shot_weights(*shots[5], 4, 1., 7., 16) - weights_one_by_one(*shots[5], 4, 16, 0, 1., 7.)).abs().max() < 1e-6


@torch.no_grad()
def test_groups_encode_like_clips_and_stills(vae):
    story = draw_story(3, n_shots=3, frames=17)
    film = torch.cat([render_shot(story, k) for k in range(3)])
    stills = [0, 5, 17, 50]
    z = encode_groups(vae, film, frame_groups(latent_counts(story), stills)).float()
    clips = [vae.encode(to_float(film[17*k:17*k+17])).latent_dist.mode()[0].transpose(0, 1) for k in range(3)]
    alone = vae.encode(to_float(film[stills][:, None])).latent_dist.mode()[:, :, 0]
    assert (z - torch.cat([*clips, alone])).abs().max() < 4e-3*z.abs().max()


@pytest.mark.parametrize("leak, drop", ((0., 0.), (1., 0.), (0., 1.), (.5, .5)))
def test_a_batch_is_what_the_examples_are(data, encoded, leak, drop):
    "Shot by shot against `next_shot_example`, `drop_history`, `probe_targets` and `loss_weights`"
    shots, seen = shots_of(data), set()
    batch = data.batch(batch_generator(1, 2), 16, 3, leak_target=leak, drop_history=drop, grid=4)
    for i, row in enumerate(batch.shots.tolist()):
        story, k = shots[row]
        e = encoded(story)
        singles, clip = dict(zip(needed_singles(story), e["singles"])), e["shots"].split(latent_counts(story))[k][:3]
        table = FrameTable(**{n: c[i:i+1] for n, c in vars(batch.table).items()})
        examples = {late: next_shot_example(story, k, clip, singles, late) for late in (False, True)}
        like = [late for late,
                (c, _, t, _) in examples.items() if table == t and (batch.context[i] - c).abs().max() < .01]
        assert like or not batch.context[i].any()                                    # one of the two, or nothing at all
        late = bool(like) and like[0]
        context, target, expected, prompts = examples[late]
        picks = context_picks(story, k+(late and k < len(story.shots)-1))
        if blank := not batch.context[i].any():
            context, expected = drop_history(context[None], expected)
            context, expected = context[0], FrameTable(**(vars(expected)
                                                          | dict(caption=torch.zeros_like(expected.caption))))
            prompts, picks = [compose_prompt(story.caption, story.shots[k].caption)], [(k, 0)]*BUDGET
        assert table == expected
        assert (batch.context[i] - context).abs().max() < .01 and (batch.target[i] - target).abs().max() < .01
        words = data.tokenizer(prompts, padding="max_length", return_tensors="pt")
        assert torch.equal(batch.ids[i, :len(prompts)], words.input_ids) and torch.equal(batch.mask[i, :len(prompts)],
                                                                                         words.attention_mask)
        goal, weight = story_targets(story, picks + [(k, 4*j) for j in range(3)], 4)
        weight[:BUDGET] *= not blank
        assert (batch.probe[1][i] - weight).abs().max() < 1e-6
        assert ((batch.probe[0][i] - goal)*(weight > 0)).abs().max() < 1e-6      # the goal counts where there is weight
        assert (batch.weight[i] - shot_weights(story, k, 3)).abs().max() < 1e-6
        seen.add((blank, late))
    if leak == 1: assert (False, True) in seen
    if drop == 1: assert seen == {(True, False)}
    if leak == drop == 0: assert (False, False) in seen and (True, False) in seen


@torch.no_grad()
def test_tokens_are_read_like_prompts(data):
    torch.manual_seed(0)
    encoder, batch = toy_text_encoder(len(data.tokenizer)).eval(), data.batch(batch_generator(0, 0), 3, 2)
    for i, row in enumerate(batch.shots.tolist()):
        story, k = shots_of(data)[row]
        own = encode_prompts([compose_prompt(story.caption, story.shots[k].caption)], data.tokenizer, encoder)[0]
        read = encode_ids(batch.ids, batch.mask, encoder)[i, batch.table.caption[i, -1]]
        assert (read - own).abs().max() < 1e-5 and not read[batch.mask[i, batch.table.caption[i, -1]] == 0].any()


def test_a_step_is_always_the_same_batch(data, vae):
    other = LatentDataset(vae, shard_size=4)
    other.load_state_dict(data.state_dict())
    for step in range(3):
        a, b = (d.batch(batch_generator(5, step), 6, 2, leak_target=.3, grid=8) for d in (data, other))
        assert all(torch.equal(x, y) for x,
                   y in ((a.context, b.context), (a.target, b.target), (a.ids, b.ids), (a.weight, b.weight),
                         (a.probe[0], b.probe[0])))
        assert a.table == b.table
    different = [data.batch(g, 6, 2)
                 for g in (batch_generator(5, 3), batch_generator(6, 0), batch_generator(5, 0, rank=1))]
    assert len({tuple(d.shots.tolist()) for d in (*different, data.batch(batch_generator(5, 0), 6, 2))}) == 4


def test_stills_come_from_anywhere(data):
    batch, shots = data.single_batch(batch_generator(0, 0), 64, 1), shots_of(data)
    assert batch.context.shape == (64, 0, 32, 8, 8) and batch.ids.shape[:2] == (64, 1) and batch.probe is None
    later = 0
    for i, row in enumerate(batch.shots.tolist()):
        story, k = shots[row]
        frames = [0] + [f for s, f in needed_singles(story) if s == k]
        films = render_shot(story, k, frames=frames)
        z = data.vae.encode(to_float(films[:, None])).latent_dist.mode()[:, :, 0]
        which = (z - batch.target[i, 0]).abs().flatten(1).amax(1).argmin().item()
        assert (z[which] - batch.target[i, 0]).abs().max() < .01
        assert (batch.weight[i] - weights_one_by_one(story, k, 1, 8, frames[which])).abs().max() < 1e-6
        later += frames[which] > 0
    assert later > 8
    clips = data.single_batch(batch_generator(0, 1), 5, 3)
    assert clips.target.shape == (5, 3, 32, 8,
                                  8) and clips.table.target.all() and clips.table.caption.unique().tolist() == [0]


def test_shots_are_drawn_as_often_as_they_should(data):
    shots, n = shots_of(data), 20000
    assert any(len(o.shots[k].cast) == 2 for o, k in shots)
    for first, pair in ((1., 4.), (.4, 1.)):
        drawn = data.draw(torch.Generator().manual_seed(0), n, 3, first, pair).bincount(minlength=len(shots))/n
        odds = torch.tensor([(first if k == 0 else 1.)*(pair if len(o.shots[k].cast) == 2 else 1.)/len(o.shots)
                             *(latent_counts(o)[k] >= 3) for o, k in shots])
        assert (drawn - odds/odds.sum()).abs().max() < .01
    default = data.draw(torch.Generator().manual_seed(0), n, 3)
    assert torch.equal(default, data.draw(torch.Generator().manual_seed(0), n, 3, 1., 4.))


def test_old_shards_go_and_processes_share(vae, encoded):
    ranks = [LatentDataset(vae, shard_size=2, max_stories=4, rank=r, world=2) for r in (0, 1)]
    for d in ranks: d.add(6)
    assert [[s[0] for s in d.shards] for d in ranks] == [[2, 4], [3, 5]]
    for d in ranks:
        batch, shots = d.batch(batch_generator(0, 0), 4, 2, first=1.), shots_of(d)
        for i, row in enumerate(batch.shots.tolist()):
            story, k = shots[row]
            clip = encoded(story)["shots"].split(latent_counts(story))[k][:2]
            assert (batch.target[i] - clip).abs().max() < .01


def test_shards_of_others_are_refused(vae, tmp_path):
    first = LatentDataset(vae, folder=tmp_path, shard_size=2)
    first.add(2)
    again = LatentDataset(vae, folder=tmp_path, shard_size=2)
    again.encode = None                                                                # must not be needed
    again.add(2)
    assert torch.equal(again.latents.rows, first.latents.rows) and torch.equal(again.stills.rows, first.stills.rows)
    assert [p.name for p in tmp_path.iterdir()] == [first.path(0).name]
    other = ToyVAE(dims=(16, 16, 8)).eval()
    stranger = LatentDataset(other, folder=tmp_path, shard_size=2)
    assert stranger.path(0) != first.path(0)
    first.path(0).rename(stranger.path(0))                                             # somebody renames a file
    with pytest.raises(ValueError, match="codec"): stranger.add(2)
    stranger.path(0).write_bytes(b"half a fi")
    with pytest.raises(ValueError, match="delete it"): stranger.add(2)
    with pytest.raises(ValueError, match="another codec"): stranger.load_state_dict(first.state_dict())


def test_the_older_format_is_read(vae, tmp_path):
    cache = LatentCache(vae, tmp_path, shard_size=2)
    cache.add(0)
    data = LatentDataset(vae, folder=tmp_path, shard_size=2)
    data.add(2)
    flat = load_file(cache.path(0))
    assert torch.equal(data.latents.rows, torch.cat([flat["0.shots"], flat["1.shots"]]))
    save_file({k: v + .2 for k, v in flat.items()}, cache.path(0))
    with pytest.raises(ValueError, match="another codec"): LatentDataset(vae, folder=tmp_path, shard_size=2).add(2)


def test_bad_requests(vae, data):
    with pytest.raises(ValueError, match="call `add`"): LatentDataset(vae).batch(batch_generator(0, 0), 2, 3)
    with pytest.raises(ValueError, match="no shot has 99 latents"): data.batch(batch_generator(0, 0), 2, 99)
    with pytest.raises(ValueError, match="holds no shard"): LatentDataset(vae, max_stories=3)


def test_shards_hold_the_stories_of_before(data):
    assert [o for i, *_ in data.shards for o in data.stories_of(i)] == [train_story(seed) for seed in range(8)]
