// The operator schemas of this extension module, collected at load time.
//
// The CPU and the CUDA module may be present alone or together, in any order, and torch refuses a second definition of an
// operator. So neither module defines anything: each lists its schemas, and fastgan/native.py defines every name once.
// (An implementation may be registered before its definition.)
#pragma once

namespace fastgan {

struct Schema {
  explicit Schema(const char* schema_text);

  const char* text;
  const Schema* next;
};

}  // namespace fastgan
