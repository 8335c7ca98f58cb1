// The methods, each chosen for the machine's instruction set.
#pragma once

#include "conv_transpose2d/problem.h"

namespace fastgan {

void direct_image(const ImageProblem& problem);
void direct_weight(const WeightProblem& problem);

// For kernel 4, stride 2, padding 1, dilation 1, and images of at most kMostSide small pixels along an axis.
constexpr int64_t kMostSide = 256;
void winograd_image(const ImageProblem& problem);
void winograd_weight(const WeightProblem& problem);

// For few pixels of the small image, big from small.
void streamed_image(const ImageProblem& problem);

// For few channels of the big image.
void columns_image(const ImageProblem& problem);
void columns_weight(const WeightProblem& problem);

}  // namespace fastgan
