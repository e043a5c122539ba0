# What llama.cpp's own build is told when pip compiles llama-cpp-python for us:
# cmake includes this file right after `project("llama.cpp")` (setup.sh points
# CMAKE_PROJECT_llama.cpp_INCLUDE here).  It must only leave things out, never change
# how the library itself is compiled.
#
# The `common` library serves llama.cpp's own programs and nothing of it is in the
# wheel, but llama-cpp-python forces LLAMA_BUILD_COMMON=ON into the cache.  A normal
# variable of the same name goes before the cache (policies CMP0077 and CMP0126).
set(LLAMA_BUILD_COMMON OFF)
