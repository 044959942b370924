"""Variants against what they mean, written out; films as data; losses that reach what should learn."""
import random

import pytest
import torch

from shotstream.evaluate.systems import SYSTEMS
from shotstream.evaluate.variants import (
    SINGLE_TRAINING, FilmDataset, FilmLoss, FilmStudentLoss, FilmCriticLoss, SingleShots, Size, SystemFilms,
    VariantTransformer,
    load_network, make_variant, next_shot_stage)
from shotstream.generate.teacher import sample_shot, teacher_velocity
from shotstream.model.flow import Guidance, Sampling
from shotstream.model.frame_table import causal_mask, next_shot_table
from shotstream.model.kv_cache import KVCache
from shotstream.model.text import compose_prompt
from shotstream.toy.latents import context_picks, index_stories
from shotstream.toy.networks import toy_transformer
from shotstream.toy.vocabulary import encode_captions
from shotstream.toy.world import draw_story
from shotstream.train.loop import Draw, start_machine
from shotstream.train.stages import Models, copy_of


def noise(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(channels=4, text=8, layers=2):
    torch.manual_seed(0)
    model = toy_transformer(latent_channels=channels, text_dim=text, heads=1, layers=layers, ffn=32, patch=1).eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(.15*torch.randn(p.shape))
    return model.requires_grad_(False)


TABLE = next_shot_table([0, 0, 0, 1, 1, 1], 4, 2)
X, TEXT = noise(1, 4, 10, 2, 2), noise(1, 3, 5, 8, seed=1)


def answer(model, x=X, table=TABLE, text=TEXT): return model(x, None, text, table=table).sample


def test_our_own_choice_is_the_plain_network():
    model = network()
    assert torch.equal(answer(make_variant(model)), answer(model))


def test_target_captions():
    model = network()
    table = next_shot_table([0, 0, 0, 1, 1, 1], 4, 2, captions=[2]*7)
    assert torch.equal(table.shot, TABLE.shot), "the shots of the past stay what they are"
    assert not torch.allclose(answer(model), answer(model, table=table))
    assert torch.equal(answer(make_variant(model, captions="target")), answer(model, table=table))


def test_no_distinction_is_no_phase():
    model = network()
    plain = model(X, None, TEXT, table=TABLE, phi=0.).sample
    assert torch.equal(answer(make_variant(model, distinction="none")), plain)
    assert torch.equal(answer(make_variant(model, distinction="embedding")), plain), "the vector is zero at first"
    assert not torch.allclose(plain, answer(model))


def test_the_learned_vector_stands_on_the_first_chunk():
    "By hand: the vector added to the tokens of frames 6, 7 and 8, of all others not"
    model = make_variant(network(), distinction="embedding").requires_grad_(False)
    model.indicator.copy_(noise(model.indicator.shape[0]))
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda block, args: seen.append(args[0]))
    answer(model)
    plain = model.patch_embedding(X).permute(0, 2, 3, 4, 1).flatten(2, 3)        # outside of a call nothing is added
    added = seen[0] - plain
    for f in range(10):
        expected = model.indicator if f in (6, 7, 8) else torch.zeros_like(model.indicator)
        assert torch.allclose(added[0, f], expected.expand_as(added[0, f]), atol=1e-5)


def test_the_learned_vector_goes_through_a_cache():
    "Chunk by chunk with a cache is one look under the causal mask"
    model = make_variant(network(), distinction="embedding").requires_grad_(False)
    model.indicator.copy_(noise(model.indicator.shape[0]))
    clean = TABLE.at(0.)
    whole = model(X, None, TEXT, table=clean, attention_mask=causal_mask(clean, clean)).sample
    cache, parts = KVCache(2), []
    for a, b in ((0, 6), (6, 9), (9, 10)):
        parts.append(model(X[:, :, a:b], None, TEXT, table=clean[a:b], cache=cache).sample)
        cache.append()
    assert torch.allclose(torch.cat(parts, 2), whole, atol=1e-4)


