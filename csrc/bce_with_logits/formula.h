// The loss and its derivative for one logit. Host and device, no torch header. kernels.inc repeats the formula for vectors.
#pragma once

#include "common/host_device.h"

namespace fastgan {

// Math supplies exp_negative(a) = exp(-a) for a >= 0 and log1p_unit(e) = log(1 + e) for 0 <= e <= 1.
//
// The loss is written as (1 - t) * x + max(-x, 0) + log1p(exp(-|x|)) because infinite logits then give what torch gives (NaN
// where a zero meets an infinity). A NaN logit reaches the loss through the first term and the derivative through the
// selection, so Math need not keep it.
template <typename Math, typename C>
FASTGAN_HOST_DEVICE void bce_with_logits_element(C x, C t, C& loss, C& grad) {
  const C magnitude = x < C(0) ? -x : x;
  const C e = Math::exp_negative(magnitude);
  const C negative_part = x < C(0) ? magnitude : C(0);
  loss = ((C(1) - t) * x + negative_part) + Math::log1p_unit(e);
  const C sigmoid = (x < C(0) ? e : C(1)) / (C(1) + e);
  grad = (x != x ? x : sigmoid) - t;
}

}  // namespace fastgan
