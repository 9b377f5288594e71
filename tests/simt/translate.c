/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "translate.h"

static int is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

static const char *skip_space(const char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    return s;
}

static const char *end_of_word(const char *s)
{
    while (is_word(*s))
        s++;
    return s;
}

static int starts_with_word(const char *s, const char *word)
{
    const size_t length = strlen(word);
    return strncmp(s, word, length) == 0 && !is_word(s[length]);
}

/* Behind a comment or a literal that starts at s, or s. */
static const char *skip_text(const char *s)
{
    if (strncmp(s, "//", 2) == 0)
        return s + strcspn(s, "\n");
    if (strncmp(s, "/*", 2) == 0) {
        const char *const end = strstr(s + 2, "*/");
        return end != NULL ? end + 2 : s + strlen(s);
    }
    if (*s == '"' || *s == '\'') {
        const char quote = *s++;
        while (*s != '\0' && *s != quote)
            s += s[0] == '\\' && s[1] != '\0' ? 2 : 1;
        return *s != '\0' ? s + 1 : s;
    }
    return s;
}

/* Behind the parenthesis that closes the one at s. */
static const char *skip_parentheses(const char *s)
{
    int depth = 0;
    while (*s != '\0') {
        const char *const behind = skip_text(s);
        if (behind != s) {
            s = behind;
            continue;
        }
        depth += (*s == '(') - (*s == ')');
        s++;
        if (depth == 0)
            break;
    }
    return s;
}

/* Writes the SIMT_KERNEL of the function whose __global__ ends at s: its name
 * is the word before the first parenthesis that is not an attribute's. */
static void write_kernel(const char *s, FILE *out)
{
    const char *bound = "0";
    size_t bound_length = 1;
    while (*s != '\0') {
        const char *const behind = skip_text(s);
        if (behind != s || !is_word(*s)) {
            s = behind != s ? behind : s + 1;
            continue;
        }
        const char *const word = s;
        s = end_of_word(s);
        const char *const next = skip_space(s);
        if (*next != '(')
            continue;
        s = skip_parentheses(next);
        if (starts_with_word(word, "__launch_bounds__")) {
            bound = next + 1;
            bound_length = (size_t)(s - next) - 2;
            const char *const comma = memchr(bound, ',', bound_length);
            if (comma != NULL)
                bound_length = (size_t)(comma - bound);
        } else if (!starts_with_word(word, "__attribute__")) {
            fprintf(out, "SIMT_KERNEL(%.*s, (%.*s))\n",
                    (int)(end_of_word(word) - word), word, (int)bound_length,
                    bound);
            return;
        }
    }
}

/* Writes the declaration `extern __shared__ ...;` at s; returns its end. */
static const char *write_dynamic_shared(const char *s, FILE *out)
{
    const char *const type =
        skip_space(strstr(s, "__shared__") + strlen("__shared__"));
    const char *const end = type + strcspn(type, ";");
    const char *bracket = memchr(type, '[', (size_t)(end - type));
    const char *name = bracket != NULL ? bracket : end;
    while (name > type && !is_word(name[-1]))
        name--;
    const char *const name_end = name;
    while (name > type && is_word(name[-1]))
        name--;
    fprintf(out, "SIMT_DYNAMIC_SHARED(%.*s, %.*s)", (int)(name - type), type,
            (int)(name_end - name), name);
    return end;
}

static void translate(const char *s, FILE *out, FILE *kernels)
{
    while (*s != '\0') {
        const char *behind = skip_text(s);
        if (behind == s && is_word(*s)) {
            behind = end_of_word(s);
            if (starts_with_word(s, "extern") &&
                starts_with_word(skip_space(behind), "__shared__")) {
                s = write_dynamic_shared(s, out);
                continue;
            }
            if (starts_with_word(s, "__global__"))
                write_kernel(behind, kernels);
        }
        if (behind == s)
            behind = s + 1;
        fwrite(s, 1, (size_t)(behind - s), out);
        s = behind;
    }
}

char *simt_translate(const char *source)
{
    char *text = NULL;
    char *kernels = NULL;
    size_t size;
    size_t kernels_size;
    FILE *const out = open_memstream(&text, &size);
    FILE *const list = open_memstream(&kernels, &kernels_size);
    int failed = out == NULL || list == NULL;
    if (!failed)
        translate(source, out, list);
    failed |= list == NULL || fclose(list) != 0;
    if (!failed)
        fprintf(out, "\n%s", kernels);
    failed |= out == NULL || fclose(out) != 0;
    free(kernels);
    if (failed) {
        free(text);
        return NULL;
    }
    return text;
}
