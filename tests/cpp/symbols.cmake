# An object file of kernels may define global symbols for its tables alone, and no weak ones: of a weak (inline or template) function
# the linker keeps any one copy for the whole library, perhaps one that only an AVX-512 machine can run.
execute_process(COMMAND ${NM} --defined-only --extern-only ${OBJECT} OUTPUT_VARIABLE symbols RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "nm failed on ${OBJECT}")
endif()
string(REGEX REPLACE "\n$" "" symbols "${symbols}")
string(REPLACE "\n" ";" symbols "${symbols}")
set(others ${symbols})
list(FILTER others EXCLUDE REGEX " [DRS] [^ ]*table")
if(NOT symbols OR others)
  message(FATAL_ERROR "expected tables alone, found:\n${symbols}")
endif()
