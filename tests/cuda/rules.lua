-- What the code of kernels must hold on every architecture, for tests/cuda/sass.lua: `file` and
-- `kernel` are patterns (of the readable name), `has` names instructions that must be there at
-- least once; `local_memory` allows a stack, spills and local memory, and is the reason.
-- bf16 products from shared memory, filled by asynchronous copies
local TENSOR_CORES = { "HMMA", "LDSM", "LDGSTS.128" }
local WIDE = { "LDG.128", "STG.128" }
return {
  { file = "unary/cuda%.cu$", kernel = "^unary_all<9>$", has = {},
    local_memory = "sinf reduces large arguments by a table" },
  { file = "unary/cuda%.cu$", kernel = "^unary_all<10>$", has = {},
    local_memory = "cosf likewise" },
  { file = "unary/cuda%.cu$", kernel = "^unary_grads<9>$", has = {}, local_memory = "cosf" },
  { file = "unary/cuda%.cu$", kernel = "^unary_grads<10>$", has = {}, local_memory = "sinf" },
  { file = "heads/cuda%.cu$", kernel = "^fwd<float>$", has = {},
    local_memory = "8 bytes on sm_100 around the calls for 64-bit division" },
  { file = "attention/cuda%.cu$", kernel = "^mma_fwd<", has = TENSOR_CORES },
  { file = "attention/cuda%.cu$", kernel = "^mma_bwd_q<", has = TENSOR_CORES },
  { file = "attention/cuda%.cu$", kernel = "^mma_bwd_kv<", has = TENSOR_CORES },
  { file = "update/cuda%.cu$", kernel = "^update<", has = WIDE },
  { file = "norm/cuda%.cu$", kernel = "^fwd<", has = WIDE },
  { file = "norm/cuda%.cu$", kernel = "^bwd<", has = WIDE },
  { file = "gelu/cuda%.cu$", kernel = "^fwd<bf16, 8>$", has = WIDE },
  { file = "gelu/cuda%.cu$", kernel = "^fwd<float, 4>$", has = WIDE },
  { file = "gelu/cuda%.cu$", kernel = "^bwd<bf16, 8>$", has = { "LDG.128" } },
  { file = "gelu/cuda%.cu$", kernel = "^bwd<float, 4>$", has = { "LDG.128" } },
  { file = "linear/cuda%.cu$", kernel = "^add_bias<bf16, 8>$", has = WIDE },
  { file = "linear/cuda_weights%.cu$", kernel = "^to_bf16$", has = WIDE },
  { file = "elementwise/cuda%.cu$", kernel = "^map_", has = WIDE },
  { file = "elementwise/cuda%.cu$", kernel = "^convert_all<float, bf16>$", has = WIDE },
  { file = "elementwise/cuda%.cu$", kernel = "^fill_all$", has = { "STG.128" } },
}
