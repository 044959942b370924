"""What the stages of training do beside their losses: who learns, what is drawn, pasts, pairs on disk, weights between
two. And what every stage asks its networks: the options of training reach each pass."""
import random
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny import LATENTS, SMALL, network, tiny_shot

from shotstream.generate.teacher import TOY_TRAINING, teacher_loss, teacher_velocity
from shotstream.model.files import InputError, write_tensors
from shotstream.model.frame_table import next_shot_table
from shotstream.model.transformer import ShotTransformer
from shotstream.toy.latents import LatentDataset, encode_ids
from shotstream.toy.networks import ASSETS, toy_text_encoder
from shotstream.toy.render import render_shot
from shotstream.toy.vae import ToyVAE, psnr
from shotstream.toy.vocabulary import encode_captions, toy_tokenizer
from shotstream.toy.world import draw_story
from shotstream.train import stages
from shotstream.train.loop import Draw, Machine
from shotstream.train.ode import ode_loss
from shotstream.train.stages import (
    SIZES, CriticLoss, Models, OdeLoss, OdePairs, OdeStage, OwnHistory, PairSettings, RefitStage, SelfForcingStage,
    StudentLoss, TeacherLoss, TeacherStage, ToySize, TrueHistory, add_lora, channel_weight, check_provenance, copy_of,
    encode_batch, for_device, generate_ode_pairs, lerp_weights, merged, muon, own_history, sharpness_and_motion,
    toy_models, true_frames, validate, validation_examples, weights_hash)

CPU = Machine(torch.device("cpu"), "fp32", False)
SIZE = ToySize(1, 4, 32, 24, 2)
OPTIONS = replace(TOY_TRAINING, pair_steps=2, sampling=replace(TOY_TRAINING.sampling, phi=.3, context_time="target"))
PUBLISHED_TIME = replace(TOY_TRAINING, sampling=replace(TOY_TRAINING.sampling, context_time="target"))


def draw(step=0, part=.5):
    return Draw(step, part, random.Random(step), *(torch.Generator().manual_seed(step) for _ in range(2)))


@pytest.fixture
def vae():
    torch.manual_seed(0)
    vae = ToyVAE(z_dim=4, dims=(8, 8, 8)).eval()
    for p in vae.parameters(): torch.nn.init.normal_(p, std=.1)
    return vae


@pytest.fixture
def models(vae):
    tokenizer = toy_tokenizer()
    return Models(vae, toy_text_encoder(len(tokenizer), 12).eval(), tokenizer, network(1))


class Condition:
    "A source that always has the same shot"
    def condition(self, draw): return tiny_shot()


@pytest.fixture
def small():
    torch.manual_seed(0)
    return ShotTransformer(**SMALL).eval()


def test_lora_can_be_taken_away(small):
    "Added, trained, merged, and subtracted again"
    x, text, table = torch.randn(1, 4, 9, 4, 4), torch.randn(1, 2, 5, 12), next_shot_table([0]*6, 3, 1)
    before, weights = small(x, None, text, table=table).sample, {k: v.clone() for k, v in small.state_dict().items()}
    add_lora(small, 3)
    assert torch.allclose(small(x, None, text, table=table).sample, before, atol=1e-6)
    trained = [n for n, p in small.named_parameters() if p.requires_grad]
    # two matrices for ten linear maps of two blocks
    assert len(trained) == 2*10*2 and all("lora_" in n for n in trained)
    with torch.no_grad():
        for p in small.parameters():
            if p.requires_grad: p += .1*torch.randn_like(p)
    plain = ShotTransformer(**SMALL)
    plain.load_state_dict(merged(small))
    after = small(x, None, text, table=table).sample
    assert torch.allclose(plain(x, None, text, table=table).sample, after, atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-3)
    untouched = {k for k, v in plain.state_dict().items() if torch.equal(v, weights[k])}
    assert len(plain.state_dict()) - len(untouched) == 20


def test_own_past_of_a_first_shot(vae):
    "Zeros of shot 0 under the new shot's own caption, which is caption 0"
    context, table = own_history(vae, [], 5, 2)
    assert context.shape == (2, 6, 4, 8, 8) and not context.any()
    assert table.caption.unique().tolist() == [0] and table.shot[0].tolist() == [0]*6 + [1]*5


