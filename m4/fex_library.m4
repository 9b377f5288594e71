dnl SPDX-License-Identifier: Apache-2.0
dnl fex_library.m4 - find a library with or without pkg-config.

dnl FEX_LIBRARY(NAME, MODULE, HEADER, FUNCTION, LIBS...) - sets NAME_CFLAGS and
dnl NAME_LIBS (which the user may preset) and have_NAME. Asks pkg-config for
dnl MODULE; where that is missing or does not know it, or what it says does not
dnl link, tries the header with each word of LIBS along the search paths of
dnl CPPFLAGS and LDFLAGS.
AC_DEFUN([FEX_LIBRARY], [
AC_ARG_VAR([$1_CFLAGS], [compiler flags for $2, instead of pkg-config's])
AC_ARG_VAR([$1_LIBS], [linker flags for $2, instead of pkg-config's])
AC_MSG_CHECKING([for $2])
have_$1=no
save_CPPFLAGS=$CPPFLAGS
save_LIBS=$LIBS
AS_IF([test -z "$$1_LIBS" && test -n "$PKG_CONFIG" &&
       $PKG_CONFIG --exists $2 2>&AS_MESSAGE_LOG_FD],
  [$1_CFLAGS=`$PKG_CONFIG --cflags $2`
   $1_LIBS=`$PKG_CONFIG --libs $2`])
for fex_libs in "$$1_LIBS" $5; do
  test -n "$fex_libs" || continue
  CPPFLAGS="$save_CPPFLAGS $$1_CFLAGS"
  LIBS="$fex_libs $save_LIBS"
  AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <$3>]], [[return $4 == 0;]])],
    [have_$1=yes
     $1_LIBS=$fex_libs
     break])
done
CPPFLAGS=$save_CPPFLAGS
LIBS=$save_LIBS
AC_MSG_RESULT([$have_$1])
])
