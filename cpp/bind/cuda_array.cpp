// DLPack: arrays of other libraries come in without a copy, ours go out.
//
// The layout of the structures is the protocol's (DLPack 1.0, and the one before that had no
// version); it is what all libraries agree on.
#include "cuda_array.hpp"

#include <pybind11/stl.h>

namespace fanin::cuda {
namespace {

constexpr int cuda_device = 2, cuda_managed = 13;  // kinds of devices
constexpr uint64_t read_only_flag = 1;

struct Kind {
  uint8_t code, bits;  // 0 signed, 1 unsigned, 2 float, 4 bfloat, 6 bool
  const char* name;
};
constexpr Kind kinds[type_count] = {
    {2, 32, "float32"}, {2, 64, "float64"}, {4, 16, "bfloat16"}, {2, 16, "float16"},
    {0, 64, "int64"},   {0, 32, "int32"},   {0, 16, "int16"},    {0, 8, "int8"},
    {1, 64, "uint64"},  {1, 32, "uint32"},  {1, 16, "uint16"},   {1, 8, "uint8"},
    {6, 8, "bool"},
};

struct Tensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;  // in elements; null: row after row
  uint64_t byte_offset;
};
struct Managed {
  Tensor tensor;
  void* context;
  void (*deleter)(Managed*);
};
struct Versioned {
  uint32_t major, minor;
  void* context;
  void (*deleter)(Versioned*);
  uint64_t flags;
  Tensor tensor;
};

}  // namespace

class Owner {
 public:
  explicit Owner(Managed* managed) : managed_(managed) {}
  explicit Owner(Versioned* versioned) : versioned_(versioned) {}
  Owner(void* memory, int device, void* stream)
      : memory_(memory), device_(device), stream_(stream) {}
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;
  ~Owner() {
    if (managed_ != nullptr && managed_->deleter != nullptr) {
      managed_->deleter(managed_);
    }
    if (versioned_ != nullptr && versioned_->deleter != nullptr) {
      versioned_->deleter(versioned_);
    }
    if (memory_ != nullptr) {
      give_back();
    }
  }

  // Memory of ours is given back behind what is queued there until then.
  void used_on(void* stream) { consumer_ = stream; }

 private:
  void give_back() noexcept {
    try {
      const OnDevice on(device_);
      if (consumer_ != nullptr) {
        wait_for(stream_, consumer_);
      }
      release(memory_, stream_);
    } catch (const std::exception&) {
      // the process ends, and the driver before us
    }
  }

  Managed* managed_ = nullptr;
  Versioned* versioned_ = nullptr;
  void* memory_ = nullptr;
  int device_ = 0;
  void *stream_ = nullptr, *consumer_ = nullptr;
};

const char* name_of(Type type) { return kinds[int(type)].name; }
int64_t bytes_of(Type type) { return kinds[int(type)].bits / 8; }

Type type_of(const std::string& name) {
  for (int i = 0; i < type_count; ++i) {
    if (name == kinds[i].name) {
      return Type(i);
    }
  }
  refuse("dtype", "the name of a type, got '" + name + "'");
}

// ---- one array -------------------------------------------------------------------------------

namespace {

std::vector<int64_t> row_after_row(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t step = 1;
  for (size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = step;
    step *= std::max<int64_t>(shape[axis], 1);
  }
  return strides;
}

}  // namespace

bool Array::contiguous() const {
  const std::vector<int64_t> wanted = row_after_row(shape);
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] > 1 && strides[axis] != wanted[axis] && size() > 0) {
      return false;
    }
  }
  return true;
}

Array Array::reshaped(std::vector<int64_t> to) const {
  Array out = *this;
  out.shape = std::move(to);
  out.strides = row_after_row(out.shape);
  if (!contiguous() || out.size() != size()) {
    refuse("array", "contiguous memory of as many elements");
  }
  return out;
}

Array Array::as_column() const {
  if (ndim() != 1) {
    refuse("array", "1 dimension");
  }
  Array out = *this;
  out.shape.push_back(1);
  out.strides.push_back(1);
  return out;
}

Array Array::transposed() const {
  if (ndim() != 2) {
    refuse("array", "2 dimensions");
  }
  Array out = *this;
  std::swap(out.shape[0], out.shape[1]);
  std::swap(out.strides[0], out.strides[1]);
  return out;
}

Array empty(std::vector<int64_t> shape, Type type, void* stream) {
  Array out{nullptr, std::move(shape), {}, type, current_device(), false, nullptr};
  for (const int64_t n : out.shape) {
    if (n < 0) {
      refuse("shape", "sizes >= 0");
    }
  }
  out.strides = row_after_row(out.shape);
  out.data = allocate(size_t(out.size() * bytes_of(type)), stream);
  out.owner = std::make_shared<Owner>(out.data, out.device, stream);
  return out;
}