def test_own_past_of_later_shots(vae):
    shots = [torch.randn(2, 3, 4, 2, 2) for _ in range(2)]
    context, table = own_history(vae, shots, 4, 2)
    assert context.shape == (2, 6, 4, 2, 2) and table.shot[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert torch.equal(table.caption, table.shot)


# Networks

def test_what_does_not_learn(models):
    models.classifier = torch.nn.Linear(2, 2)
    for m in (models.vae, models.teacher, models.classifier): m.train()
    assert models.frozen("cpu") is models
    parts = (models.vae, models.text_encoder, models.teacher, models.classifier)
    assert not any(m.training for m in parts) and not any(p.requires_grad for m in parts for p in m.parameters())
    models.teacher = None
    models.frozen("cpu")


def test_a_new_network_answers_zero_and_a_gpu_takes_more():
    size = SIZES["tiny"]
    model = size.transformer()
    assert not model.proj_out.weight.any() and not model.proj_out.bias.any() and len(model.blocks) == size.layers
    big = for_device(size, "cuda")
    assert (big.frames, big.films, big.heads) == (10*size.frames, 8*size.films, size.heads)
    assert for_device(size, "cpu") is size


def test_a_copy_learns_and_is_its_own():
    model = network(0).requires_grad_(False)
    copy = copy_of(model)
    assert type(copy) is type(model) and all(p.requires_grad for p in copy.parameters())
    for (n, a), b in zip(copy.named_parameters(), model.parameters()):
        assert torch.equal(a, b) and a.data_ptr() != b.data_ptr(), n


def test_matrices_of_the_blocks_go_to_muon():
    model = network(0)
    loss = torch.nn.ModuleDict(dict(model=model, words=torch.nn.Linear(3, 3)))
    optimizer = muon(loss, model, .01, CPU)
    by_muon = {id(p): g["lr"] for g in optimizer.param_groups if g["use_muon"] for p in g["params"]}
    rest = {id(p): g["lr"] for g in optimizer.param_groups if not g["use_muon"] for p in g["params"]}
    assert set(by_muon) == {id(p) for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2}
    assert set(rest) == {id(p) for p in loss.parameters()} - set(by_muon)
    assert set(by_muon.values()) == {.01} and list(rest.values()) == pytest.approx([.004]*len(rest))


def test_weights_between_two():
    a, b = {"x": torch.tensor([0., 10.]).half()}, {"x": torch.tensor([4., 20.])}
    for part, expected in ((0, [0, 10]), (.25, [1, 12.5]), (1, [4, 20])):
        assert lerp_weights(a, b, part)["x"].tolist() == expected


def test_a_hash_of_weights_sees_everything():
    model = torch.nn.Linear(2, 2)
    name = weights_hash(model)
    assert len(name) == 12 and weights_hash(copy_linear(model)) == name
    for change in (lambda m: m.weight.data[0, 0].add_(1e-6), lambda m: m.half(), lambda m: m.bias.data.neg_()):
        other = copy_linear(model)
        change(other)
        assert weights_hash(other) != name


def copy_linear(model):
    other = torch.nn.Linear(2, 2)
    other.load_state_dict(model.state_dict())
    return other


# What is read

def test_channels_weigh_by_the_root_of_their_spread(vae):
    vae.latents_std.copy_(torch.tensor([1., 4., 9., 16.]))
    weight = channel_weight(vae)
    assert weight.shape == (4, 1, 1) and weight.flatten().tolist() == pytest.approx([.4, .8, 1.2, 1.6])


def test_the_context_is_told_the_level_only_if_published():
    model, x0, asked = network(0), torch.zeros(1, LATENTS, 4, 4, 4), []
    model.register_forward_pre_hook(lambda m, args, kwargs: asked.append(kwargs["table"].sigma[0].tolist()),
                                    with_kwargs=True)
    for options in (TOY_TRAINING, PUBLISHED_TIME):
        teacher_loss(model, tiny_shot(), x0, torch.tensor([.3]), options.sampling)
    assert asked == [pytest.approx([0.]*6 + [.3]*LATENTS), pytest.approx([.3]*(6 + LATENTS))]


def test_no_more_tokens_are_read_than_there_are(models):
    ids = models.tokenizer(["the red ball waves.", "the ball"], padding="max_length", return_tensors="pt")
    batch, seen = SimpleNamespace(ids=ids.input_ids[None], mask=ids.attention_mask[None]), []
    models.text_encoder.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs["input_ids"].shape),
                                                  with_kwargs=True)
    text = encode_batch(models.text_encoder, batch)
    assert seen == [(2, int(batch.mask.sum(-1).max()))]
    assert (text - encode_ids(batch.ids, batch.mask, models.text_encoder)).abs().max() < 1e-5


