"""check_export.py IJEPA: what `ijepa export` writes loads in torch, transformers and timm and gives the same features, and
what these libraries write loads here. IJEPA is the built program; run in the project's root."""
import collections
import os
import subprocess
import sys
import tempfile

import numpy
import timm
import torch
import transformers
from safetensors.torch import load_file

program = os.path.abspath(sys.argv[1])
folder = tempfile.mkdtemp(prefix="ijepa-python-")
run = f"{folder}/run"


def ijepa(*args):
    done = subprocess.run([program, *args], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"ijepa {' '.join(args)}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def export(source, form, name):
    return ijepa("export", source, "--format", form, "--out", f"{folder}/{name}")


def near(what, ours, theirs, tolerance):
    error = (ours - theirs).abs().max().item()
    print(f"{what}: largest difference {error:.2g} of {tolerance:.0e}")
    if not error <= tolerance:
        sys.exit(f"FAILED: {what}")


def same(what, ours, theirs):
    if list(ours) != list(theirs) or not all(torch.equal(ours[k], theirs[k]) for k in ours):
        sys.exit(f"FAILED: {what}")
    print(f"{what}: {len(ours)} tensors, equal")


ijepa("tests/python/make.lua", folder)
mine = load_file(f"{folder}/features.safetensors")
images, features = mine["images"], mine["features"]
raw = load_file(f"{run}/jepa-latest.safetensors")


def part(name):
    return {k[len(name) + 1:]: v for k, v in raw.items() if k.startswith(name + ".")}


# pth: torch.load without anything but weights, the published names, an optimizer of the published groups
export(run, "pth", "run.pth.tar")
checkpoint = torch.load(f"{folder}/run.pth.tar", weights_only=True)
for name in ("encoder", "predictor", "target_encoder"):
    assert all(k.startswith("module.") for k in checkpoint[name])
    same(f"pth {name}", {k[len("module."):]: v for k, v in sorted(checkpoint[name].items())}, dict(sorted(part(name).items(), key=lambda kv: "module." + kv[0])))
assert checkpoint["epoch"] == 1 and checkpoint["scaler"] is None
parameters = {(m, n): torch.nn.Parameter(v.clone(), requires_grad="pos_embed" not in n)
              for m in ("encoder", "predictor") for n, v in checkpoint[m].items()}
groups = [{"params": [p for (m, _), p in parameters.items() if m == model and (p.ndim > 1) == decayed],
           **({} if decayed else {"WD_exclude": True, "weight_decay": 0})}
          for decayed in (True, False) for model in ("encoder", "predictor")]
optimizer = torch.optim.AdamW(groups)
optimizer.load_state_dict(checkpoint["opt"])
for (model, name), p in parameters.items():
    if p.requires_grad:
        s, key = optimizer.state[p], f"{model}.{name[len('module.'):]}"
        assert torch.equal(s["exp_avg"], raw[f"opt.m.{key}"]) and torch.equal(s["exp_avg_sq"], raw[f"opt.v.{key}"]), key
        assert s["step"] == 3, key
print("pth opt: AdamW of the published groups takes it")

# timm
said = export(run, "timm", "timm.safetensors")
model = timm.models.vision_transformer.VisionTransformer(
    img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=2, mlp_ratio=4, class_token=False, global_pool="avg",
    fc_norm=False, num_classes=0).eval()
model.load_state_dict(load_file(f"{folder}/timm.safetensors"), strict=True)
with torch.no_grad():
    near("timm", features, model.forward_features(images), 2e-5)
    exec("other = " + said.split("model: ")[1].strip())
    other.eval().load_state_dict(load_file(f"{folder}/timm.safetensors"), strict=True)
    near("timm, the model that export names", features.mean(1), other(images), 2e-5)
torch.save(model.state_dict(), f"{folder}/timm.pth")
ijepa("tests/python/make.lua", folder, f"{folder}/timm.pth")
near("timm's state dict here", load_file(f"{folder}/other.safetensors")["features"], features, 1e-7)

# transformers
export(run, "hf", "hf")
model, info = transformers.IJepaModel.from_pretrained(f"{folder}/hf", output_loading_info=True, add_pooling_layer=False)
assert not info["missing_keys"] and not info["unexpected_keys"], info
with torch.no_grad():
    near("transformers", features, model.eval()(pixel_values=images).last_hidden_state, 2e-5)
processor = transformers.AutoImageProcessor.from_pretrained(f"{folder}/hf")
assert list(processor.image_mean) == [.485, .456, .406], processor
model.save_pretrained(f"{folder}/hf2")
ijepa("tests/python/make.lua", folder, f"{folder}/hf2")
near("what transformers saved here", load_file(f"{folder}/other.safetensors")["features"], features, 1e-7)

# what torch.save writes: types, strides, shared storages, parameters, protocols, numpy's numbers
base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7 - 1
things = {
    "transposed": base.t(), "part": base[1:3, ::2], "scalar": torch.tensor(3.5), "empty": torch.zeros(0, 3), "whole": base,
    "parameter": torch.nn.Parameter(base.clone()), "row": base[2],
    **{str(t).split(".")[1]: (base * 5).to(t) for t in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32,
                                                      torch.int16, torch.int8, torch.uint8, torch.bool)},
}
things["uint8"] = (base.abs() * 50).to(torch.uint8)
module = torch.nn.Sequential(torch.nn.Linear(3, 2))
for protocol in (2, 3, 4, 5):
    path = f"{folder}/things.pt"
    torch.save({"a": collections.OrderedDict(things), "m": module.state_dict(), "lr": numpy.float64(.125), "n": -7, "big": 1 << 40,
                "list": [1, "two", None, True]}, path, pickle_protocol=protocol)
    out = ijepa("-e", """
      local f = assert(ijepa.tensors.open(arg[1]))
      local F = require "ijepa.base.ffi"
      for _, name in ipairs(f:names()) do
        local info = f:info(name)
        local n = 1
        for _, s in ipairs(info.shape) do n = n * s end
        local v, words = F.new("float[?]", n + 1), {}
        assert(f:read(name, v, n))
        for i = 0, n - 1 do words[i + 1] = ("%.9g"):format(v[i]) end
        print(name .. "|" .. table.concat(info.shape, ",") .. "|" .. table.concat(words, " "))
      end
      for k, v in pairs(f:metas()) do print("meta|" .. k .. "|" .. v) end""".replace("ijepa.tensors", "require 'ijepa'.tensors"), path)
    lines = [line.split("|") for line in out.strip().split("\n")]
    got = {n: (s, v) for n, s, v in lines if n != "meta"}
    expected = {**{f"a.{k}": v for k, v in things.items()}, **{f"m.{k}": v for k, v in module.state_dict().items()}}
    assert got.keys() == expected.keys(), got.keys() ^ expected.keys()
    for name, tensor in expected.items():
        shape, values = got[name]
        assert shape == ",".join(map(str, tensor.shape)), name
        want = tensor.detach().float().flatten()
        have = torch.tensor([float(x) for x in values.split()])
        assert torch.equal(want, have), f"{name}: {want} {have}"
    metas = {k: v for n, k, v in lines if n == "meta"}
    assert metas == {"lr": "0.125", "n": "-7", "big": str(1 << 40), "list.0": "1", "list.1": "two", "list.3": "true"}, metas
    print(f"torch.save, pickle protocol {protocol}: {len(got)} tensors, equal")
subprocess.run(["rm", "-rf", folder])
print("all equal")