def test_channels_by_hand():
    model = make_variant(network(), injection="channel").requires_grad_(False)
    assert model.config.in_channels == 28 and model.config.out_channels == 4
    first = answer(model)
    assert first.shape[2] == 4 and torch.equal(first, answer(network(), X[:, :, 6:], TABLE[6:])), "zeros at first"
    model.patch_embedding.weight.add_(noise(*model.patch_embedding.weight.shape, seed=3))
    stacked = torch.cat([X[:, :, 6:], *(X[:, :, c:c+1].expand(-1, -1, 4, -1, -1) for c in range(6))], 1)
    plain = super(VariantTransformer, model).forward(stacked, encoder_hidden_states=TEXT, table=TABLE[6:]).sample
    assert torch.equal(answer(model), plain)
    other = X.clone()
    other[:, :, 2] += 1
    assert not torch.allclose(answer(model, other), answer(model)), "the past is seen"
    context, target = X[:, :, :6].transpose(1, 2), X[:, :, 6:].transpose(1, 2)
    assert torch.equal(teacher_velocity(model, context, target, TABLE, TEXT), answer(model).transpose(1, 2))
    film = sample_shot(model, context, TABLE, TEXT, Sampling(2, 3.), Guidance(text=2., history=2.), torch.Generator())
    assert film.shape == (1, 4, 4, 2, 2) and film.isfinite().all()


def test_variants_are_kept(tmp_path):
    for choice in (dict(injection="channel"), dict(captions="target"), dict(distinction="embedding")):
        model = make_variant(network(), **choice).requires_grad_(False)
        for p in model.parameters(): p.add_(.1)
        model.save_pretrained(tmp_path/"a")
        assert torch.equal(answer(load_network(tmp_path/"a")), answer(model))
        assert torch.equal(answer(copy_of(model)), answer(model)) and isinstance(copy_of(model), VariantTransformer)
    network().save_pretrained(tmp_path/"b")
    assert not isinstance(load_network(tmp_path/"b"), VariantTransformer)
    with pytest.raises(ValueError, match="no network in"): load_network(tmp_path/"c")


def test_variants_that_are_none():
    with pytest.raises(ValueError, match="injection is one of frame, channel"):
        make_variant(network(), injection="spoon")
    for choice in (dict(injection="channel"), dict(captions="target")):
        with pytest.raises(ValueError, match="are teachers"):
            make_variant(network(), **choice)(X[:, :, :6], None, TEXT, table=TABLE[:6], cache=KVCache(2))


# Films as data

@pytest.fixture(scope="module")
def data(pipe):
    data = FilmDataset(pipe.vae, pipe.tokenizer, None, 4)
    data.add(4)
    return data


@pytest.fixture(scope="module")
def models(pipe): return Models(pipe.vae, pipe.text_encoder, pipe.tokenizer).frozen("cpu")


def test_films_are_shots_in_a_row(data, pipe):
    stories, g = data.stories_of(0), torch.Generator().manual_seed(0)
    found = set()
    for _ in range(6):
        batch = data.films(g, 2, 2, 3)
        assert batch.target.shape == (2, 6, 32, 8, 8)
        for film, ids in zip(batch.target, batch.ids):
            rows = [r for r in range(len(data.index["number"]) - 1)
                    if all(torch.equal(film[3*k:3*k+3],
                                       data.latents.rows[(a := int(data.index["first_latent"][r+k])):a+3].float())
                           for k in range(2))]
            assert rows, "not two shots in a row"
            r, = rows
            number = int(data.index["number"][r])
            story = stories[int((data.index["number"][:r+1] == 0).sum()) - 1]
            prompts = [compose_prompt(story.caption, story.shots[number+k].caption) for k in range(2)] + [story.caption]
            wanted = pipe.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
            assert torch.equal(ids, wanted)
            found.add(r)
    assert len(found) > 1
    with pytest.raises(ValueError, match="no story has 9 shots of 30"): data.films(g, 1, 9, 30)


def test_film_text_is_that_of_captions(data, models):
    batch = data.films(torch.Generator().manual_seed(0), 2, 2, 3)
    words = [[models.tokenizer.decode(i[m > 0], skip_special_tokens=True) for i, m in zip(*story)]
             for story in zip(batch.ids, batch.mask)]
    with torch.no_grad():
        assert torch.allclose(batch.text(models.text_encoder, True),
                              encode_captions(words, models.tokenizer, models.text_encoder), atol=1e-5)
        assert torch.equal(batch.text(models.text_encoder, True)[:, :2], batch.text(models.text_encoder, False))


def test_single_shots_have_chunks_and_no_past(data):
    batch = SingleShots(data, 5).batch(torch.Generator().manual_seed(0), 2, 9)
    assert batch.target.shape[1] == 5 and batch.context.shape[1] == 0
    assert batch.table.chunk[0].tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("rule", ["published", "first", "first_last"])