def test_as_many_shots_as_fit():
    "180 latents of a step, half of them for single shots; at most 45 stills, at least 2 shots"
    asked = []
    data = SimpleNamespace(device=torch.device("cpu"), single_batch=lambda g, n, frames: asked.append((n, frames)))
    loss = TeacherLoss(network(0), None, data, torch.ones(4, 1, 1), 180, lengths=((1,), (9,)))
    for part in (0., .39, .4): loss.batch(draw(part=part), 1)
    loss.batch(draw(part=.9), 3)
    assert asked == [(45, 1), (45, 1), (10, 9), (30, 9)]
    loss.frames = 20
    loss.batch(draw(part=.9), 1)
    assert asked[-1] == (2, 9) and loss.ahead == 1


def test_stories_with_their_true_past(models):
    asked = []
    batch = SimpleNamespace(context="c", table="t", ids=torch.ones(1, 1, 3, dtype=torch.long),
                            mask=torch.ones(1, 1, 3, dtype=torch.long))
    def of(g, n, frames):
        asked.append((n, frames))
        return batch
    source = TrueHistory(models, SimpleNamespace(batch=of), 8)
    for step in range(20): context, table, text = source.condition(draw(step))
    assert (context, table) == ("c", "t") and not text.requires_grad
    assert {frames for _, frames in asked} == {5, 9, 13, 21} and dict(map(reversed, asked)) == {
        5: 10, 9: 8, 13: 6, 21: 4}


def test_stories_that_the_student_films_itself(models):
    "Shot after shot its own film is the past; a story that is over makes room for a new one; a state goes on"
    source, student = OwnHistory(models, 2, "cpu", shots=2), network(0)
    source.begin(draw(1))
    context, table, text = source.condition(draw(1))
    frames = source.state["frames"]
    assert context.shape == (2, 6, 4, 8, 8) and not context.any() and len(table) == 6 + frames
    assert text.shape[:2] == (2, 2)
    source.filmed(student)
    assert source.state["done"][0].shape == (2, frames, 4, 8, 8)
    source.begin(draw(2))
    context, table, again = source.condition(draw(2))
    assert torch.equal(again, text) and context.any() and table.shot[0, :6].tolist() == [0]*6
    assert table.shot[0, -1] == 1
    other = OwnHistory(models, 2, "cpu", shots=2)
    other.load_state_dict(source.state_dict())
    assert torch.equal(other.condition(draw(2))[0], context)
    source.filmed(student)
    source.begin(draw(3))
    assert not source.state["done"] and not torch.equal(source.state["text"], text)


@torch.no_grad()
def test_true_frames_are_the_renders(vae):
    data = LatentDataset(vae, shard_size=2)
    data.stories_of = lambda i: [draw_story(2*i + j, n_shots=2, frames=9) for j in range(2)]
    data.add(2)
    rows = [(draw_story(j, n_shots=2, frames=9), k) for j in range(2) for k in range(2)]
    batch = SimpleNamespace(target=torch.zeros(3, 2, 4, 8, 8), shots=torch.tensor([3, 0, 2]))
    frames = true_frames(data, batch)
    assert frames.shape == (3, 3, 5, 64, 64)
    for got, row in zip(frames, (3, 0, 2)):
        film = render_shot(*rows[row])[:5]
        assert torch.equal(((got + 1)*127.5).round(), film.permute(3, 0, 1, 2).float())


