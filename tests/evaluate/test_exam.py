"""Every measure of the evaluation against a slow second implementation, and films whose score is known."""
import json
import math

import numpy as np
import pytest
import torch

from shotstream import ShotStreamPipeline
from shotstream.model.pixels import decode_frames, to_float
from shotstream.toy.latents import encode_story, needed_singles, next_shot_example
from shotstream.evaluate.exam import (
    SHOT, EvaluationOptions, by_student, diversity_scores, drift_ratio, evaluate_model,
    evaluation_story, film_looks, frechet_scores, mean_score, report, run_evaluation, true_shot)
from shotstream.toy.classifier import (
    UNCAPTIONED, CAPTIONED, AttributeClassifier, errors, flat_pixels, classifier_loss)
from shotstream.evaluate.metrics import flat_share, frechet_distance, interval, motion, score
from shotstream.generate.pipeline import ASSETS
from shotstream.train.stages import Models
from shotstream.toy.render import render_shot

TINY = EvaluationOptions(batch=4, stories=2, story_shots=2, seeds=4, progress=False)

@pytest.fixture(scope="module")
def classifier(): return AttributeClassifier.from_pretrained(ASSETS/"classifier").float().eval()


@pytest.fixture(scope="module")
def models(pipe, classifier): return Models(pipe.vae, pipe.text_encoder, pipe.tokenizer, classifier=classifier)