def test_a_rule_for_what_shots_look_back_at(pipe, rule):
    story = draw_story(3, n_shots=4, frames=33)
    columns, stills = index_stories([story], pipe.tokenizer, rule)
    for k in range(1, 4):
        wanted = context_picks(story, k, rule)
        assert list(zip(columns["shot"][k].tolist(), columns["frame"][k].tolist())) == wanted
        assert [stills[r][1:] for r in columns["still"][k].tolist()] == wanted
    frames = {"first": {0}, "first_last": {0, 32}}.get(rule)
    assert frames is None or set(columns["frame"][1:].flatten().tolist()) == frames


# Losses

def draw(step=0, part=0.):
    return Draw(step, part, random.Random(step), torch.Generator().manual_seed(step),
                torch.Generator().manual_seed(step))


SIZE = Size(3, 2, 2, 22)


@pytest.mark.parametrize("name", ["mask2dit", "echoshot", "holocine", "multishotmaster"])
def test_flow_on_films(data, models, name):
    model = network(32, 96)
    loss = FilmLoss(model.requires_grad_(True), models.text_encoder, data, SYSTEMS[name], SIZE)
    value, _ = loss(draw())
    value.backward()
    assert value.isfinite() and model.blocks[0].attn1.to_q.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in models.text_encoder.parameters())


def test_last_shot_alone_or_all(data, models):
    "Mask2DiT: where earlier shots are given they are clean and have no loss"
    model, sigmas = network(32, 96), []
    loss = FilmLoss(model, models.text_encoder, data, SYSTEMS["mask2dit"], SIZE)
    forward = model.forward
    def watched(*args, table=None, **more):
        if table is not None: sigmas.append(table.sigma)             # else captions are read
        return forward(*args, table=table, **more)
    model.forward = watched
    for step in range(12): loss(draw(step))
    rows = torch.cat(sigmas)
    given = (rows[:, :3] == 0).all(1)
    assert 4 < given.sum() < 20 and (rows[:, 3:] > 0).all() and (rows[~given] > 0).all()
    assert (rows[:, 3:] == rows[:, 3:4]).all(), "one level for all that is noisy"


def test_film_loss_by_hand(data, models):
    "Mean over noisy frames alone of the squared error of the velocity, story by story"
    model, seen = network(32, 96), []
    loss = FilmLoss(model, models.text_encoder, data, SYSTEMS["mask2dit"], SIZE)
    forward = model.forward
    def watched(x, *args, table=None, **more):
        out = forward(x, *args, table=table, **more)
        if table is not None: seen.append((x.transpose(1, 2), table.sigma, out.sample.transpose(1, 2)))
        return out
    model.forward = watched
    mixed = False
    for step in range(4):
        value, _ = loss(draw(step))
        xt, sigma, v = seen[-1]
        d = draw(step)
        x0, noised = data.films(d.cpu, 2, 2, 3).target, torch.randn(xt.shape, generator=d.own)
        stories = []
        for b in range(2):
            errors = [(v[b, f] - (noised[b, f] - x0[b, f])).pow(2).mean() for f in range(6) if sigma[b, f] > 0]
            mixed |= len(errors) == 3
            stories.append(sum(errors)/len(errors))
        assert torch.allclose(value, sum(stories)/2, rtol=1e-4)
    assert mixed


def test_causvid_noises_every_chunk_at_a_level_of_its_own(data, models):
    model, seen, size = network(32, 96), [], Size(6, 1, 2, 22)
    forward = model.forward
    def watched(x, *args, table=None, attention_mask=None, **more):
        seen.append((table.sigma, attention_mask))
        return forward(x, *args, table=table, attention_mask=attention_mask, **more)
    films = SystemFilms(SYSTEMS["causvid"], models, data, size, True)
    model.forward = watched
    with torch.no_grad(): [films.make(model, draw(step)) for step in range(6)]
    levels = torch.tensor(SYSTEMS["causvid"].schedule.sigmas()[:-1])
    sigma = torch.cat([s for s, _ in seen])
    assert (sigma.unflatten(1, (2, 3)) == sigma[:, ::3, None]).all()
    assert set(sigma.flatten().tolist()) == set(levels.tolist())
    assert (sigma[:, 0] != sigma[:, 3]).any()
    assert seen[0][1][0, 0].tolist() == [True]*3 + [False]*3 and seen[0][1][0, 5].all(), "causal, chunk by chunk"


