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
    "Tensors of context frames are called `still` in the file, and branches were once called takes"
    from safetensors import safe_open
    from safetensors.torch import save_file
    with Director(pipe, STORY["caption"], folder=tmp_path/"a") as d:
        d.next_shot(STORY["shots"][0]["caption"], latents=3)
        assert d.wait(60)
    with safe_open(tmp_path/"a"/"context.safetensors", "pt") as f:
        about, tensors = json.loads(f.metadata()["director"]), {k: f.get_tensor(k) for k in f.keys()}
    assert any(".still." in k for k in tensors)
    about["takes"] = about.pop("branches")
    (tmp_path/"b").mkdir()
    save_file(tensors, tmp_path/"b"/"context.safetensors", {"director": json.dumps(about)})
    (a, _), (b, _) = load_story(tmp_path/"a"), load_story(tmp_path/"b")
    assert len(a.shots) == len(b.shots) == 1 and torch.equal(a.shots[0].video, b.shots[0].video)