@torch.no_grad()
def test_what_the_past_is_worth(models):
    "The same third shots every time; losses with their own past, with none and with another story's; PSNR by steps"
    examples = validation_examples(models, 2)
    assert validation_examples(models, 2) is examples
    context, x0, table, prompts = examples
    assert context.shape == (2, 6, 4, 8, 8) and x0.shape == (2, 9, 4, 8, 8) and table.shot[0, -1] == 2
    found = validate(models.teacher, models.text_encoder, models, examples, past=True)
    text = encode_captions(prompts, models.tokenizer, models.text_encoder)
    noise, sigma = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)), torch.tensor([.1, .95])
    def loss(context, table):
        condition = context, table, text
        return teacher_loss(models.teacher, condition, x0, sigma, TOY_TRAINING.sampling, noise).mean().item()
    nothing = torch.zeros_like(context), replace(table, shot=table.target.long(),
                                                 caption=table.caption[:, -1:].expand(-1, 15))
    expected = dict(own_history=loss(context, table), no_history=loss(*nothing),
                    other_history=loss(context.flip(0), table))
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-3) and len(set(expected.values())) == 3
    alone = validate(models.teacher, models.text_encoder, models, examples, past=False)
    assert set(alone) == {"psnr_0.9", "psnr_0.5"}
    xt = .5*x0 + .5*noise
    v = teacher_velocity(models.teacher, context[:, :0], xt, table.at(.5)[slice(6, None)], text)
    films = [models.vae.decode(z.transpose(1, 2)).sample for z in (xt - .5*v, x0)]
    assert alone["psnr_0.5"] == pytest.approx(psnr(*films).item(), abs=.01) != found["psnr_0.5"]


# Pairs

def some_pairs(folder, n=4, files=1):
    table = next_shot_table([0]*6, LATENTS, 1)
    rows = {f"table.{k}": v.expand(n, -1).contiguous() for k, v in vars(table).items()}
    for i in range(files):
        g = torch.Generator().manual_seed(i)
        write_tensors(folder/f"{i:05d}.safetensors", dict(
            context=torch.randn(n, 6, 4, 4, 4, generator=g).half(),
            states=torch.randn(n, 5, LATENTS, 4, 4, 4, generator=g).half(),
            text=torch.randn(n, 2, 5, 12, generator=g).half(), **rows))


@torch.no_grad()
def test_a_regression_on_some_stories_of_a_file(tmp_path):
    with pytest.raises(InputError, match="no ODE pairs"): OdePairs(tmp_path)
    some_pairs(tmp_path)
    pairs, student, seen = OdePairs(tmp_path), network(0), []
    def watch(model, condition, states, sampling, generator):
        seen.append((condition[0], condition[2], sampling))
        return ode_loss(model, condition, states, sampling, generator)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(stages, "ode_loss", watch)
        losses = [pairs.loss(student, draw(i), TOY_TRAINING, n=2) for i in range(12)]
    whole = pairs.batches[0]["context"].float()
    starts = [next(i for i in range(3) if torch.equal(whole[i:i+2], c)) for c, *_ in seen]
    assert set(starts) == {0, 1, 2} and losses[0].shape == () and seen[0][2] is TOY_TRAINING.sampling
    told = pairs.batches[0]["text"].float()
    dropped = [not text[j].any() for start, (_, text, _) in zip(starts, seen) for j in range(2)]
    assert all(not x.any() or torch.equal(x, told[start+j]) for start, (_, text, _) in zip(starts, seen)
               for j, x in enumerate(text))
    assert 0 < sum(dropped) < len(dropped)/2
    g = torch.Generator().manual_seed(5)
    several = OdeLoss(student, SimpleNamespace(loss=lambda *a: torch.rand((), generator=g)), batches=3)(draw())[0]
    assert several == torch.rand(3, generator=torch.Generator().manual_seed(5)).sum()/3


