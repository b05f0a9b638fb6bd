// JSON (RFC 8259) as files of models have it: text from anywhere, read into a tree or refused.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace recurra {
namespace detail {

// One value, 16 bytes and what lies behind a pointer: a tree takes at most some thirty times the bytes of its text. What a
// value is not, it refuses to be read as: std::invalid_argument, naming `name`.
class Json {
 public:
  enum class Kind { null, boolean, number, string, array, object };
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;

  // std::invalid_argument names the byte where the text is not JSON or not UTF-8, nests deeper than 64, has a key twice, or a
  // number that no double holds.
  static Json parse(std::string_view text);

  Kind kind() const { return Kind(value_.index()); }
  bool boolean(const char* name) const;
  double number(const char* name) const;
  int64_t integer(const char* name) const;  // exact
  const std::string& string(const char* name) const;
  const Array& array(const char* name) const;
  const Object& object(const char* name) const;  // in the order of the text

  // The value of a key of an object; null, or refused, when there is none.
  const Json* find(std::string_view key) const;
  const Json& at(const char* key) const;

 private:
  friend class JsonReader;
  template <class T>
  using Pointer = std::unique_ptr<T>;
  std::variant<std::monostate, bool, double, Pointer<std::string>, Pointer<Array>, Pointer<Object>> value_;  // as Kind
};

}  // namespace detail
}  // namespace recurra
