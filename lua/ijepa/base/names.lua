-- The public modules: ijepa.NAME, and `require "ijepa.NAME"`, are lua/ijepa/PATH.lua or
-- lua/ijepa/PATH/init.lua. A module that is not listed here belongs to its room, and may change
-- without notice.
return {
  canvas = "draw.canvas", checkpoint = "save.checkpoint", compare = "plot.compare",
    config = "config", conform = "conform",
  data = "data", decoder = "plot.decoder", device = "tensor.device", diagnose = "train.diagnose",
    dist = "dist", draw = "draw", embed = "probe.embed",
  export = "save.export", features = "probe.features", finetune = "probe.finetune",
    health = "host.health", help = "host.help",
  imagine = "plot.imagine", import = "config.import", jepa = "model", linalg = "tensor.linalg",
    load = "save.load", mask = "mask",
  memory = "train.memory", mix = "data.mix", nn = "nn", optim = "optim", panel = "plot.panel",
    picture = "plot", plot = "plot",
  pretrain = "train", profile = "train.profile", probe = "probe", probe_settings = "probe.settings",
    published = "save.published", report = "report",
  run = "run", scenes = "data.scenes", schedule = "optim.schedule", score = "probe.score",
    settings = "config.settings",
  show = "draw.show", state = "save.state", submit = "dist.submit", tensor = "tensor",
    tensors = "save.tensors",
  try = "train.try", weights = "save.weights",
}
