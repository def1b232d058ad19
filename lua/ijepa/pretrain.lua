-- The training loop. `return ijepa.pretrain(ijepa.config { ... })` is a whole recipe; settings.lua lists what it may say.
local ijepa = require "ijepa"
local F = require "ijepa._ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.device"
local jepa = require "ijepa.jepa"
local optim = require "ijepa.optim"
local data = require "ijepa.data"
local mask = require "ijepa.mask"
local schedule = require "ijepa.schedule"
local checkpoint = require "ijepa.checkpoint"
local state = require "ijepa.state"
local Run = require "ijepa.run"
local C = F.C

local CLOCK = 1e6   -- a run of so many minutes has schedules of this length, whose step is the share of time gone

-- An error for the user: one line, no place in our own sources.
local function stop(fmt, ...) error(fmt:format(...), 0) end
local function must(value, message)
  if not value then error(message, 0) end
  return value
end

--- The models of a configuration: context encoder, predictor, target encoder.
---@param cfg table
function jepa.models(cfg)
  local m = cfg.model
  local dtype = m.dtype == "bf16" and C.ij_device_bf16(device.get()) ~= 0 and "bf16" or "f32"
  local context = jepa.encoder { arch = m.arch, width = m.width, depth = m.depth, heads = m.heads, mlp_ratio = m.mlp_ratio,
    patch = m.patch, crop = cfg.data.crop, dtype = dtype, recompute = m.recompute, seed = cfg.seed, init_gain = m.init_gain,
    patch_gain = m.patch_gain, depth_scaled_init = m.depth_scaled_init }
  local predictor = jepa.predictor(context, { depth = m.pred_depth, width = m.pred_dim, heads = m.pred_heads })
  return context, predictor, context:target()
end

--- The mask policy of a configuration, for a grid {h, w}.
function jepa.policy(cfg, grid)
  local m = cfg.mask
  return mask.new { policy = m.policy, grid = grid, context = m.context, target = m.target, min_keep = m.min_keep,
    overlap = m.overlap, group = m.group, seed = cfg.seed, quirks = cfg.quirks ~= "" and cfg.quirks or nil }
end

-- Masks of pictures [first, first + count) of the run: context i32 (C, B, K), target i32 (M, B, T).
local function draw_masks(policy, count, first)
  local m = policy:sample_raw(count, first)
  return tensor.from_pointer(m.context, { m.contexts, m.count, m.k }, "i32"),
    tensor.from_pointer(m.target, { m.targets, m.count, m.t }, "i32")
end

-- Norms of the encoder's qkv gradients: first, last, smallest and largest.
local function qkv_norms(context)
  local g = {}
  for i = 0, context.depth - 1 do
    local grad = context.by_name[("blocks.%d.attn.qkv.weight"):format(i)].tensor:grad()
    if grad then
      local n = tensor.norm { grad }
      g.first, g.last = g.first or n, n
      g.min, g.max = math.min(g.min or n, n), math.max(g.max or n, n)
    end
  end
  return g.first and g
end

-- Length of the schedules, of the warm-up, and the number of steps (of which a run by the clock knows nothing).
local function length_of(cfg, ipe)
  local o = cfg.optim
  if o.minutes > 0 then
    if o.warmup > 1 then stop("optim.warmup is %g, but with optim.minutes it is a share of the time, 0 to 1", o.warmup) end
    return CLOCK, math.floor(o.warmup * CLOCK), o.steps > 0 and o.steps or math.huge
  end
  local total, warmup = schedule.steps { epochs = o.epochs, warmup = o.warmup, ipe = ipe, ipe_scale = o.ipe_scale }
  local last = math.floor(o.epochs * ipe)
  return total, warmup, o.steps > 0 and math.min(last, o.steps) or last
end