void check_apart(const Array& out, const Array& in, const char* name) {
  const auto bounds = [](const Array& array) {
    auto low = reinterpret_cast<std::intptr_t>(array.data), high = low;
    const int64_t bytes = bytes_of(array.type);
    for (size_t axis = 0; axis < array.shape.size(); ++axis) {
      if (array.shape[axis] == 0) {
        return std::pair<std::intptr_t, std::intptr_t>{0, 0};
      }
      const std::intptr_t reach = (array.shape[axis] - 1) * array.strides[axis] * bytes;
      (reach < 0 ? low : high) += reach;
    }
    return std::pair<std::intptr_t, std::intptr_t>{low, high + bytes};
  };
  const auto a = bounds(out), b = bounds(in);
  if (a.first < b.second && b.first < a.second) {
    refuse(name, "memory that no input shares");
  }
}

// ---- DLPack ----------------------------------------------------------------------------------

namespace {

constexpr const char *legacy_name = "dltensor", *versioned_name = "dltensor_versioned";

// The default stream that others wait for: DLPack's number of it is the runtime's handle. 0 would
// not say which of the two default streams is meant.
void* const legacy_stream = reinterpret_cast<void*>(intptr_t{1});

intptr_t dlpack_stream(void* stream) {
  return reinterpret_cast<intptr_t>(stream == nullptr ? legacy_stream : stream);
}

// A producer need not know streams of others: one that refuses ours is asked without, and its array
// is then there for what follows on the legacy default stream. (JAX refuses where its client has no
// way to wait on a stream, and without one has waited on the host.) A BufferError says that the
// array cannot be handed on at all.
py::object capsule_of(py::handle object, void* stream) {
  const py::object method = object.attr("__dlpack__");
  const auto ask = [&](const py::object& number) -> py::object {
    try {
      return method(py::arg("stream") = number, py::arg("max_version") = py::make_tuple(1, 0));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) {  // of before DLPack 1.0: it has no such argument
        throw;
      }
    }
    return method(py::arg("stream") = number);
  };
  try {
    return ask(py::int_(dlpack_stream(stream)));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_Exception) || error.matches(PyExc_BufferError) ||
        error.matches(PyExc_MemoryError)) {
      throw;
    }
  }
  const py::object capsule = ask(py::none());
  wait_for(stream, legacy_stream);
  return capsule;
}

Array array_of(const Tensor& tensor, const char* name, std::shared_ptr<Owner> owner,
               bool read_only) {
  if (tensor.device_type != cuda_device && tensor.device_type != cuda_managed) {
    refuse(name, "an array on a CUDA device");
  }
  Array out{};
  int found = 0;
  while (found < type_count && (kinds[found].code != tensor.code ||
                                kinds[found].bits != tensor.bits || tensor.lanes != 1)) {
    ++found;
  }
  if (found == type_count) {
    refuse(name, "real numbers of a type that NumPy has, or bfloat16");
  }
  out.type = Type(found);
  out.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  out.shape.assign(tensor.shape, tensor.shape + tensor.ndim);
  if (tensor.strides != nullptr) {
    out.strides.assign(tensor.strides, tensor.strides + tensor.ndim);
  } else {
    out.strides = row_after_row(out.shape);
  }
  out.device = tensor.device_id;
  out.read_only = read_only;
  out.owner = std::move(owner);
  return out;
}

// What a capsule of ours holds besides the protocol's part.
template <class Form>
struct Exported {
  Form form{};
  Array array;
};

template <class Form>
py::object export_as(const Array& array, const char* name) {
  auto* exported = new Exported<Form>{{}, array};
  Form& form = exported->form;
  Tensor& tensor = form.tensor;
  Array& kept = exported->array;
  tensor.data = kept.data;
  tensor.device_type = cuda_device;
  tensor.device_id = kept.device;
  tensor.ndim = kept.ndim();
  tensor.code = kinds[int(kept.type)].code;
  tensor.bits = kinds[int(kept.type)].bits;
  tensor.lanes = 1;
  tensor.shape = kept.shape.data();
  tensor.strides = kept.strides.data();
  if constexpr (std::is_same_v<Form, Versioned>) {
    form.major = 1;
    form.flags = kept.read_only ? read_only_flag : 0;
  }
  form.context = exported;
  form.deleter = [](Form* self) { delete static_cast<Exported<Form>*>(self->context); };
  // whoever takes it renames the capsule, and calls the deleter when done
  PyObject* capsule = PyCapsule_New(&form, name, [](PyObject* unused) {
    for (const char* fresh : {legacy_name, versioned_name}) {
      if (PyCapsule_IsValid(unused, fresh)) {
        auto* left = static_cast<Form*>(PyCapsule_GetPointer(unused, fresh));
        left->deleter(left);
      }
    }
  });
  if (capsule == nullptr) {
    delete exported;
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(capsule);
}

}  // namespace

