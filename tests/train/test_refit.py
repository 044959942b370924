"""The decoder is trained on wrong latents; what latents depend on must not move."""
import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import SMALL

from shotstream.toy.vae import ToyVAE
from shotstream.model.pixels import VideoStream, to_float
from shotstream.model.frame_table import next_shot_table, stack_stories
from shotstream.generate.teacher import TOY_SAMPLING as SAMPLING
from shotstream.model.flow import add_noise
from shotstream.toy.classifier import AttributeClassifier
from shotstream.toy.latents import codec_hash
from shotstream.train.refit import (
    FrameCritic, Refit, RefitWeights, hinge_loss, classifier_distance, make_wrong_latents, mix_latents, refit_loss)
from shotstream.model.transformer import ShotTransformer

PLAIN = RefitWeights(perceptual=0., adversarial=0.)


def noise(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def vae():
    torch.manual_seed(0)
    vae = ToyVAE(z_dim=4, dims=(8, 8, 8))
    for p in vae.parameters(): torch.nn.init.normal_(p, std=.1)
    return vae


@pytest.fixture
def classifier():
    torch.manual_seed(1)
    return AttributeClassifier(width=8, features=16).eval()


@pytest.fixture
def shots():
    "(context, latents, table, text) of two stories, small"
    table = stack_stories(*[next_shot_table([0]*3 + [1]*3, 3, 2)]*2)
    return noise(2, 6, 4, 2, 2), noise(2, 3, 4, 2, 2, seed=1), table, noise(2, 3, 5, 12, seed=2)


def step(refit, latents, video):
    "One plain step of the decoder, then of the critic; returns their losses"
    def update(loss, m):
        for p, g in zip(m.parameters(), torch.autograd.grad(loss, list(m.parameters()))): p.data -= .05*g
        return loss.item()
    loss, _, output = refit.decoder_loss(latents, video)
    return update(loss, refit.vae.decoder), update(refit.critic_loss(video, output), refit.critic)


def test_the_hash_is_that_of_the_encoder_and_its_statistics(vae):
    name = codec_hash(vae)
    assert len(name) == 12 and codec_hash(copy.deepcopy(vae)) == name
    for p in vae.decoder.parameters(): p.data += 1
    assert codec_hash(vae) == name
    for change in (lambda v: v.encoder.linear.bias.data.add_(.1), lambda v: v.latents_mean.add_(.1),
                   lambda v: v.latents_std.mul_(1.1)):
        other = copy.deepcopy(vae)
        change(other)
        assert codec_hash(other) != name
    assert codec_hash(copy.deepcopy(vae).half()) == name, "shipped in half precision, and still the same codec"


def test_the_hash_survives_saving(vae, tmp_path):
    vae.half().save_pretrained(tmp_path)
    assert codec_hash(ToyVAE.from_pretrained(tmp_path, torch_dtype=torch.float32)) == codec_hash(vae)


class Straight(torch.nn.Module):
    "A teacher that knows the way: velocity = (x - x0)/sigma, so any number of steps ends at `x0`"
    def __init__(self, x0, sigmas): super().__init__(); self.x0, self.seen = x0, sigmas
    def forward(self, latents, _, text, table=None, phi=None, num_context=0):
        target = latents.transpose(1, 2)[:, -self.x0.shape[1]:]
        sigma = table.sigma[:, -self.x0.shape[1]:]
        self.seen.append(sigma[:, 0])
        v = latents.transpose(1, 2).clone()                                # what it says of the context must not matter
        v[:, -self.x0.shape[1]:] = (target - self.x0)/sigma[..., None, None, None]
        return SimpleNamespace(sample=v.transpose(1, 2))


@pytest.mark.parametrize("steps", ((3, 7), (1, 1), (4, 4)))
def test_a_perfect_teacher_makes_no_wrong_latents(shots, steps):
    context, x0, table, text = shots
    seen = []
    out = make_wrong_latents(Straight(x0, seen), (context, table, text), x0, SAMPLING, torch.Generator().manual_seed(3),
                             (.5, .8), steps)
    assert torch.allclose(out, x0, atol=1e-4)
    assert steps[0] <= len(seen) <= steps[1]
    start = seen[0]
    assert ((.5 <= start) & (start <= .8)).all() and start[0] != start[1], "every film has a level of its own"
    for i, sigma in enumerate(seen): assert torch.allclose(sigma, start*(1 - i/len(seen)), atol=1e-6)


def test_all_numbers_of_steps_are_drawn(shots):
    context, x0, table, text = shots
    counts = set()
    for seed in range(60):
        seen = []
        make_wrong_latents(Straight(x0, seen), (context, table, text), x0, SAMPLING,
                           torch.Generator().manual_seed(seed))
        counts.add(len(seen))
    assert counts == {3, 4, 5, 6, 7}


def test_wrong_latents_by_hand(shots):
    "One Euler step of a real transformer, its context clean, without guidance; the same seed gives the same latents"
    context, x0, table, text = shots
    torch.manual_seed(0)
    teacher = ShotTransformer(**SMALL).eval()
    def made(sampling=SAMPLING):
        seed = torch.Generator().manual_seed(5)
        return make_wrong_latents(teacher, (context, table, text), x0, sampling, seed, (.6, .6), (1, 1))
    out = made()
    g = torch.Generator().manual_seed(5)
    torch.rand(2, generator=g), torch.randint(1, 2, (), generator=g)
    x = add_noise(x0, torch.randn(x0.shape, generator=g), .6)
    both = torch.cat([context, x], 1).transpose(1, 2)
    with torch.no_grad(): v = teacher(both, None, text, table=table.at(.6)).sample.transpose(1, 2)[:, 6:]
    assert torch.allclose(out, x - .6*v, atol=1e-5) and not out.requires_grad
    assert torch.equal(out, made())
    assert not torch.equal(out, made(replace(SAMPLING, context_time="target")))


@pytest.mark.parametrize("arguments",
                         [dict(sigmas=(0., .5)), dict(sigmas=(.8, .5)), dict(sigmas=(.5, 1.2)), dict(steps=(0, 3)),
                          dict(steps=(5, 3))])
def test_wrong_settings_are_refused(shots, arguments):
    with pytest.raises(ValueError, match="rise"): make_wrong_latents(None, None, shots[1], SAMPLING, **arguments)


def test_a_third_stays_clean():
    clean, wrong = torch.zeros(3000, 2, 1, 1, 1), torch.ones(3000, 2, 1, 1, 1)
    out = mix_latents(clean, wrong, torch.Generator().manual_seed(0))
    assert out.mean().item() == pytest.approx(2/3, abs=.03) and torch.equal(out[:, 0], out[:, 1]), "whole films"
    assert not mix_latents(clean, wrong, clean_share=1.).any() and mix_latents(clean, wrong, clean_share=0.).all()
    with pytest.raises(ValueError): mix_latents(clean, wrong[:5])


def test_the_critic_sees_each_group_of_four_alone():
    torch.manual_seed(0)
    critic, video = FrameCritic(width=8).eval(), noise(1, 3, 9, 32, 32)
    a = critic(video)
    assert a.shape == (3, 1, 4, 4)
    video[:, :, 5:] += 1                                                  # the last group
    b = critic(video)
    assert torch.equal(a[:2], b[:2]) and not torch.allclose(a[2], b[2], atol=1e-3)


def test_hinge_loss_by_hand():
    real, fake = noise(40), noise(40, seed=1)
    slow = sum(max(0., 1 - r) for r in real.tolist())/40 + sum(max(0., 1 + f) for f in fake.tolist())/40
    assert hinge_loss(real, fake).item() == pytest.approx(slow, abs=1e-6)
    one = torch.ones(1)
    assert hinge_loss(one, -one) == 0 and hinge_loss(-one, one) == 4


def test_classifier_distance_by_hooks(classifier):
    "Layer by layer, frame by frame, by another way through the network"
    a, b = noise(2, 3, 9, 64, 64).tanh(), noise(2, 3, 9, 64, 64, seed=1).tanh()
    seen = []
    hooks = [layer.register_forward_hook(lambda m, i, o: seen.append(o)) for layer in list(classifier.backbone)[1:]]
    with torch.no_grad():
        for x in (a, b): classifier(((x[:, :, ::4] + 1)*127.5).permute(0, 2, 3, 4, 1))
    for h in hooks: h.remove()
    layers = len(seen)//2
    unit = [x/x.norm(dim=1, keepdim=True) for x in seen]
    slow = sum((u - v).abs().sum(1).mean() for u, v in zip(unit[:layers], unit[layers:]))/layers
    with torch.no_grad(): assert classifier_distance(classifier, a, b).item() == pytest.approx(slow.item(), rel=1e-4)
    assert classifier_distance(classifier, a, a) == 0


def test_refit_loss_adds_up(classifier):
    a, b, critic = noise(1, 3, 5, 64, 64).tanh(), noise(1, 3, 5, 64, 64, seed=1).tanh(), FrameCritic(width=8).eval()
    weights = RefitWeights(2., 3., .5, .25)
    loss, parts = refit_loss(a, b, classifier, critic, weights)
    edge = sum(((a.diff(dim=d) - b.diff(dim=d)).abs().mean()) for d in (-1, -2))
    slow = 2*(a-b).abs().mean() + 3*edge + .5*classifier_distance(classifier, a, b) - .25*critic(a).mean()
    assert loss.item() == pytest.approx(slow.item(), rel=1e-5) and set(parts) == {"pixel", "edge", "perceptual",
            "adversarial"}
    assert refit_loss(a, a, weights=PLAIN)[0] == 0
    for missing in (dict(classifier=classifier), dict(critic=critic)):
        with pytest.raises(ValueError, match="give one"): refit_loss(a, b, **missing)
    with pytest.raises(ValueError, match="one shape"): refit_loss(a, b[:, :, :1], weights=PLAIN)


def test_only_the_decoder_and_the_critic_move(vae, classifier):
    refit = Refit(vae, classifier, FrameCritic(width=8))
    before = {k: v.clone() for k, v in refit.state_dict().items()}
    step(refit, noise(2, 2, 4, 8, 8), noise(2, 3, 5, 64, 64).tanh())
    moved = {k for k, v in refit.state_dict().items() if not torch.equal(v, before[k])}
    assert any(k.startswith("vae.decoder.") for k in moved) and any(k.startswith("critic.") for k in moved)
    assert not {k for k in moved if not k.startswith(("vae.decoder.", "critic."))}
    assert codec_hash(vae) == codec_hash(Refit(vae).vae) and all(p.grad is None for p in refit.parameters())


def test_the_critic_does_not_learn_from_the_decoders_step(vae, classifier):
    refit = Refit(vae, classifier, FrameCritic(width=8))
    latents, video = noise(1, 2, 4, 8, 8), noise(1, 3, 5, 64, 64).tanh()
    loss, _, output = refit.decoder_loss(latents, video)
    loss.backward()
    assert all(p.grad is None for p in refit.critic.parameters()) and any(p.grad is not None
            for p in vae.decoder.parameters())
    assert not output.requires_grad and all(p.requires_grad for p in refit.critic.parameters())
    vae.zero_grad()
    refit.critic_loss(video, output).backward()
    assert all(p.grad is None for p in vae.decoder.parameters()) and all(p.grad is not None
            for p in refit.critic.parameters())


def test_the_critics_verdict_reaches_the_decoder(vae):
    "With nothing but the critic, the decoder's films look more real to it"
    refit = Refit(vae, None, FrameCritic(width=8).eval(), RefitWeights(0., 0., 0., 1.))
    latents, video = noise(1, 2, 4, 8, 8), noise(1, 3, 5, 64, 64).tanh()
    optimizer = torch.optim.Adam(vae.decoder.parameters(), 1e-2)
    verdicts = []
    for _ in range(8):
        loss, parts, _ = refit.decoder_loss(latents, video)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        verdicts.append(-parts["adversarial"].item())
    assert verdicts[-1] > verdicts[0] + .05


def test_steps_make_the_loss_smaller(vae):
    refit = Refit(vae, weights=PLAIN)
    latents, video = noise(2, 2, 4, 8, 8), torch.full((2, 3, 5, 64, 64), .3)
    optimizer, losses = torch.optim.Adam(vae.decoder.parameters(), 1e-2), []
    for _ in range(15):
        loss = refit.decoder_loss(latents, video)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < .5*losses[0]


@torch.no_grad()
def test_a_refit_decoder_streams_as_it_decodes(vae, classifier):
    with torch.enable_grad():
        refit = Refit(vae, classifier, FrameCritic(width=8))
        for seed in range(3): step(refit, noise(1, 3, 4, 8, 8, seed=seed), noise(1, 3, 9, 64, 64).tanh())
    z = noise(1, 4, 6, 8, 8)
    stream = VideoStream(vae)
    parts = torch.cat([stream(z[:, :, i:i+1]) for i in range(6)], 2)
    assert (parts - vae.decode(z).sample).abs().max() < 1e-5


def test_same_device_for_all(vae, classifier):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    refit = Refit(vae, classifier, FrameCritic(width=8)).to(device)
    clean, wrong = (noise(2, 2, 4, 8, 8, seed=i).to(device) for i in (0, 1))
    video = to_float(torch.zeros(2, 5, 64, 64, 3, dtype=torch.uint8)).to(device)
    losses = step(refit, mix_latents(clean, wrong, torch.Generator().manual_seed(0)), video)
    assert all(math.isfinite(v) for v in losses)
