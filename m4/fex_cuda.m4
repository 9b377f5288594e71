dnl SPDX-License-Identifier: Apache-2.0
dnl fex_cuda.m4 - find CUDA's headers: a toolkit, or the wheels of PyPI.

dnl FEX_CUDA - sets CUDA_CPPFLAGS, the way to cuda.h and nvrtc.h, and CUDA_HOME,
dnl the folder they were found in, where the tests then look for NVRTC. The
dnl folders tried: --with-cuda=DIR alone if given, else $CUDA_HOME,
dnl /usr/local/cuda, the compiler's own paths, Python's nvidia package. In each,
dnl the layouts of a toolkit (include), of a CUDA 13 wheel (nvidia/cu13/include)
dnl and of CUDA 12 wheels, which keep the two headers apart
dnl (nvidia/cuda_runtime/include and nvidia/cuda_nvrtc/include).
AC_DEFUN([FEX_CUDA], [
AC_ARG_WITH([cuda],
  [AS_HELP_STRING([--with-cuda=DIR],
    [a CUDA toolkit, or a folder that holds nvidia/*/include])],
  [], [with_cuda=])
AC_ARG_VAR([CUDA_HOME], [a CUDA toolkit])
AS_CASE([$with_cuda],
  [''|yes], [fex_cuda_roots="${CUDA_HOME:-} /usr/local/cuda /usr `
     python3 -c 'import nvidia; print(*nvidia.__path__)' 2>/dev/null`"],
  [no], [AC_MSG_ERROR([CUDA's headers cannot be done without])],
  [fex_cuda_roots=$with_cuda])

CUDA_CPPFLAGS=
CUDA_HOME=
for fex_header in cuda.h nvrtc.h; do
  AC_MSG_CHECKING([for $fex_header])
  fex_found=
  for fex_root in $fex_cuda_roots; do
    for fex_include in "$fex_root"/include "$fex_root"/targets/*/include \
        "$fex_root"/nvidia/*/include "$fex_root"/*/include; do
      AS_IF([test -f "$fex_include/$fex_header"],
        [fex_found=$fex_include
         break 2])
    done
  done
  AS_IF([test -z "$fex_found"],
    [AC_MSG_RESULT([no])
     AC_MSG_ERROR([CUDA's $fex_header is missing from $fex_cuda_roots:
  install a CUDA toolkit, or unpack the wheels nvidia-cuda-runtime and
  nvidia-cuda-nvrtc into one folder, and configure --with-cuda=DIR])])
  AC_MSG_RESULT([$fex_found])
  # As system headers, so that our warnings stay ours. The compiler's own
  # folder must not be named: that would disturb the order of the system's.
  AS_CASE([" $CUDA_CPPFLAGS "],
    [*" $fex_found "*], [],
    [AS_IF([test "$fex_found" != /usr/include],
       [CUDA_CPPFLAGS="$CUDA_CPPFLAGS -isystem $fex_found"])])
  CUDA_HOME=`dirname "$fex_found"`
done
AC_SUBST([CUDA_CPPFLAGS])
])
