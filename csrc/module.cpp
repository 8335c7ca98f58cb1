// The Python side of an extension module: importing it registers the operators' kernels through their static initialisers.
// Compiled once into each module (_native_cpu, _native_cuda) under that module's own name.
//
// The one attribute, SCHEMAS, holds the operators' schemas, one per line.
#include <Python.h>

#include <string>

#include "common/schema.h"

namespace fastgan {
namespace {

// A function-local static: it must exist before the static initialisers of the other files, which fill it.
const Schema*& first_schema() {
  static const Schema* first = nullptr;
  return first;
}

}  // namespace

Schema::Schema(const char* schema_text) : text(schema_text), next(first_schema()) {
  first_schema() = this;
}

}  // namespace fastgan

#define FASTGAN_CONCAT_(a, b) a##b
#define FASTGAN_CONCAT(a, b) FASTGAN_CONCAT_(a, b)
#define FASTGAN_STRING_(a) #a
#define FASTGAN_STRING(a) FASTGAN_STRING_(a)

PyMODINIT_FUNC FASTGAN_CONCAT(PyInit_, TORCH_EXTENSION_NAME)(void) {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT,
      FASTGAN_STRING(TORCH_EXTENSION_NAME),
      "Compiled operators of fastgan; see fastgan/native.py.",
      -1,
      nullptr,
      nullptr,
      nullptr,
      nullptr,
      nullptr,
  };
  std::string lines;
  for (const fastgan::Schema* schema = fastgan::first_schema(); schema != nullptr; schema = schema->next) {
    lines += schema->text;
    lines += '\n';
  }
  PyObject* module = PyModule_Create(&definition);
  if (module != nullptr && PyModule_AddStringConstant(module, "SCHEMAS", lines.c_str()) != 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
