/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "number.h"

#include <ctype.h>

const tool_unit number_binary_units[] = {
    {'k', INT64_C(1) << 10},
    {'m', INT64_C(1) << 20},
    {'g', INT64_C(1) << 30},
    {'t', INT64_C(1) << 40},
    {0, 1},
};

const tool_unit number_age_units[] = {
    {'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 604800}, {0, 0},
};

int number_parse(const char *text, size_t length, const tool_unit *units,
                 int64_t *value)
{
    int64_t number = 0;
    size_t digits = 0;

    for (; digits < length && isdigit((unsigned char)text[digits]); digits++)
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, text[digits] - '0', &number))
            return -1;
    if (digits == 0 || length - digits > 1)
        return -1;
    const int letter =
        length > digits ? tolower((unsigned char)text[digits]) : 0;
    while (units->letter != 0 && units->letter != letter)
        units++;
    if (units->letter != letter || units->factor == 0 ||
        __builtin_mul_overflow(number, units->factor, &number))
        return -1;
    *value = number;
    return 0;
}

int number_is_negative(const char *text, size_t length)
{
    return length >= 2 && text[0] == '-' && isdigit((unsigned char)text[1]);
}
