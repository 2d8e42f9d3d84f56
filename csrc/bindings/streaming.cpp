// Hands two files to Python a part at a time, as NumPy arrays that are the mapped files themselves:
// nothing is copied, and pages that were read are given back, so that memory stays at one part
// whatever the files' size. Not an op, and so bound by pybind11 (ncfast/integrations/numpy.py).
#include <fcntl.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace py = pybind11;

namespace {

// A whole file in memory, for reading only.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || ::fstat(file, &status) != 0) {
      fail(path, file);
    }
    bytes_ = status.st_size;
    void* memory = ::mmap(nullptr, std::max<int64_t>(bytes_, 1), PROT_READ, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) {
      fail(path, file);
    }
    ::close(file);
    data_ = static_cast<char*>(memory);
  }
  ~MappedFile() { ::munmap(data_, std::max<int64_t>(bytes_, 1)); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  // Whole pages of [begin, end): will be read soon, or have been read.
  void advise(int64_t begin, int64_t end, int advice) const {
    const int64_t page = ::sysconf(_SC_PAGESIZE);
    begin = begin / page * page;
    end = std::min(advice == MADV_DONTNEED ? end / page * page : end, bytes_);
    if (end > begin) {
      ::madvise(data_ + begin, end - begin, advice);
    }
  }

 private:
  [[noreturn]] static void fail(const std::string& path, int file) {
    const int error = errno;
    if (file >= 0) {
      ::close(file);
    }
    errno = error;
    PyErr_SetFromErrnoWithFilename(PyExc_OSError, path.c_str());
    throw py::error_already_set();
  }
  char* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Rows of an array that fills a file from some byte on.
struct Rows {
  std::shared_ptr<MappedFile> file;
  py::dtype type;
  int64_t start, width;  // width 0: one value a row

  int64_t row_bytes() const { return type.itemsize() * std::max<int64_t>(width, 1); }
  int64_t at(int64_t row) const { return start + row * row_bytes(); }

  // The array keeps the file mapped for as long as somebody holds it.
  py::array view(int64_t begin, int64_t count) const {
    auto* held = new std::shared_ptr<MappedFile>(file);
    const py::capsule owner(held, [](void* p) { delete static_cast<std::shared_ptr<MappedFile>*>(p); });
    std::vector<py::ssize_t> shape{count};
    if (width > 0) {
      shape.push_back(width);
    }
    return py::array(type, shape, {}, file->data() + at(begin), owner);
  }
};

Rows rows_of(const std::string& path, const py::dtype& type, int64_t start, int64_t rows,
             int64_t width) {
  Rows found{std::make_shared<MappedFile>(path), type, start, width};
  if (found.at(rows) > found.file->bytes()) {
    throw py::value_error(path + " holds " + std::to_string(found.file->bytes()) +
                          " bytes; expected " + std::to_string(found.at(rows)));
  }
  return found;
}

void stream(const std::string& features_path, const py::dtype& features_type,
            int64_t features_start, int64_t rows, int64_t width, const std::string& labels_path,
            const py::dtype& labels_type, int64_t labels_start, int64_t part,
            const py::function& consume) {
  if (rows < 0 || width < 1 || part < 1) {
    throw py::value_error("rows, width and part must be positive");
  }
  const Rows both[] = {rows_of(features_path, features_type, features_start, rows, width),
                       rows_of(labels_path, labels_type, labels_start, rows, 0)};
  for (int64_t begin = 0; begin < rows; begin += part) {
    const int64_t end = std::min(begin + part, rows), next = std::min(end + part, rows);
    for (const Rows& one : both) {
      one.file->advise(one.at(end), one.at(next), MADV_WILLNEED);
    }
    consume(begin, both[0].view(begin, end - begin), both[1].view(begin, end - begin));
    for (const Rows& one : both) {
      // From the start: a page that two parts share is given back with the later one.
      one.file->advise(0, one.at(end), MADV_DONTNEED);
    }
  }
}

}  // namespace

PYBIND11_MODULE(streaming, m) {
  m.def("stream", &stream, py::arg("features_path"), py::arg("features_type"),
        py::arg("features_start"), py::arg("rows"), py::arg("width"), py::arg("labels_path"),
        py::arg("labels_type"), py::arg("labels_start"), py::arg("part"), py::arg("consume"),
        "Call consume(first row, features, labels) for each part of two mapped files.");
}
