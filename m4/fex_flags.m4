dnl SPDX-License-Identifier: Apache-2.0
dnl fex_flags.m4 - compiler flags: warnings, --enable-werror, --enable-sanitize.

dnl FEX_WARNINGS - sets WARN_CFLAGS and WARN_CXXFLAGS. They go through AM_CFLAGS,
dnl before the user's CFLAGS, which therefore have the last word.
AC_DEFUN([FEX_WARNINGS], [
AC_ARG_ENABLE([werror],
  [AS_HELP_STRING([--enable-werror], [make warnings fatal (for CI)])],
  [], [enable_werror=no])
WARN_CFLAGS="-Wall -Wextra -Wshadow -Wconversion"
WARN_CXXFLAGS="-Wall -Wextra -Wshadow"
AS_IF([test "$enable_werror" = yes],
  [WARN_CFLAGS="$WARN_CFLAGS -Werror"
   WARN_CXXFLAGS="$WARN_CXXFLAGS -Werror"])
AC_SUBST([WARN_CFLAGS])
AC_SUBST([WARN_CXXFLAGS])
])

dnl FEX_SANITIZE - sets SANITIZE_CFLAGS, for compiling and linking alike.
AC_DEFUN([FEX_SANITIZE], [
AC_ARG_ENABLE([sanitize],
  [AS_HELP_STRING([--enable-sanitize=LIST],
    [build with sanitizers: address,undefined or thread])],
  [], [enable_sanitize=no])
SANITIZE_CFLAGS=
AS_CASE([$enable_sanitize],
  [no], [],
  [yes], [enable_sanitize=address,undefined])
AS_IF([test "$enable_sanitize" != no],
  [SANITIZE_CFLAGS="-fsanitize=$enable_sanitize -fno-omit-frame-pointer"
   SANITIZE_CFLAGS="$SANITIZE_CFLAGS -fno-sanitize-recover=all"
   save_CFLAGS=$CFLAGS
   CFLAGS="$CFLAGS $SANITIZE_CFLAGS"
   AC_MSG_CHECKING([whether $CC links with $SANITIZE_CFLAGS])
   AC_LINK_IFELSE([AC_LANG_PROGRAM],
     [AC_MSG_RESULT([yes])],
     [AC_MSG_RESULT([no])
      AC_MSG_ERROR([$CC cannot build with --enable-sanitize=$enable_sanitize])])
   CFLAGS=$save_CFLAGS])
AC_SUBST([SANITIZE_CFLAGS])
])

dnl FEX_CXX_WORKS - the conditional HAVE_CXX: a C++17 compiler is there. Only
dnl the simulated device of the tests needs one.
AC_DEFUN([FEX_CXX_WORKS], [
AC_LANG_PUSH([C++])
AC_MSG_CHECKING([for a C++17 compiler])
save_CXXFLAGS=$CXXFLAGS
CXXFLAGS="$CXXFLAGS -std=c++17"
AC_COMPILE_IFELSE(
  [AC_LANG_PROGRAM([[#include <type_traits>]],
     [[static_assert(std::is_same_v<int, int>);]])],
  [have_cxx=yes], [have_cxx=no])
CXXFLAGS=$save_CXXFLAGS
AC_MSG_RESULT([$have_cxx])
AC_LANG_POP([C++])
AM_CONDITIONAL([HAVE_CXX], [test "$have_cxx" = yes])
])
