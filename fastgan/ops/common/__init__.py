"""What the op slices share: the activation enum, dtype rules, the state of the Triton runtime."""
