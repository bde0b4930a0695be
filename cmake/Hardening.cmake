# The options of Debian's hardening=+all, for builds by hand. FORTIFY needs
# optimisation and disturbs the sanitizers.
add_compile_options(-fstack-protector-strong -fstack-clash-protection -fPIE)
if(NOT CMAKE_BUILD_TYPE STREQUAL "Debug" AND NOT MAILFERRY_SANITIZE)
	add_compile_options(-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|amd64")
	add_compile_options(-fcf-protection=full)
endif()
add_link_options(-pie -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack)
