// features CHECKPOINT IMAGE: the same as features.c in C++, with objects that free themselves.
#include <cstdio>
#include <ijepa.h>
#include <memory>
#include <stdexcept>
#include <vector>

template <class T, void (*release)(T *)> struct Release {
  void operator()(T *p) const { release(p); }
};
using Device = std::unique_ptr<ij_device, Release<ij_device, ij_device_close>>;
using Encoder = std::unique_ptr<ij_encoder, Release<ij_encoder, ij_encoder_free>>;
using Tensor = std::unique_ptr<ij_tensor, Release<ij_tensor, ij_tensor_free>>;

static void must(ij_status status) {
  if (status != IJ_OK) throw std::runtime_error(ij_errmsg());
}

// make(f): what f(T **out) gives, owned.
template <class Owner, class F> static Owner make(F f) {
  typename Owner::pointer p = nullptr;
  must(f(&p));
  return Owner(p);
}

static std::vector<float> features(const char *checkpoint, const char *image) {
  auto dev = make<Device>([](ij_device **out) { return ij_device_open("cpu", out); });
  auto encoder = make<Encoder>([&](ij_encoder **out) { return ij_encoder_load(dev.get(), checkpoint, nullptr, out); });
  const ij_vit_config *c = ij_encoder_config(encoder.get());
  const int64_t shape[] = {1, c->grid_h * c->patch, c->grid_w * c->patch, 3};
  uint8_t *pixels = nullptr;
  int h, w;
  must(ij_image_load(image, &pixels, &h, &w));
  std::unique_ptr<uint8_t, void (*)(void *)> owned(pixels, ij_bytes_free);
  std::vector<uint8_t> crop(size_t(shape[1] * shape[2] * 3));
  must(ij_image_crop(pixels, h, w, 0, 0, h, w, int(shape[1]), int(shape[2]), crop.data()));
  auto images = make<Tensor>([&](ij_tensor **out) { return ij_tensor_new(dev.get(), IJ_U8, 4, shape, out); });
  must(ij_tensor_write(images.get(), crop.data(), crop.size()));
  auto patches =
      make<Tensor>([&](ij_tensor **out) { return ij_encoder_forward(encoder.get(), images.get(), nullptr, out); });
  auto pooled = make<Tensor>([&](ij_tensor **out) { return ij_mean(patches.get(), 1, out); });
  std::vector<float> result(size_t(c->width));
  must(ij_tensor_read(pooled.get(), result.data(), result.size() * sizeof(float)));
  return result;
}

int main(int argc, char **argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: features CHECKPOINT IMAGE\n"), 2;
  try {
    for (float v : features(argv[1], argv[2])) std::printf("%.9g\n", v);
  } catch (const std::exception &e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return ij_mem_live() != 0;
}
