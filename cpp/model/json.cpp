#include "json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <locale>
#include <sstream>
#include <stdexcept>

namespace recurra {
namespace detail {

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  Json whole() {
    Json value = this->value(0);
    space();
    if (more()) fail("the end");
    return value;
  }

 private:
  static constexpr int kDeepest = 64;

  [[noreturn]] void fail(const char* expected) const {
    throw std::invalid_argument("JSON: expected " + std::string(expected) + " at byte " + std::to_string(at_));
  }
  bool more() const { return at_ < text_.size(); }
  char peek() const { return more() ? text_[at_] : '\0'; }  // which nothing below looks for
  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void want(char c, const char* expected) {
    if (!take(c)) fail(expected);
  }
  void space() {
    while (take(' ') || take('\n') || take('\r') || take('\t')) continue;
  }
  bool word(std::string_view word) {
    if (text_.compare(at_, word.size(), word) != 0) return false;
    at_ += word.size();
    return true;
  }

  Json value(int depth) {
    if (depth > kDeepest) fail("at most 64 levels");
    space();
    Json json;
    if (peek() == '{') {
      json.value_ = std::make_unique<Json::Object>(object(depth));
    } else if (peek() == '[') {
      json.value_ = std::make_unique<Json::Array>(array(depth));
    } else if (peek() == '"') {
      json.value_ = std::make_unique<std::string>(string());
    } else if (word("true")) {
      json.value_ = true;
    } else if (word("false")) {
      json.value_ = false;
    } else if (!word("null")) {
      json.value_ = number();
    }
    return json;
  }

  Json::Object object(int depth) {
    Json::Object items;
    want('{', "{");
    space();
    if (take('}')) return items;
    do {
      space();
      std::string key = string();
      space();
      want(':', ":");
      items.emplace_back(std::move(key), value(depth + 1));
      space();
    } while (take(','));
    want('}', ", or }");
    std::vector<std::string_view> keys(items.size());
    std::transform(items.begin(), items.end(), keys.begin(), [](const auto& item) { return std::string_view(item.first); });
    std::sort(keys.begin(), keys.end());
    if (std::adjacent_find(keys.begin(), keys.end()) != keys.end()) fail("every key only once in the object before");
    return items;
  }

  Json::Array array(int depth) {
    Json::Array items;
    want('[', "[");
    space();
    if (take(']')) return items;
    do {
      items.push_back(value(depth + 1));
      space();
    } while (take(','));
    want(']', ", or ]");
    return items;
  }

  void digits() {
    const size_t first = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    if (at_ == first) fail("a value");
  }

  double number() {
    const size_t begin = at_;
    take('-');
    if (!take('0')) digits();
    if (take('.')) digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      digits();
    }
    // Neither strtod, which asks the process's locale, nor from_chars, which older libraries lack for double.
    std::istringstream stream{std::string(text_.substr(begin, at_ - begin))};
    stream.imbue(std::locale::classic());
    double result = 0;
    if (!(stream >> result)) fail("a number that a double can hold");
    return result;
  }

  unsigned hex() {
    unsigned code = 0;
    const char* const digits = text_.data() + at_;
    if (text_.size() - at_ < 4 || std::from_chars(digits, digits + 4, code, 16).ptr != digits + 4)
      fail("four hexadecimal digits");
    at_ += 4;
    return code;
  }

  void escape(std::string& out) {
    static constexpr std::string_view names = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
    const size_t which = names.find(peek());
    if (which != std::string_view::npos) {
      ++at_;
      out += meanings[which];
      return;
    }
    want('u', "an escape");
    unsigned code = hex();
    if (code >= 0xD800 && code < 0xDC00) {
      want('\\', "a second surrogate");
      want('u', "a second surrogate");
      const unsigned low = hex();
      if (low < 0xDC00 || low > 0xDFFF) fail("a second surrogate");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
      fail("a first surrogate");
    }
    const int following = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static constexpr unsigned lead[] = {0, 0xC0, 0xE0, 0xF0};
    out += char(lead[following] | code >> (6 * following));
    for (int i = following; i-- > 0;) out += char(0x80 | (code >> (6 * i) & 0x3F));
  }

  // Bytes of the character here, by RFC 3629: none too long, no surrogates, none above 10FFFF.
  size_t character() const {
    const auto byte = [&](size_t i) { return at_ + i < text_.size() ? static_cast<unsigned char>(text_[at_ + i]) : 0u; };
    const unsigned first = byte(0);
    if (first < 0x20) fail("no control character in a string");
    if (first < 0x80) return 1;
    const size_t size = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    const unsigned least = first == 0xE0   ? 0xA0
                           : first == 0xF0 ? 0x90
                                           : 0x80,
                   most = first == 0xED   ? 0x9F
                          : first == 0xF4 ? 0x8F
                                          : 0xBF;
    bool right = first >= 0xC2 && first <= 0xF4 && byte(1) >= least && byte(1) <= most;
    for (size_t i = 2; i < size; ++i) right = right && (byte(i) & 0xC0) == 0x80;
    if (!right) fail("UTF-8");
    return size;
  }

  std::string string() {
    want('"', "\"");
    std::string out;
    while (!take('"')) {
      if (!more()) fail("the end of a string");
      if (take('\\')) {
        escape(out);
        continue;
      }
      const size_t size = character();
      out.append(text_, at_, size);
      at_ += size;
    }
    return out;
  }

  std::string_view text_;
  size_t at_ = 0;
};

namespace {

[[noreturn]] void refuse(const char* name, const char* expected) {
  throw std::invalid_argument(std::string(name) + ": expected " + expected);
}

}  // namespace

Json Json::parse(std::string_view text) { return JsonReader(text).whole(); }

bool Json::boolean(const char* name) const {
  const bool* value = std::get_if<bool>(&value_);
  if (!value) refuse(name, "true or false");
  return *value;
}

double Json::number(const char* name) const {
  const double* value = std::get_if<double>(&value_);
  if (!value) refuse(name, "a number");
  return *value;
}

int64_t Json::integer(const char* name) const {
  constexpr double largest = 9007199254740991;  // 2^53 - 1: a double that is more may stand for another integer
  const double* value = std::get_if<double>(&value_);
  if (!value || *value != std::floor(*value) || std::fabs(*value) > largest) refuse(name, "an integer");
  return int64_t(*value);
}

const std::string& Json::string(const char* name) const {
  if (kind() != Kind::string) refuse(name, "a string");
  return *std::get<Pointer<std::string>>(value_);
}

const Json::Array& Json::array(const char* name) const {
  if (kind() != Kind::array) refuse(name, "a list");
  return *std::get<Pointer<Array>>(value_);
}

const Json::Object& Json::object(const char* name) const {
  if (kind() != Kind::object) refuse(name, "an object");
  return *std::get<Pointer<Object>>(value_);
}

const Json* Json::find(std::string_view key) const {
  if (kind() != Kind::object) return nullptr;
  for (const auto& [name, value] : object(""))
    if (name == key) return &value;
  return nullptr;
}

const Json& Json::at(const char* key) const {
  const Json* value = find(key);
  if (!value) refuse(key, "a value, got none");
  return *value;
}

}  // namespace detail
}  // namespace recurra
