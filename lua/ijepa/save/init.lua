-- save: files of weights and of whole runs: tensors (safetensors and PyTorch's format),
-- checkpoints, the names that the published code, Hugging Face and timm give to weights, export,
-- `ijepa.load`, and a run's state with `ijepa.model`.
-- Uses: base, tensor, config, model, run.
return setmetatable({}, { __index = function(_, name) return require("ijepa.save." .. name) end })