@pytest.mark.parametrize("name,single",
                         [("self_forcing", True), ("longlive", False), ("rolling_forcing", False), ("causvid", True),
                                         ("longlive2", False)])
def test_rivals_learn_from_their_films(data, models, name, single):
    student, critic, base = network(32, 96).requires_grad_(True), network(32, 96).requires_grad_(True), network(32, 96)
    films = SystemFilms(SYSTEMS[name], models, data, SIZE, single)
    value, _ = FilmCriticLoss(critic, student, films)(draw())
    value.backward()
    assert critic.proj_out.weight.grad.abs().max() > 0 and student.proj_out.weight.grad is None
    for p in critic.parameters(): p.data.mul_(1.1)                                # or the two scores would agree
    critic.requires_grad_(False)
    value, _ = FilmStudentLoss(student, critic, base, films)(draw(1))
    value.backward()
    assert student.blocks[0].attn1.to_q.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in base.parameters())


def test_a_clip_for_the_scores(data, models):
    "One shot of a film under its own caption; of a later one the first latent is a still of the codec"
    student, films = network(32, 96), SystemFilms(SYSTEMS["self_forcing"], models, data, SIZE)
    seen = set()
    for step in range(6):
        d = draw(step)
        order = random.Random(step)
        shots, _, k = order.choice(range(2, 3)), order.randrange(4), order.randrange(2)
        clip, (context, table, text) = films.make(student, d)
        assert clip.shape == (2, 3, 32, 8, 8) and context.shape[1] == 0 and text.shape[1] == 1
        assert table.position[0].tolist() == [0, 1, 2] and table.caption.max() == 0
        batch = data.films(torch.Generator().manual_seed(step), 2, shots, 3)
        with torch.no_grad(): assert torch.equal(text, batch.text(models.text_encoder, False)[:, k:k+1])
        seen.add(k)
    assert seen == {0, 1}


def test_only_what_should_learns(data, models):
    _, machine = start_machine("cpu", "fp32", False)
    def names(**options):
        stage = next_shot_stage("x", make_variant(network(32, 96, layers=4)), models, data, SIZE, machine, **options)
        return {n for n, p in stage.players["model"].loss.named_parameters() if p.requires_grad}
    everything, attention, probed = names(), names(only="attn1"), names(probe=True)
    assert everything and not any("text_encoder" in n for n in everything)
    assert attention == {n for n in everything if "attn1" in n} and len(attention) < len(everything)
    assert {n.split(".")[0] for n in probed - everything} == {"probe"}


def test_variants_see_the_same_examples(data, models):
    "Paired: what a step draws depends on nothing that a variant changes"
    _, machine = start_machine("cpu", "fp32", False)
    seen = []
    for choice, options in ((dict(), dict()), (dict(captions="target"), dict(only="attn1")),
                            (dict(injection="channel"), {}),
                            (dict(), dict(probe=True)), (dict(), dict(dropout=0.))):
        stage = next_shot_stage("x", make_variant(network(32, 96, layers=4), **choice), models, data, SIZE, machine,
                                **options)
        loss = stage.players["model"].loss
        batch = loss.batch(draw(3, .2))
        value, _ = loss(draw(3, .2))
        seen.append((batch.target, batch.shots, bool((batch.context == 0).flatten(1).all(1).any())))
        assert value.isfinite()
    for target, shots, _ in seen[1:]: assert torch.equal(target, seen[0][0]) and torch.equal(shots, seen[0][1])


def test_context_is_left_out_now_and_then(data, models):
    _, machine = start_machine("cpu", "fp32", False)
    def blank(dropout):
        stage = next_shot_stage("x", make_variant(network(32, 96)), models, data, SIZE, machine, dropout=dropout)
        batches = [stage.players["model"].loss.batch(draw(i)) for i in range(40)]
        later = [(data.index["number"][b.shots] > 0) for b in batches]
        return sum(int(((b.context == 0).flatten(1).all(1) & l).sum()) for b, l in zip(batches, later))
    assert blank(0.) == 0 < blank(.5)


def test_single_shots_have_no_history_to_be_guided_by():
    assert SINGLE_TRAINING.score_guidance.history == SINGLE_TRAINING.pair_guidance.history == 1
    assert SINGLE_TRAINING.score_guidance.text == 2
