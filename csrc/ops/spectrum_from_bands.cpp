// SPDX-License-Identifier: Apache-2.0
#include "spectrum_from_bands.h"

#include "../registry.h"
#include "dispatch.h"

namespace prestissimo {
namespace {

SpectrumRows rows_of(const Array& a) { return {a.as<float>(), a.stride(0), a.stride(1), a.stride(2)}; }

Interpolation interpolation(const char* op, const Checker& check, const char* name, const Array& a, const char* lower,
                            const Array& lower_of, const char* share, const Array& share_of, int64_t bins) {
  check.same_dtype(name, a).same_device(name, a).rows_contiguous(name, a);
  if (a.size(-1) < 2) fail(op, std::string(name) + " must have at least 2 bands, got shape " + shape_text(a));
  check.shape(lower, lower_of, {bins}).dtype(lower, lower_of, DType::int32).same_device(lower, lower_of);
  check.shape(share, share_of, {bins}).same_dtype(share, share_of).same_device(share, share_of);
  check.contiguous(lower, lower_of).contiguous(share, share_of);
  return {lower_of.as<int32_t>(), share_of.as<float>(), a.size(-1)};
}

void set_noise(SpectrumFromBandsArgs& a, const char* op, const Checker& check, const Array* spread, const Array* noise,
               const Array* lower, const Array* share, int64_t first) {
  if (first < 0) fail(op, "first must be at least 0, got " + std::to_string(first));
  a.first = first;
  a.period = 1;
  if (!spread || !noise) return;
  check.shape("spread", *spread, {a.batch, a.channels, a.frames, spread->size(-1)});
  a.spread = rows_of(*spread);
  a.spreads = interpolation(op, check, "spread", *spread, "spread_lower", *lower, "spread_share", *share, a.bins);
  a.period = noise->ndim == 3 ? noise->size(1) : 0;
  check.shape("noise", *noise, {a.channels, a.period, a.bins}).same_dtype("noise", *noise);
  check.same_device("noise", *noise).contiguous("noise", *noise);
  if (a.period < 1) fail(op, "noise must have at least 1 frame, got shape " + shape_text(*noise));
  a.noise = noise->as<float>();
}

void spectrum_from_bands(Stream stream, const Array& bands, const Array& residual, const Array& offset,
                         const Array& lower, const Array& share, const Array* spread, const Array* noise,
                         const Array* spread_lower, const Array* spread_share, int64_t first, const Array& y) {
  const char* op = "spectrum_from_bands";
  const Checker check(op, "bands", bands);
  check.dtype({DType::float32}).ndim(4).rows_contiguous("bands", bands);
  const int64_t F = residual.size(-1);
  SpectrumFromBandsArgs a{};
  a.batch = bands.size(0), a.channels = bands.size(1), a.frames = bands.size(2), a.bins = F;
  a.bands = rows_of(bands);
  a.band = interpolation(op, check, "bands", bands, "lower", lower, "share", share, F);
  check.shape("residual", residual, {a.batch, a.channels, a.frames, F}).same_dtype("residual", residual);
  check.same_device("residual", residual).rows_contiguous("residual", residual);
  a.residual = rows_of(residual);
  check.shape("offset", offset, {a.channels, F}).same_dtype("offset", offset).same_device("offset", offset);
  check.contiguous("offset", offset);
  a.offset = offset.as<float>();
  set_noise(a, op, check, spread, noise, spread_lower, spread_share, first);
  check.shape("y", y, {a.batch, a.channels, a.frames, F}).same_dtype("y", y).same_device("y", y).contiguous("y", y);
  a.y = y.as<float>();
  if (y.numel() == 0) return;
  PRESTISSIMO_RUN(spectrum_from_bands, bands, a, stream);
}

void spectrum_from_bands_backward(Stream stream, const Array& dy, const Array& lower, const Array& share,
                                  const Array* spread, const Array* noise, const Array* spread_lower,
                                  const Array* spread_share, int64_t first, const Array* dbands, const Array* dspread) {
  const char* op = "spectrum_from_bands_backward";
  const Checker check(op, "dy", dy);
  check.dtype({DType::float32}).ndim(4).contiguous("dy", dy);
  SpectrumFromBandsBackwardArgs a{};
  SpectrumFromBandsArgs& f = a.forward;
  f.batch = dy.size(0), f.channels = dy.size(1), f.frames = dy.size(2), f.bins = dy.size(3);
  set_noise(f, op, check, spread, noise, spread_lower, spread_share, first);
  a.dy = dy.as<float>();
  const auto output = [&](const char* name, const Array& d, int64_t count) {
    check.shape(name, d, {f.batch, f.channels, f.frames, count}).same_dtype(name, d).same_device(name, d);
    check.contiguous(name, d);
    return d.as<float>();
  };
  if (dbands) {
    f.band = interpolation(op, check, "dbands", *dbands, "lower", lower, "share", share, f.bins);
    a.dbands = output("dbands", *dbands, dbands->size(-1));
  }
  if (dspread) {
    if (!f.noise) fail(op, "noise must be given with dspread");
    a.dspread = output("dspread", *dspread, f.spreads.count);
  }
  if (f.batch * f.channels * f.frames == 0) return;
  PRESTISSIMO_RUN(spectrum_from_bands_backward, dy, a, stream);
}

}  // namespace

PRESTISSIMO_OP(spectrum_from_bands, "bands", "residual", "offset", "lower", "share", "spread", "noise", "spread_lower",
               "spread_share", "first", "y")
PRESTISSIMO_OP(spectrum_from_bands_backward, "dy", "lower", "share", "spread", "noise", "spread_lower", "spread_share",
               "first", "dbands", "dspread")

}  // namespace prestissimo
