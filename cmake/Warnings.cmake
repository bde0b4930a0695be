# One set of warnings for gcc and clang; all of them are errors.
add_library(warnings INTERFACE)
target_compile_options(warnings INTERFACE
	-Wall -Wextra -Werror -Wformat=2 -Wformat-security -Wshadow
	-Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings
	-Wundef -Wvla -Wcast-qual -Wswitch-enum -Wimplicit-fallthrough)
link_libraries(warnings)
