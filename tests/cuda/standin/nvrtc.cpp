// NVRTC, by g++. The program sees no header but those that it is given, as with NVRTC; then it is compiled behind emulate.h.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "image.h"
#include "standin.h"

extern char** environ;

namespace standin {
namespace {

constexpr nvrtcResult NVRTC_SUCCESS = 0, NVRTC_ERROR_INVALID_INPUT = 3, NVRTC_ERROR_INVALID_PROGRAM = 4,
                      NVRTC_ERROR_INVALID_OPTION = 5, NVRTC_ERROR_COMPILATION = 6, NVRTC_ERROR_INTERNAL_ERROR = 11;

struct Program {
  std::string source, name;
  std::vector<std::pair<std::string, std::string>> headers;  // name, text
  std::string log, cubin;
};

Handles<Program, nvrtcProgram>& programs() {
  static auto& all = *new Handles<Program, nvrtcProgram>;
  return all;
}
Program* find(nvrtcProgram handle) {
  const Lock lock;
  Program* const program = programs().find(handle);
  if (!program) fail(NVRTC_ERROR_INVALID_PROGRAM, "NVRTC: no program");
  return program;
}

std::string read(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}
void write(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
  std::filesystem::last_write_time(path, {});  // #pragma once knows a file by its text and time: some come under two names
}

// A folder that is gone at the end. Programs lie some levels down in it, for headers with .. in their names.
struct Folder {
  std::filesystem::path path;
  Folder() {
    std::string name = std::filesystem::temp_directory_path() / "standin-XXXXXX";
    if (!mkdtemp(name.data()))
      throw std::filesystem::filesystem_error("mkdtemp", std::error_code(errno, std::generic_category()));
    path = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

// Runs it in `folder`; what it says goes to `log`.
bool execute(std::vector<std::string> command, const std::filesystem::path& folder, std::string& log) {
  std::vector<char*> words, environment;
  for (std::string& word : command) words.push_back(word.data());
  words.push_back(nullptr);
  for (char** entry = environ; *entry; ++entry)
    if (std::strncmp(*entry, "LD_PRELOAD=", 11)) environment.push_back(*entry);  // a sanitizer is not for the compiler
  environment.push_back(nullptr);
  const std::string output = folder / "log";
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  posix_spawn_file_actions_addopen(&actions, 1, output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t process;
  int status = -1;
  const int error = posix_spawnp(&process, words[0], &actions, nullptr, words.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  if (error)
    log += "cannot run " + command[0] + ": " + std::strerror(error) + "\n";
  else
    while (waitpid(process, &status, 0) < 0 && errno == EINTR) continue;
  log += read(output);
  return !error && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

struct Options {
  int architecture = 0;
  bool flush = false, contract = true;
  std::vector<std::string> macros;
};

// Those of NVRTC that are used or likely to be; an unknown one is returned.
std::string parse(int count, const char* const* words, Options& options) {
  const auto value = [](const std::string& word, std::initializer_list<const char*> names, std::string& text) {
    for (const std::string name : names)
      if (word.compare(0, name.size(), name) == 0) return text = word.substr(name.size()), true;
    return false;
  };
  for (int i = 0; i < count; ++i) {
    const std::string word = words[i];
    std::string text;
    if (value(word, {"--gpu-architecture=sm_", "-arch=sm_"}, text))
      options.architecture = std::atoi(text.c_str());
    else if (value(word, {"--fmad=", "-fmad="}, text) && (text == "true" || text == "false"))
      options.contract = text == "true";
    else if (value(word, {"--ftz=", "-ftz="}, text) && (text == "true" || text == "false"))
      options.flush = text == "true";
    else if (value(word, {"--define-macro=", "-D"}, text) && !text.empty())
      options.macros.push_back("-D" + text);
    else if ((word == "-Xptxas" || word == "--ptxas-options") && i + 1 < count)
      ++i;
    else if (!value(word,
                    {"--std=c++17", "-std=c++17", "--prec-div=true", "-prec-div=true", "--prec-sqrt=true", "-prec-sqrt=true",
                     "--device-as-default-execution-space", "-default-device", "--generate-line-info", "-lineinfo",
                     "--disable-warnings", "-w", "--ptxas-options=", "-Xptxas=", "--maxrregcount=", "-maxrregcount=",
                     "--diag-suppress=", "-diag-suppress="},
                    text))
      return word;
  }
  return options.architecture ? "" : "no --gpu-architecture=sm_NN";
}

bool compile(Program& program, const Options& options) {
  const Folder folder;
  const auto root = folder.path / "a/b/c/d";
  std::string prefix;
  for (const auto& [name, text] : program.headers) {
    const bool standard = name.find('.') == std::string::npos;  // the compiler has its own
    if (standard) prefix += "#include <" + name + ">\n";
    write(root / name, standard ? "" : text);
  }
  write(root / program.name, program.source);
  write(folder.path / "prefix.h", prefix + "#include \"emulate.h\"\n");

  const char* const compiler = std::getenv("RECURRA_STANDIN_CXX");
  const std::string cxx = compiler ? compiler : STANDIN_COMPILER;
  std::vector<std::string> command = {cxx,
                                      "-E",
                                      "-x",
                                      "c++",
                                      "-std=c++17",
                                      "-nostdinc",
                                      "-nostdinc++",
                                      "-I.",
                                      "-DRECURRA_EMULATED",
                                      "-D__CUDACC__",
                                      "-D__CUDACC_RTC__",
                                      "-D__CUDA_ARCH__=" + std::to_string(options.architecture * 10)};
  command.insert(command.end(), options.macros.begin(), options.macros.end());
  const std::string preprocessed = folder.path / "kernel.cpp", object = folder.path / "kernel.so";
  command.insert(command.end(), {"-o", preprocessed, program.name});
  if (!execute(command, root, program.log)) return false;

  command = {cxx,
             "-std=c++17",
             "-O1",
             "-march=native",
             "-fno-math-errno",
             "-shared",
             "-fPIC",
             "-ffile-prefix-map=" + root.string() + "=.",
             "-fvisibility=hidden",
             "-fno-gnu-unique",
             "-fno-exceptions",
             "-fno-rtti",
             "-w",
             "-fexpensive-optimizations",  // contracts
             options.contract ? "-ffp-contract=fast" : "-ffp-contract=off",
             "-I" STANDIN_SOURCE_DIR,
             "-include",
             folder.path / "prefix.h"};
  std::istringstream flags(STANDIN_FLAGS);
  for (std::string flag; flags >> flag;) command.push_back(flag);
  command.insert(command.end(), {"-o", object, preprocessed});
  if (!execute(command, root, program.log)) return false;

  Image image;
  std::strncpy(image.build, STANDIN_BUILD, sizeof(image.build) - 1);
  const std::string bytes = read(object);
  image.bytes = bytes.size(), image.architecture = options.architecture, image.flush = options.flush;
  program.cubin.assign(reinterpret_cast<const char*>(&image), sizeof(image));
  program.cubin += bytes;
  return true;
}

// RECURRA_STANDIN_FAULT=OLD=>NEW: a fault that somebody plants, to see whether tests find it.
void plant(std::string& text) {
  const char* fault = std::getenv("RECURRA_STANDIN_FAULT");
  const char* arrow = fault ? std::strstr(fault, "=>") : nullptr;
  if (!arrow || arrow == fault) return;
  const std::string old(fault, arrow);
  for (size_t at = text.find(old); at != std::string::npos; at = text.find(old, at)) {
    text.replace(at, old.size(), arrow + 2);
    at += std::strlen(arrow + 2);
  }
}

}  // namespace

STANDIN_EXPORT int nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0, NVRTC_SUCCESS; }

STANDIN_EXPORT int nvrtcCreateProgram(nvrtcProgram* made, const char* source, const char* name, int count,
                                      const char* const* headers, const char* const* header_names) {
  const Lock lock;
  if (!made || !source || count < 0) return fail(NVRTC_ERROR_INVALID_INPUT, "nvrtcCreateProgram");
  auto program = std::make_unique<Program>();
  program->source = source, program->name = name ? name : "default_program";
  for (int i = 0; i < count; ++i) plant(program->headers.emplace_back(header_names[i], headers[i]).second);
  *made = programs().add(std::move(program));
  return NVRTC_SUCCESS;
}

STANDIN_EXPORT int nvrtcCompileProgram(nvrtcProgram handle, int count, const char* const* words) {
  Program* const program = find(handle);
  if (!program) return NVRTC_ERROR_INVALID_PROGRAM;
  Options options;
  program->log.clear(), program->cubin.clear();
  const std::string unknown = parse(count, words, options);
  if (!unknown.empty()) {
    program->log = "nvrtc: error: unknown option: " + unknown + "\n";
    const Lock lock;
    return fail(NVRTC_ERROR_INVALID_OPTION, "nvrtcCompileProgram: " + unknown);
  }
  {
    const Lock lock;
    ++state().compilations;
  }
  try {
    return compile(*program, options) ? NVRTC_SUCCESS : NVRTC_ERROR_COMPILATION;
  } catch (const std::exception& error) {
    program->log += error.what();
    return NVRTC_ERROR_INTERNAL_ERROR;
  }
}

STANDIN_EXPORT int nvrtcGetProgramLogSize(nvrtcProgram handle, size_t* bytes) {
  Program* const program = find(handle);
  if (!program) return NVRTC_ERROR_INVALID_PROGRAM;
  *bytes = program->log.size() + 1;
  return NVRTC_SUCCESS;
}

STANDIN_EXPORT int nvrtcGetProgramLog(nvrtcProgram handle, char* log) {
  Program* const program = find(handle);
  if (!program) return NVRTC_ERROR_INVALID_PROGRAM;
  std::memcpy(log, program->log.c_str(), program->log.size() + 1);
  return NVRTC_SUCCESS;
}

STANDIN_EXPORT int nvrtcGetCUBINSize(nvrtcProgram handle, size_t* bytes) {
  Program* const program = find(handle);
  if (!program || program->cubin.empty()) return NVRTC_ERROR_INVALID_PROGRAM;
  *bytes = program->cubin.size();
  return NVRTC_SUCCESS;
}

STANDIN_EXPORT int nvrtcGetCUBIN(nvrtcProgram handle, char* cubin) {
  Program* const program = find(handle);
  if (!program || program->cubin.empty()) return NVRTC_ERROR_INVALID_PROGRAM;
  std::memcpy(cubin, program->cubin.data(), program->cubin.size());
  return NVRTC_SUCCESS;
}

STANDIN_EXPORT int nvrtcDestroyProgram(nvrtcProgram* handle) {
  const Lock lock;
  if (!programs().remove(*handle)) return fail(NVRTC_ERROR_INVALID_PROGRAM, "nvrtcDestroyProgram");
  *handle = nullptr;
  return NVRTC_SUCCESS;
}

}  // namespace standin
