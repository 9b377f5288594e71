/* SPDX-License-Identifier: Apache-2.0 */
/* results.h - the results of driver calls by name. */
#ifndef SIMT_RESULTS_H
#define SIMT_RESULTS_H

#include "exports.h"

const char *simt_result_name(CUresult result); /* NULL if unknown */
const char *simt_result_text(CUresult result);
int simt_result_by_name(const char *name); /* -1 if unknown */

#endif