def noise(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_frames(*shape, seed=0, top=256):
    return torch.randint(top, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def naive_flat_share(film, levels):
    "Pixel by pixel, over (f, h, w, 3)"
    flat = 0
    f, h, w, _ = film.shape
    for t in range(f):
        for y in range(h):
            for x in range(w):
                around = film[t, max(0, y-1):y+2, max(0, x-1):x+2].reshape(-1, 3).tolist()
                flat += all(max(c) - min(c) <= levels for c in zip(*around))
    return flat/(f*h*w)


def naive_frechet(a, b):
    "Means, covariances and the trace of the matrix root, in numpy, from the eigenvalues of the product"
    a, b = a.numpy().astype(np.float64), b.numpy().astype(np.float64)
    s, t = np.cov(a.T), np.cov(b.T)
    root = np.sqrt(np.linalg.eigvals(s @ t).astype(complex)).real.sum()
    return ((a.mean(0) - b.mean(0))**2).sum() + np.trace(s) + np.trace(t) - 2*root


@pytest.mark.parametrize("levels", (0, 8, 40))
def test_flat_share_pixel_by_pixel(levels):
    film = (some_frames(2, 3, 9, 7, 3, top=30).float() + 60*(torch.arange(7) > 3)[:, None]).to(torch.uint8)
    expected = [naive_flat_share(f, levels) for f in film]
    assert flat_share(film, levels).tolist() == pytest.approx(expected, abs=1e-6)


def test_flat_share_of_known_films():
    plain = torch.full((2, 4, 16, 16, 3), 200, dtype=torch.uint8)
    assert flat_share(plain).tolist() == [1., 1.]
    board = plain.clone()
    board[..., ::2, :, :] = 0
    assert flat_share(board).max() == 0.
    one_colour = plain.clone()
    # 9 levels, in blue alone: two rows of 16 see the step
    one_colour[..., 8:, :, 2] = 209
    assert flat_share(one_colour).tolist() == [14/16]*2
    one_colour[..., 8:, :, 2] = 208                                       # 8 levels are flat
    assert flat_share(one_colour).tolist() == [1., 1.]
    assert flat_pixels(plain[0, 0][None]).shape == (1, 16, 16) and flat_share(plain[0]).shape == ()


def test_flat_share_of_this_world(pipe):
    "The first sixteen evaluation shots have .630, and .574 after the codec; half of them are asked here, for time"
    films = torch.stack([render_shot(evaluation_story(i), SHOT, frames=range(0, 33, 4)) for i in range(8)])
    with torch.no_grad():
        z = torch.cat([pipe.vae.encode(to_float(render_shot(evaluation_story(i), SHOT))).latent_dist.mode()
                                         for i in range(8)])
    assert flat_share(films).mean().item() == pytest.approx(.650, abs=.01)
    assert flat_share(decode_frames(pipe.vae, z.transpose(1, 2))).mean().item() == pytest.approx(.599, abs=.02)


@pytest.mark.parametrize("shape, dtype, error",
                         [((3, 8, 8, 3), torch.float, TypeError), ((8, 8, 3), torch.uint8, ValueError),
                          ((3, 8, 8, 4), torch.uint8, ValueError), ((0, 8, 8, 3), torch.uint8, ValueError)])
def test_flat_share_says_what_it_wants(shape, dtype, error):
    with pytest.raises(error): flat_share(torch.zeros(shape, dtype=dtype))


def test_motion_of_known_films():
    film = some_frames(3, 5, 6, 6, 3)
    slow = np.mean([np.abs(film[0, t+1].numpy().astype(float) - film[0, t].numpy()).mean() for t in range(4)])/255
    assert motion(film)[0].item() == pytest.approx(slow, abs=1e-6)
    assert motion(film[:, :1].expand(-1, 5, -1, -1, -1)).tolist() == [0.]*3
    blink = torch.zeros(1, 4, 2, 2, 3, dtype=torch.uint8)
    blink[:, 1::2] = 255
    assert motion(blink).item() == 1.
    with pytest.raises(ValueError, match="two frames"): motion(film[:, :1])


@pytest.mark.parametrize("n, m, d", [(300, 200, 8), (40, 90, 12)])
def test_frechet_distance_by_eigenvalues(n, m, d):
    mix = noise(d, d, seed=3)
    a, b = noise(n, d) @ mix, 1.5*noise(m, d, seed=1) @ mix.T + noise(d, seed=2)
    assert frechet_distance(a, b) == pytest.approx(naive_frechet(a, b), rel=1e-6)


def test_frechet_distance_of_fewer_films_than_features():
    "Rank n-1: the slow way still works, to the root of its rounding"
    a, b = noise(6, 10), noise(7, 10, seed=1)
    assert frechet_distance(a, b) == pytest.approx(naive_frechet(a, b), abs=1e-5)


def test_frechet_distance_of_known_crowds():
    a = noise(400, 5).double()
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a[torch.randperm(400)]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + torch.tensor([3., 4, 0, 0, 0])) == pytest.approx(25, rel=1e-9)
    wide = a.mean(0) + 3*(a - a.mean(0))
    assert frechet_distance(a, wide) == pytest.approx(4*a.var(0).sum().item(), rel=1e-9)
    assert frechet_distance(wide, a) == pytest.approx(frechet_distance(a, wide), rel=1e-9)


@pytest.mark.parametrize("a, b", [((1, 4), (5, 4)), ((5, 4), (5, 3)), ((5, 2, 2), (5, 2, 2))])
def test_frechet_distance_says_what_it_wants(a, b):
    with pytest.raises(ValueError): frechet_distance(torch.zeros(a), torch.zeros(b))


def test_features_are_what_the_last_layers_read(classifier):
    frames = some_frames(3, 5, 64, 64, 3)
    with torch.no_grad():
        said, features = classifier(frames), classifier.features(frames)
        half = classifier.config.features
        still, moving = classifier.still[-1](features[:, :half]), classifier.moving(features[:, half:])
    assert features.shape == (3, 2*half)
    assert torch.allclose(still[:, :6], said["body"], atol=1e-3)
    assert torch.allclose(moving[:, -said["action"].shape[1]:], said["action"], atol=1e-4)


def test_score_and_interval_without_numbers():
    same = torch.full((9,), .5)
    assert math.isnan(score(same, same, same)) and all(math.isnan(x) for x in interval(same, lambda v: math.nan))
    assert interval(torch.arange(9.), lambda v: v.mean().item() if v[0] > 2 else math.nan) == pytest.approx((4, 4),
            abs=3)


def fake_exam(n=40):
    "Errors around .2, .5 and .1; the hue is judged three times only"
    scores = {k: {name: e + .05*noise(n, seed=int(1e4*e) + i) for i, name in enumerate((*CAPTIONED, *UNCAPTIONED))}
             for k, e in (("own", .2), ("chance", .5), ("upper_bound", .1))}
    scores["own"]["hue"][3:] = math.nan
    scores["upper_bound"]["sun"][:20] = math.nan                              # these shots count for no kind of error
    return scores


@pytest.mark.parametrize("names, key", [(CAPTIONED, "captioned"), (UNCAPTIONED, "uncaptioned")])
def test_mean_score_is_the_mean_of_the_report(names, key):
    scores = fake_exam()
    value, low, high = mean_score(scores, names)
    assert value == pytest.approx(report(scores)[key], abs=1e-5)
    assert low < value < high and high - low < .1
    assert math.isnan(mean_score({k: {n: e[:5] for n, e in v.items()} for k, v in scores.items()}, names)[0])


def test_true_shot_is_what_the_cache_keeps(pipe):
    story = evaluation_story(5)
    kept = encode_story(pipe.vae, story)
    expected = next_shot_example(story, SHOT, kept["shots"][9*SHOT:9*SHOT+9],
                                 dict(zip(needed_singles(story), kept["singles"])))
    with torch.no_grad(): (context, target, table, prompts), film = true_shot(pipe.vae, story, SHOT)
    assert torch.allclose(context, expected[0], atol=5e-3) and torch.equal(target, expected[1])
    assert table == expected[2] and prompts == expected[3]
    assert torch.equal(film, render_shot(story, SHOT))
    with torch.no_grad(): (context, _, table, prompts), _ = true_shot(pipe.vae, story, 0)
    assert not context.any() and len(prompts) == 1 and len(table) == 15


def the_truth(vae):
    "A film function that answers evaluation questions with the reconstruction of the true shots, whatever it is told"
    def film(context, table, text, generator):
        if film.left == 0: film.first, film.left = film.next, 3                       # three histories of one batch
        film.left -= 1
        film.next = film.first + len(context)
        with torch.no_grad(): return torch.stack([true_shot(vae, evaluation_story(film.first + i), SHOT)[0][1]
                                                  for i in range(len(context))])
    film.first = film.next = film.left = 0
    return film


def test_who_knows_the_truth_scores_one(models, pipe):
    exam = run_evaluation(the_truth(pipe.vae), models, n=8, batch=4, progress=False)
    for name in (*CAPTIONED, *UNCAPTIONED):
        for history in ("own", "none", "other"):
            assert torch.equal(exam[history][name].nan_to_num(9), exam["upper_bound"][name].nan_to_num(9))
    looks = exam["looks"]
    assert all(torch.equal(looks["model"][k], looks["codec"][k]) for k in looks["codec"])
    scores = frechet_scores(looks, looks["renders"]["features"])
    assert scores["ratio"] == 1 and scores["renders"] < 1e-6 < scores["codec"] and scores["samples"] == 8


def test_frechet_scores_subtract_what_renders_score():
    look = lambda x: dict(features=x)
    base = noise(60, 4)
    far = lambda d: look(base + d*torch.tensor([1., 0, 0, 0]))
    out = frechet_scores(dict(renders=look(base), codec=far(1.), model=far(3.)), base)
    assert [out[k] for k in ("renders", "codec", "model", "ratio", "excess_ratio")] == pytest.approx([0, 1, 9, 9, 9],
            abs=1e-5)
    other = frechet_scores(dict(renders=far(1.), codec=far(2.), model=far(3.)), base)
    assert other["ratio"] == pytest.approx(9/4, rel=1e-5) and other["excess_ratio"] == pytest.approx(8/3, rel=1e-5)
    assert math.isnan(frechet_scores(dict(renders=far(1.), codec=far(1.), model=far(2.)), base)["excess_ratio"])


def test_one_story_alone_has_no_other_history(models):
    with pytest.raises(ValueError, match="n=9 in batches of 4"): run_evaluation(None, models, n=9, batch=4)


def test_one_answer_is_no_diversity():
    world = {k: noise(50, seed=i).abs() for i, k in enumerate(("sun", "sky"))}
    nothing = dict(sky=torch.zeros(9))
    assert all(math.isnan(x) for x in diversity_scores(dict(pairs=dict(world=nothing, model=nothing)))["least"])
    out = diversity_scores(dict(pairs=dict(world=world, model=dict(sun=world["sun"], sky=torch.zeros(50)))))
    assert out["attribute"] == "sky" and out["least"] == (0., 0., 0.)
    assert out["attributes"]["sun"] == pytest.approx((1, 1, 1), abs=1e-6)


def test_drift_ratio_of_known_errors():
    true = {n: noise(30, seed=i).abs() + .1 for i, n in enumerate(UNCAPTIONED)}
    true["sun"][:] = math.nan                                            # never seen: counts for neither
    own = {n: 1.5*e for n, e in true.items()}
    assert drift_ratio(dict(own=own, true=true)) == pytest.approx((1.5, 1.5, 1.5), abs=1e-5)
    # one bad story: the interval must say that it is one
    own["sky"] = own["sky"] + 9*(torch.arange(30) < 1)
    value, low, high = drift_ratio(dict(own=own, true=true))
    assert low < 1.51 < value < high


@pytest.fixture(scope="module")
def scores(models, pipe):
    film = by_student(pipe.transformer, pipe.sampling)
    return evaluate_model(film, models, n=8, control=film, options=TINY)


def test_evaluation_is_json(scores):
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    wanted = {"captioned", "latent", "attributes", "flat_share", "motion", "motion_of_first_shots", "frechet",
              "diversity", "drift", "less_control"}
    assert wanted < set(scores) and scores["shots"] == 8 and scores["stories"] == 2 and scores["seeds"] == 4


def test_a_model_drifts_no_less_than_itself(scores): assert scores["less_control"] == [0., 0., 0.]


def test_the_student_is_between_noise_and_codec(scores, models):
    def film(context, table, text, generator): return torch.randn(len(context), 9, *context.shape[2:],
            generator=generator)
    noisy = evaluate_model(film, models, n=8, options=TINY)
    assert noisy["captioned"]["own"][0] < .6 < scores["captioned"]["own"][0]
    student, codec, renders = (scores["flat_share"][k][0] for k in ("model", "codec", "renders"))
    assert noisy["flat_share"]["model"][0] < .1 < student < codec < renders
    assert noisy["motion"][0] > 2 > scores["motion"][0] > .5
    assert "less_control" not in noisy


@pytest.mark.parametrize("options", [dict(batch=1), dict(stories=1), dict(seeds=0), dict(story_shots=1)])
def test_options_say_what_they_want(options):
    with pytest.raises(ValueError, match=next(iter(options))): EvaluationOptions(**options)


def test_too_few_shots(models):
    with pytest.raises(ValueError, match="at least 8"): evaluate_model(None, models, n=7)


def test_everything_where_the_model_is(models, pipe):
    "Half-precision codec: its films are decoded in its own precision; on a GPU, all of it there"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    moved = ShotStreamPipeline.from_pretrained("toy").to(device)
    moved.vae.to(torch.bfloat16)
    film = by_student(moved.transformer, moved.sampling)
    def asked(context, table, text, generator):
        assert {t.device.type for t in (context, text, table.shot, table.sigma)} == {device.type}
        return film(context.float(), table, text, generator)
    classifier = AttributeClassifier.from_pretrained(ASSETS/"classifier").float().eval().to(device)
    there = Models(moved.vae, moved.text_encoder, pipe.tokenizer, classifier=classifier)
    out = evaluate_model(asked, there, n=8, options=TINY)
    assert out["captioned"]["own"][0] > .6


def test_looks_of_a_batch_are_those_of_its_films(classifier):
    films = some_frames(3, 9, 64, 64, 3)
    with torch.no_grad():
        together, alone = film_looks(classifier, films), [film_looks(classifier, f[None]) for f in films]
    for k, v in together.items(): assert torch.allclose(v, torch.cat([a[k] for a in alone]), atol=1e-3)


def test_judge_loss_and_errors_stay_on_the_device_of_the_answers():
    said = {k: v.to("meta") for k, v in dict(body=torch.zeros(2, 6), hue=torch.zeros(2, 2), sun=torch.zeros(2)).items()}
    truths = [dict(body=1, hue=20., sun=.5)]*2
    assert classifier_loss(said, truths).is_meta and all(e.is_meta for e in errors(said, truths).values())
