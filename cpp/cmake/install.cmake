# What `cmake --install` puts where: headers, libraries, and what find_package and pkg-config ask for.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
if(SKBUILD) # inside the Python package; `python -m recurra --cmake-dir` says where
  set(CMAKE_INSTALL_INCLUDEDIR recurra/cpp/include)
  set(CMAKE_INSTALL_LIBDIR recurra/cpp/lib)
endif()

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/recurra)
set(libraries recurra)
if(RECURRA_SHARED)
  list(APPEND libraries recurra_c)
endif()
install(TARGETS ${libraries} EXPORT recurra ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY cpp/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT recurra NAMESPACE recurra:: DESTINATION ${package})
configure_package_config_file(cpp/cmake/recurraConfig.cmake.in ${PROJECT_BINARY_DIR}/recurraConfig.cmake
                              INSTALL_DESTINATION ${package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/recurraConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/recurraConfig.cmake ${PROJECT_BINARY_DIR}/recurraConfigVersion.cmake
        DESTINATION ${package})

# What is installed may be moved: paths are relative to the file itself.
foreach(kind LIB INCLUDE)
  file(RELATIVE_PATH to_${kind} ${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_LIBDIR}/pkgconfig
       ${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_${kind}DIR})
endforeach()
set(libs_of_recurra "-lrecurra -pthread -ldl")
set(libs_of_recurra_c "-lrecurra_c")
foreach(name ${libraries})
  set(libs ${libs_of_${name}})
  configure_file(cpp/cmake/recurra.pc.in ${PROJECT_BINARY_DIR}/${name}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()
