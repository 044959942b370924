"""What was saved when modules lay flat and things had other names still loads."""
import json

import torch
from shotstream import ShotStreamPipeline
from shotstream.app.director import Director, load_story
from shotstream.toy.classifier import AttributeClassifier
from shotstream.toy.networks import ASSETS

FLAT = {"vae": ["shotstream.codec", "ToyVAE"], "transformer": ["shotstream.transformer", "ShotTransformer"],
        "teacher": ["shotstream.transformer", "ShotTransformer"]}
STORY = {"caption": "a red ball with a hat in the forest by day.",
         "shots": [{"caption": "wide shot: the ball waves.", "frames": 9}]}


def test_folder_that_names_flat_modules(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path/"model_index.json").read_text())
    assert FLAT.keys() <= index.keys() and all(index[k] != v for k, v in FLAT.items()), index
    (tmp_path/"model_index.json").write_text(json.dumps(index | FLAT))
    again = ShotStreamPipeline.from_pretrained(tmp_path)
    assert torch.equal(again(STORY, seed=3).frames, pipe(STORY, seed=3).frames)


def test_classifier_that_was_a_judge(tmp_path):
    new = AttributeClassifier.from_pretrained(ASSETS/"classifier")
    new.save_pretrained(tmp_path)
    config = json.loads((tmp_path/"config.json").read_text())
    assert config["_class_name"] == "AttributeClassifier"
    (tmp_path/"config.json").write_text(json.dumps(config | {"_class_name": "Judge"}))
    old = AttributeClassifier.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True))


def test_story_of_an_early_desk(pipe, tmp_path):
    "All in one file; tensors of context frames are called `still` in it, and branches were once called takes"
    from safetensors.torch import save_file
    with Director(pipe, STORY["caption"]) as d:
        d.next_shot(STORY["shots"][0]["caption"], latents=3)
        assert d.wait(60)
        shot, still = d.shots[0], d.context_of(0, d.shots[0])
    settings = dict(rule="published", budget=6, window=21, sink=0, phi=1/6, steps=4, pinned=[])
    rows = [dict(caption=shot.caption, prompt=shot.prompt, latents=3, seed=shot.seed, settings=settings, number=0)]
    about = dict(caption=STORY["caption"], seed=0, size=[64, 64], settings=settings, name="take 1", shots=rows,
                 takes={"take 1": [0]})
    tensors = {"0.video": shot.video, "0.text": shot.text} | {f"0.still.{f}": z for f, z in still.latents.items()}
    save_file({k: t.clone() for k, t in tensors.items()}, tmp_path/"context.safetensors",
              {"director": json.dumps(about)})
    story, again = load_story(tmp_path)
    assert len(story.shots) == 1 and torch.equal(story.shots[0].video, shot.video) and again["caption"] == d.caption
    assert all(torch.equal(z, still.latents[f]) for f, z in story.shots[0].context.latents.items())
