// How a loss is reduced. The values are those of torch.nn's own reduction enum; tests/test_native.py compares the two.
#pragma once

#include <cstdint>

namespace fastgan {

enum class Reduction : int64_t { none = 0, mean = 1, sum = 2 };

}  // namespace fastgan
