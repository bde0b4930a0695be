if(MAILFERRY_SANITIZE)
	add_compile_options(-fsanitize=${MAILFERRY_SANITIZE}
		-fno-omit-frame-pointer -fno-sanitize-recover=all)
	add_link_options(-fsanitize=${MAILFERRY_SANITIZE})
endif()
if(MAILFERRY_FUZZ)
	# Every library is instrumented; only the fuzz targets link the driver.
	add_compile_options(-fsanitize=fuzzer-no-link)
endif()