def test_each_process_makes_its_own_files_once(tmp_path, models, monkeypatch):
    made = []
    def fake(models, data, machine, n, seed, sampling, options):
        made.append((n, seed, sampling.steps))
        return dict(x=torch.zeros(n))
    monkeypatch.setattr(stages, "ode_pairs", fake)
    data, two = SimpleNamespace(provenance=dict(codec="abc")), Machine(torch.device("cpu"), "fp32", False, 2)
    def make(rank, pairs=10, **more):
        settings = PairSettings(2, rank=rank, progress=False, **more)
        return generate_ode_pairs(tmp_path, models, data, two, pairs, settings=settings)
    assert make(1) == 4 and sorted(p.stem for p in tmp_path.iterdir()) == ["00001", "00003"]
    assert make(0) == 10 and len(made) == 5 and len({seed for _, seed, _ in made}) == 5
    assert {(n, steps) for n, _, steps in made} == {(2, TOY_TRAINING.pair_steps)}
    assert make(0) == 10 and len(made) == 5                                   # what is there is kept
    with pytest.raises(InputError, match="seed"): make(0, seed=1)
    with torch.no_grad(): models.teacher.proj_out.bias += 1
    with pytest.raises(InputError, match="teacher.*delete this folder"): make(0)


def test_provenance_of_before(tmp_path):
    path = tmp_path/"a.safetensors"
    write_tensors(path, dict(x=torch.zeros(1)), dict(seed="0"))
    check_provenance(path, dict(seed="0", sampling="new"))                         # the first ones do not say
    with pytest.raises(InputError, match="'0'.*'1'"): check_provenance(path, dict(seed="1"))
    path.write_bytes(b"half a fi")
    with pytest.raises(InputError, match="delete it"): check_provenance(path, {})


# Losses and stages

def test_sharpness_and_motion_by_hand():
    video = torch.zeros(1, 2, 3, 4, 3, dtype=torch.uint8)
    video[:, 1, :, 2:] = 51                                                   # one edge of three, half of the pixels
    assert sharpness_and_motion(video) == dict(sharp=round(.2/3/2, 4), motion=.1)


def test_the_critic_learns_from_films_and_the_student_does_not():
    critic, student = network(1), network(0)
    loss = CriticLoss(critic, student, Condition(), TOY_TRAINING)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in critic.parameters()}
    torch.manual_seed(0)
    loss(draw())[0].backward()
    assert all(p.grad is None for p in student.parameters()) and any(p.grad is not None for p in critic.parameters())


def test_the_student_learns_from_scores_and_a_little_from_pairs():
    student, critic, teacher, asked = network(0), network(1), network(2), []
    def loss_of(model, draw, options, n):
        asked.append((model, n))
        return torch.tensor(8.)
    def made(**more):
        torch.manual_seed(0)
        loss = StudentLoss(student, critic, teacher, Condition(), **more)
        assert {id(p) for p in loss.parameters()} == {id(p) for p in student.parameters()}
        return loss(draw())[0]
    plain, both = made(), made(pairs=SimpleNamespace(loss=loss_of), regression_weight=.5)
    assert both.item() == pytest.approx(plain.item() + 4) and asked == [(student, 1)]
    assert made(pairs=SimpleNamespace(loss=loss_of), regression_weight=0).item() == plain.item() and len(asked) == 1
    both.backward()
    assert all(p.grad is None for m in (critic, teacher) for p in m.parameters())


@pytest.mark.parametrize("lora", [0, 2])
def test_a_stage_of_self_forcing(tmp_path, monkeypatch, models, lora):
    "Three steps of the critic for one of the student; the source sees what was filmed; part of the way is kept"
    monkeypatch.setattr(stages, "Screening", lambda *args: None)
    begun = []
    source = SimpleNamespace(filmed=lambda student: begun.append(student), begin=lambda draw: begun.append(draw.step))
    start, critic = network(0), network(1)
    stage = SelfForcingStage("x", start, critic, models, source, CPU, tmp_path, lora=lora, keep=.25, lr=1e-3)
    assert stage.turns(.5) == ["critic"]*3 + ["student"] and stage.student is not start
    rates = {n: p.optimizer.param_groups[0]["lr"] for n, p in stage.players.items()}
    assert rates == dict(critic=pytest.approx(3e-3), student=1e-3)
    assert all(("lora_" in n) == bool(lora) for n, p in stage.student.named_parameters() if p.requires_grad)
    stage.begin(draw(0)), stage.begin(draw(1))
    assert begun == [0, stage.student, 1]
    with torch.no_grad():
        for p in (*stage.student.parameters(), *stage.critic.parameters()): p += .5*p.requires_grad
    stage.finish(tmp_path)
    student, seen = (load_file(tmp_path/n/"diffusion_pytorch_model.safetensors") for n in ("transformer", "critic"))
    trained, old = merged(stage.student), start.state_dict()
    assert list(student) == sorted(old) and any(not torch.equal(student[k], old[k]) for k in old)
    for k in old: torch.testing.assert_close(student[k], old[k] + .25*(trained[k] - old[k]))
    for k, v in merged(stage.critic).items(): assert torch.equal(seen[k], v)


