# An object file of kernels may define one global symbol, its table, and no weak ones: of a weak (inline or template) function
# the linker keeps any one copy for the whole library, perhaps one that only an AVX-512 machine can run.
execute_process(COMMAND ${NM} --defined-only --extern-only ${OBJECT} OUTPUT_VARIABLE symbols RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "nm failed on ${OBJECT}")
endif()
string(REGEX REPLACE "\n$" "" symbols "${symbols}")
string(REPLACE "\n" ";" symbols "${symbols}")
list(LENGTH symbols count)
if(NOT count EQUAL 1 OR NOT symbols MATCHES " [DRS] .*table")
  message(FATAL_ERROR "expected the table alone, found:\n${symbols}")
endif()
