"""Film the sample clips: ground truth from the toy world, in ShotStream's published format. `python
tools/make_samples.py`

Writes data_samples/clips/NN.mp4, NN.json and clips.csv. The same seeds give the same films on every machine."""
import csv
import json
from pathlib import Path

import torch

from shotstream.toy.render import render_shot
from shotstream.data.script import write_video
from shotstream.toy.world import draw_story

FOLDER = Path(__file__).parents[1]/"data_samples"/"clips"
SEEDS = (15, 4, 10, 7, 17, 6, 25, 13)   # one film each
DISSOLVES = {7: {2: 16}}                # seed -> {shot: frames of a dissolve before it}: frames that belong to no shot
SCALE = 2                               # of the 64x64 pixels


def dissolve(before, after, frames):
    "Fade from the last frame of one shot into the first frame of the next: (frames, h, w, 3)"
    w = (torch.arange(1, frames+1)/(frames+1))[:, None, None, None]
    return ((1-w)*before[-1] + w*after[0]).round().to(torch.uint8)


def film(story, gaps):
    "All frames of a story, and the [start, stop) range of every shot"
    frames, spans = [], []
    for k in range(len(story.shots)):
        shot = render_shot(story, k)
        if k in gaps: frames.append(dissolve(frames[-1], shot, gaps[k]))
        start = sum(map(len, frames))
        spans.append([start, start + len(shot)])
        frames.append(shot)
    return torch.cat(frames), spans


def main():
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, seed in enumerate(SEEDS, start=1):
        story, name = draw_story(seed), f"{number:02d}"
        frames, spans = film(story, DISSOLVES.get(seed, {}))
        captions = {"global_caption": story.caption}
        captions |= {f"shot{k}": shot.caption for k, shot in enumerate(story.shots, start=1)}
        (FOLDER/f"{name}.json").write_text(json.dumps(captions, indent=2) + "\n", encoding="utf-8")
        write_video(FOLDER/f"{name}.mp4", frames, scale=SCALE, crf=23)
        rows.append([len(spans), f"{name}.json", f"{name}.mp4", spans])
        print(f"{name}.mp4  seed {seed:2}  {len(spans)} shots  {len(frames):3} frames  "
              f"{(FOLDER/f'{name}.mp4').stat().st_size/1000:5.1f} kB")
    with open(FOLDER/"clips.csv", "w", newline="", encoding="utf-8") as f:
        head = ["shot_num_from_caption", "json_path", "video_path", "frame_number"]
        csv.writer(f, lineterminator="\n").writerows([head, *rows])


if __name__ == "__main__": main()