Array from_dlpack(py::handle object, const char* name, void* stream) {
  // libraries take the current device's stream for the array's, or refuse another device's array
  const OnDevice on(py::cast<int>(object.attr("__dlpack_device__")()[py::int_(1)]));
  const py::object capsule = capsule_of(object, stream);
  if (PyCapsule_IsValid(capsule.ptr(), versioned_name)) {
    auto* versioned = static_cast<Versioned*>(PyCapsule_GetPointer(capsule.ptr(), versioned_name));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    auto owner = std::make_shared<Owner>(versioned);
    if (versioned->major != 1) {
      refuse(name, "DLPack 1, got version " + std::to_string(versioned->major));
    }
    return array_of(versioned->tensor, name, owner, (versioned->flags & read_only_flag) != 0);
  }
  if (!PyCapsule_IsValid(capsule.ptr(), legacy_name)) {
    refuse(name, "a capsule of DLPack from __dlpack__");
  }
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), legacy_name));
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  return array_of(managed->tensor, name, std::make_shared<Owner>(managed), false);
}

py::object to_dlpack(const Array& array, void* home, const py::object& stream, bool versioned) {
  // None means the default stream, -1 that nobody waits
  void* consumer =
      stream.is_none() ? legacy_stream : reinterpret_cast<void*>(py::cast<intptr_t>(stream));
  if (consumer != reinterpret_cast<void*>(intptr_t{-1})) {
    const OnDevice on(array.device);
    wait_for(consumer, home);
    array.owner->used_on(consumer);
  }
  return versioned ? export_as<Versioned>(array, versioned_name)
                   : export_as<Managed>(array, legacy_name);
}

void bind_array(py::module_& module) {
  py::class_<Array>(module, "Array")
      .def_property_readonly("ptr",
                             [](const Array& a) { return reinterpret_cast<uintptr_t>(a.data); })
      .def_property_readonly("shape", [](const Array& a) { return py::tuple(py::cast(a.shape)); })
      .def_property_readonly("strides",
                             [](const Array& a) { return py::tuple(py::cast(a.strides)); })
      .def_property_readonly("dtype", [](const Array& a) { return name_of(a.type); })
      .def_property_readonly("ndim", &Array::ndim)
      .def_property_readonly("size", &Array::size)
      .def_readonly("device", &Array::device)
      .def_readonly("read_only", &Array::read_only)
      .def_property_readonly("contiguous", &Array::contiguous)
      .def("reshape", &Array::reshaped, py::arg("shape"))
      .def("as_column", &Array::as_column)
      .def_property_readonly("T", &Array::transposed)
      .def("__dlpack_device__",
           [](const Array& a) { return py::make_tuple(cuda_device, a.device); })
      .def(
          "__dlpack__",
          [](const Array& a, const py::object& stream,
             const std::optional<std::pair<int, int>>& max_version, const py::object&,
             const std::optional<bool>& copy) {
            if (copy.value_or(false)) {
              throw py::buffer_error("an array of fanin's is given on without a copy");
            }
            const OnDevice on(a.device);
            return to_dlpack(a, own_stream(), stream, max_version && max_version->first >= 1);
          },
          py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
          py::arg("dl_device") = py::none(), py::arg("copy") = py::none());
  module.def(
      "from_dlpack",
      [](py::handle object, const std::string& name, uintptr_t stream) {
        return from_dlpack(object, name.c_str(), reinterpret_cast<void*>(stream));
      },
      py::arg("array"), py::arg("name"), py::arg("stream"));
  module.def(
      "empty",
      [](std::vector<int64_t> shape, const std::string& dtype, int device, uintptr_t stream) {
        const OnDevice on(device);
        return empty(std::move(shape), type_of(dtype), reinterpret_cast<void*>(stream));
      },
      py::arg("shape"), py::arg("dtype"), py::arg("device"), py::arg("stream"));
  module.def(
      "apart",
      [](const Array& a, const Array& b) {
        try {
          check_apart(a, b, "");
        } catch (const std::invalid_argument&) {
          return false;
        }
        return true;
      },
      py::arg("a"), py::arg("b"));
}

}  // namespace fanin::cuda
