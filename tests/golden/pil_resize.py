"""Prints pil_resize.h: hashes of a made-up image resized by PIL (needs pillow and numpy).

usage: python3 pil_resize.py > pil_resize.h"""
import numpy as np
from PIL import Image

y, x, c = np.mgrid[0:150, 0:203, 0:3]
image = Image.fromarray((((x * x * (c + 1) + y * y * 3 + x * y * (5 - c) + c * 77) // 7) % 256).astype(np.uint8))
cases = [(0, 0, 150, 203, 64, 64), (3, 5, 100, 120, 224, 224), (10, 20, 77, 33, 32, 48), (149, 202, 1, 1, 5, 3),
         (0, 0, 150, 203, 1, 1), (20, 30, 64, 64, 64, 64), (7, 9, 90, 64, 45, 64), (5, 0, 140, 203, 139, 201),
         (0, 0, 150, 1, 10, 10), (1, 1, 2, 200, 224, 7), (60, 60, 25, 25, 97, 101)]
print("/* Made by pil_resize.py: top, left, h, w, out_h, out_w, FNV-1a of the bytes. */")
for top, left, h, w, out_h, out_w in cases:
    across = image.crop((left, top, left + w, top + h)).resize((out_w, h), Image.BILINEAR)
    data = across.resize((out_w, out_h), Image.BILINEAR).tobytes()  # newer Pillows may go down first; older never do
    value = 14695981039346656037
    for byte in data:
        value = (value ^ byte) * 1099511628211 % 2**64
    print("{%d, %d, %d, %d, %d, %d, 0x%016xu}," % (top, left, h, w, out_h, out_w, value))
