"""Images per second of one core with torchvision and Pillow: decode + random crop, and what a training loader adds.

usage: loader.py FOLDER [SIDE [PASSES]]     prints one line a variant: name, images per CPU second
CPU seconds of one thread, so that other work on the machine weighs little."""
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch
from PIL import Image
from torchvision import transforms

torch.set_num_threads(1)
folder = sys.argv[1]
side = int(sys.argv[2]) if len(sys.argv) > 2 else 224
passes = int(sys.argv[3]) if len(sys.argv) > 3 else 3
names = sorted(os.path.join(folder, n) for n in os.listdir(folder))
crop = transforms.RandomResizedCrop(side, scale=(0.3, 1.0))
variants = {
    "decode and crop": crop,
    "decode, crop, to tensor, normalise": transforms.Compose([
        crop, transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]),
}


def load(path, transform):
    with open(path, "rb") as f:
        return transform(Image.open(f).convert("RGB"))


for name, transform in variants.items():
    best = []
    for _ in range(passes + 1):
        start = time.process_time()
        for path in names:
            load(path, transform)
        best.append(len(names) / (time.process_time() - start))
    best = sorted(best[1:])  # the first pass warms up
    print(f"{name}: {best[len(best) // 2]:.1f}", flush=True)