# What every pass is told

@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    toy = replace(toy_models(ASSETS/"toy"/"text_encoder"), teacher=SIZE.transformer())
    toy.text_encoder = toy_text_encoder(len(toy.tokenizer))
    return toy.frozen("cpu")


@pytest.fixture(scope="module")
def data(toy):
    data = LatentDataset(toy.vae, toy.tokenizer, shard_size=2)
    data.stories_of = lambda i: [draw_story(2*i + j, n_shots=3, frames=81) for j in range(2)]
    data.add(2)
    return data


@pytest.fixture(scope="module")
def pairs(toy, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    generate_ode_pairs(folder, toy, data, CPU, pairs=1, settings=PairSettings(1, options=OPTIONS, progress=False))
    return OdePairs(folder)


@pytest.fixture
def seen(monkeypatch):
    "Of every pass: the phase jump, and the noise levels of its context"
    seen, angles, made = [], ShotTransformer.rope_angles, stages.validation_examples
    def spy(self, table, cache, rows, columns, phi):
        seen.append((phi, table.sigma[~table.target].tolist(), table.sigma[table.target].tolist()))
        return angles(self, table, cache, rows, columns, phi)
    monkeypatch.setattr(ShotTransformer, "rope_angles", spy)
    monkeypatch.setattr(stages, "validation_examples", lambda models, n: made(models, 2))
    monkeypatch.setattr(stages, "Screening", partial(stages.Screening, n=2))
    return seen


def stage_of(name, models, data, pairs, folder):
    if name in ("base", "teacher"): return TeacherStage(name, models, data, SIZE, CPU, options=OPTIONS)
    if name == "ode": return OdeStage(models, pairs, CPU, folder, options=OPTIONS)
    if name == "refit": return RefitStage(models, data, CPU, 2, options=OPTIONS)
    source = TrueHistory(models, data, 2) if name == "stage1" else OwnHistory(models, 2, "cpu", 2, OPTIONS)
    return SelfForcingStage(name, models.teacher, models.teacher, models, source, CPU, folder, pairs, options=OPTIONS)


@pytest.mark.parametrize("name", ["base", "teacher", "ode", "stage1", "stage2", "refit"])
def test_the_phase_jump_reaches_every_pass(name, toy, data, pairs, seen, tmp_path):
    "Losses, films between steps and reports; a default anywhere would train another model than is asked for"
    stage = stage_of(name, toy, data, pairs, tmp_path)
    for step in range(2):
        stage.begin(draw(step))
        for player in sorted(stage.players, reverse=True):               # the decoder before its critic
            assert stage.players[player].loss(draw(step))[0].isfinite()
    assert seen and {phi for phi, *_ in seen} == {.3}
    del seen[:]
    with torch.no_grad(): stage.report()
    assert seen and {phi for phi, *_ in seen} == {.3}


def test_trajectories_have_it_too(toy, data, seen, tmp_path):
    generate_ode_pairs(tmp_path, toy, data, CPU, pairs=1, settings=PairSettings(1, options=OPTIONS, progress=False))
    assert seen and {phi for phi, *_ in seen} == {.3}


@pytest.mark.parametrize("name", ["teacher", "refit"])
def test_the_context_time_reaches_reports_and_losses(name, toy, data, pairs, seen, tmp_path):
    "Told the target's noise level: as many levels of context as of the target, and none is 0"
    stage = stage_of(name, toy, data, pairs, tmp_path)
    stage.players["decoder" if name == "refit" else name].loss(draw(0))
    with torch.no_grad(): stage.report()
    assert all(set(context) <= set(target) and 0 not in context for _, context, target in seen)