--- Trains an encoder on pictures without labels. Returns the context encoder, the predictor, the target encoder (the one
--- to use), the losses of the steps done here, and the run's folder. Goes on from the newest checkpoint in cfg.out.
---@param cfg table as ijepa.config gives it
---@return { encoder: ijepa.encoder, predictor: ijepa.predictor, target: ijepa.encoder, losses: number[], out: string }
local function pretrain(cfg)
  if cfg.threads > 0 then C.ij_threads_set(cfg.threads) end
  local d, o = cfg.data, cfg.optim
  local images = must(data.open { train = true, root = d.root, subset = d.subset, crop = d.crop, batch = d.batch,
    scale = d.scale, ratio = d.ratio, flip = d.flip, jitter = d.jitter, jitter_p = d.jitter_p, grey = d.grey, blur = d.blur,
    workers = d.workers, prefetch = d.prefetch, seed = cfg.seed, max_bad = d.max_bad, max_pixels = d.max_pixels })
  if images:epoch_steps() < o.accumulate then
    stop("data.root '%s' has %d pictures: too few for %d batches of %d (data.batch, optim.accumulate)", d.root,
      images:count(), o.accumulate, d.batch)
  end
  local ipe = math.floor(images:epoch_steps() / o.accumulate)   -- updates of an epoch
  local context, predictor, target = jepa.models(cfg)
  local policy = jepa.policy(cfg, context.grid)
  local opt = optim.adamw { models = { context, predictor }, average = { [context] = target }, betas = o.betas, eps = o.eps }
  local whole = { encoder = context, predictor = predictor, target_encoder = target, opt = opt }

  -- one (micro-)batch, forwards and backwards; its number counts all batches of the run from 0
  local function batch_step(number, x)
    local ctx, tgt = draw_masks(policy, x:size(1), number * d.batch)
    local h = device.no_grad(function() return target(x):layer_norm():gather(tgt) end)  -- (M * B, T, D)
    local z = predictor(context(x, ctx), ctx, tgt)                                      -- (M * C * B, T, D)
    local loss = tensor.smooth_l1(z, h, 1, tgt:size(1))
    loss:backward()
    return loss:item(), ctx:size(3), tgt:size(3)
  end
  local function seek(step)   -- to the first batch of update `step`, from 0
    images:seek(math.floor(step / ipe), step % ipe * o.accumulate)
  end

  -- where an earlier run of this folder stopped
  local at, gone = 0, 0   -- steps done, seconds used
  must(F.try(C.ij_mkdirs(cfg.out)))
  local from = cfg.resume and checkpoint.latest(cfg.out, cfg.tag)
  if from then
    local meta = must(state.load(from, whole))
    at, gone = meta.step, meta.seconds
  end
  local total, warmup, last = length_of(cfg, ipe)
  local reference = cfg.quirks == "reference"
  local lr = schedule.lr { start = o.start_lr, ref = o.lr, final = o.final_lr, warmup = warmup, total = total, reference = reference }
  local wd = schedule.wd { ref = o.wd[1], final = o.wd[2], total = total, reference = reference }
  local momentum = schedule.ema { from = o.ema[1], to = o.ema[2], total = total, reference = reference }

  local run = must(Run.open(cfg.out, { resume = from and at or nil, tag = cfg.tag, config = cfg, ipe = ipe,
    total = last < math.huge and last or nil }))
  run:say("%s%s, %d + %d parameters, %s %s; %d pictures, %s of %d a step%s", from and ("goes on from %s: "):format(from) or "",
    cfg.model.width and "vit" or cfg.model.arch, context:size(), predictor:size(), device.name(), F.string(C.ij_cpu_isa()),
    images:count(), o.minutes > 0 and ("%g minutes"):format(o.minutes) or ("%d steps"):format(last), d.batch * o.accumulate,
    cfg.model.dtype == "bf16" and C.ij_device_bf16(device.get()) == 0
      and "; products in f32: this processor has no fast bf16" or "")

  local function save(step)
    local _, finite = tensor.norm(state.trained(whole))
    if not finite then return nil, ("step %d: a parameter is not finite: nothing saved, '%s' keeps the last good state"):format(step,
      checkpoint.path(cfg.out, nil, cfg.tag)) end
    local meta = { step = step, epoch = math.floor(step / ipe), seconds = gone }
    local ok, message = state.save(checkpoint.path(cfg.out, nil, cfg.tag), whole, cfg, meta)
    local epoch = step / ipe
    if ok and epoch % 1 == 0 and epoch > 0 and epoch % cfg.log.save_epochs == 0 then
      ok, message = state.save(checkpoint.path(cfg.out, epoch, cfg.tag), whole, cfg, meta)
    end
    return ok, message
  end

  local losses, saved, step = {}, at, at
  local over = o.minutes > 0 and function() return gone >= 60 * o.minutes end or function() return false end
  seek(at)
  while step < last and not over() do
    step = step + 1
    local sum, k, t, started = 0, 0, 0, C.ij_time()
    for micro = 1, o.accumulate do
      local b = must(images:next())
      local loss, bk, bt = device.step(function()
        return batch_step((step - 1) * o.accumulate + micro - 1,
          tensor.from_pointer(b.pixels, { b.count, images.height, images.width, 3 }, "u8"))
      end)
      sum, k, t = sum + loss / o.accumulate, k + bk / o.accumulate, t + bt / o.accumulate
    end
    for _, complaint in ipairs(images:complaints()) do run:say("skipped %s", complaint) end
    if sum ~= sum or math.abs(sum) == math.huge then
      run:close()
      stop("step %d: the loss is %s: stopped before the update; the state after step %d is in '%s'; try a lower optim.lr or optim.clip=1",
        step, tostring(sum), saved, cfg.out)
    end
    local scale, grads = 1 / o.accumulate, nil
    if o.clip > 0 then
      local norm, finite = tensor.norm(opt:grads())
      if not finite then stop("step %d: a gradient is not finite: stopped before the update; see '%s'", step, cfg.out) end
      scale = scale * math.min(1, o.clip / (norm * scale + 1e-6))
    end
    if step % cfg.log.every == 0 or step == 1 then grads = qkv_norms(context) end
    local s = o.minutes > 0 and math.max(1, math.floor(CLOCK * gone / (60 * o.minutes))) or step   -- of the schedules
    opt:step { lr = lr(s), wd = wd(s), momentum = momentum(s), scale = scale }
    losses[#losses + 1] = sum
    gone = gone + C.ij_time() - started
    run:log(step, { loss = sum, k = k, t = t, ms = 1000 * (C.ij_time() - started), lr = lr(s), wd = wd(s),
      images = d.batch * o.accumulate, grads = grads, epoch = math.floor((step - 1) / ipe) + 1, itr = (step - 1) % ipe,
      total = o.minutes > 0 and math.ceil(step * 60 * o.minutes / gone) or last })
    local interrupted = ijepa.interrupted()
    local epoch_end = step % ipe == 0 and (o.minutes == 0 or step - saved > 1000)
    if step == last or over() or interrupted or epoch_end or (cfg.log.save_steps > 0 and step % cfg.log.save_steps == 0) then
      local ok, message = save(step)
      if not ok then
        run:close()
        error(message, 0)
      end
      saved = step
    end
    if interrupted then
      run:say("interrupted: step %d is saved in '%s'; the same command goes on from there", step, cfg.out)
      run:close()
      ijepa.exit(130)
    end
  end
  run:close()
  images:close()
  return { encoder = context, predictor = predictor, target = target, losses = losses, out = cfg.out, config = cfg,
    policy = policy }
end

return pretrain
