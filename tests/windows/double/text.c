// UTF-16 to UTF-8 and back, GUIDs as text, and as much JSON as compute systems need.
#include "double.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_TEXT = 1 << 20, MAX_DEPTH = 32 };

char *copy_text(const char *text) {
    if (text == NULL) {
        return NULL;
    }
    size_t size = strlen(text) + 1;
    char *copy = malloc(size);
    if (copy == NULL) {
        abort();
    }
    return memcpy(copy, text, size);
}

// -- UTF-16 ---------------------------------------------------------------------------------------

static char *put_character(char *at, uint32_t character) {
    if (character < 0x80) {
        *at++ = (char)character;
    } else if (character < 0x800) {
        *at++ = (char)(0xC0 | character >> 6);
        *at++ = (char)(0x80 | (character & 0x3F));
    } else if (character < 0x10000) {
        *at++ = (char)(0xE0 | character >> 12);
        *at++ = (char)(0x80 | (character >> 6 & 0x3F));
        *at++ = (char)(0x80 | (character & 0x3F));
    } else {
        *at++ = (char)(0xF0 | character >> 18);
        *at++ = (char)(0x80 | (character >> 12 & 0x3F));
        *at++ = (char)(0x80 | (character >> 6 & 0x3F));
        *at++ = (char)(0x80 | (character & 0x3F));
    }
    return at;
}

// NULL for NULL and for what is no UTF-16; a text without an end is fatal.
char *from_wide(const WCHAR *text) {
    if (text == NULL) {
        return NULL;
    }
    size_t length = 0;
    while (text[length] != 0) {
        if (++length > MAX_TEXT) {
            fatal("a string does not end");
        }
    }
    char *result = malloc(length * 3 + 1), *at = result;
    if (result == NULL) {
        abort();
    }
    for (size_t from = 0; from < length; from++) {
        uint32_t unit = text[from];
        if (unit >= 0xD800 && unit < 0xE000) {
            uint32_t low = from + 1 < length ? text[from + 1] : 0;
            if (unit >= 0xDC00 || low < 0xDC00 || low > 0xDFFF) {
                free(result);
                warn("a string is not UTF-16");
                return NULL;
            }
            unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
            from++;
        }
        at = put_character(at, unit);
    }
    *at = 0;
    return result;
}

static size_t widen(const char *text, WCHAR *wide) {
    size_t count = 0;
    for (const unsigned char *at = (const unsigned char *)text; *at != 0; at++) {
        uint32_t character = *at;
        int more = character < 0x80 ? 0 : character < 0xE0 ? 1 : character < 0xF0 ? 2 : 3;
        character = more == 0 ? character : character & (0x3Fu >> more);
        for (; more > 0 && at[1] != 0; more--) {
            character = character << 6 | (*++at & 0x3F);
        }
        if (character >= 0x10000) {
            wide[count++] = (WCHAR)(0xD800 + ((character - 0x10000) >> 10));
            wide[count++] = (WCHAR)(0xDC00 + ((character - 0x10000) & 0x3FF));
        } else {
            wide[count++] = (WCHAR)character;
        }
    }
    wide[count] = 0;
    return count + 1;
}

WCHAR *to_wide(const char *text) {
    WCHAR *wide = malloc((strlen(text) + 1) * sizeof *wide);
    if (wide == NULL) {
        abort();
    }
    widen(text, wide);
    return wide;
}

// A document that the caller gives to LocalFree; NULL stays NULL.
WCHAR *result_string(const char *text) {
    if (text == NULL) {
        return NULL;
    }
    WCHAR *wide = os_local_alloc((strlen(text) + 1) * sizeof *wide);
    if (wide == NULL) {
        abort();
    }
    widen(text, wide);
    return wide;
}

// -- GUIDs ----------------------------------------------------------------------------------------

bool same_guid(const GUID *one, const GUID *other) { return memcmp(one, other, sizeof *one) == 0; }

// The one form that compute systems want: lowercase, without braces.
bool parse_guid(const char *text, GUID *guid) {
    unsigned part[8], d1, d2, d3;
    if (text == NULL || strlen(text) != 36 || strspn(text, "0123456789abcdef-") != 36) {
        return false;
    }
    for (int at = 0; at < 36; at++) {
        if ((text[at] == '-') != (at == 8 || at == 13 || at == 18 || at == 23)) {
            return false;
        }
    }
    if (sscanf(text, "%8x-%4x-%4x-%2x%2x-%2x%2x%2x%2x%2x%2x", &d1, &d2, &d3, part, part + 1, part + 2, part + 3,
               part + 4, part + 5, part + 6, part + 7) != 11) {
        return false;
    }
    *guid = (GUID){.Data1 = d1, .Data2 = (uint16_t)d2, .Data3 = (uint16_t)d3};
    for (int at = 0; at < 8; at++) {
        guid->Data4[at] = (uint8_t)part[at];
    }
    return true;
}

const char *guid_text(const GUID *guid, char text[37]) {
    const uint8_t *d = guid->Data4;
    snprintf(text, 37, "%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x", guid->Data1, guid->Data2, guid->Data3, d[0],
             d[1], d[2], d[3], d[4], d[5], d[6], d[7]);
    return text;
}

// -- JSON -----------------------------------------------------------------------------------------

enum type { NOTHING, TRUTH, NUMBER, STRING, ARRAY, OBJECT };

struct json {
    enum type type;
    int64_t number;
    char *text;
    size_t count;
    char **keys;
    struct json **items;
};

struct reader {
    const char *at;
    int depth;
};

static struct json *read_value(struct reader *reader);

static void skip(struct reader *reader) { reader->at += strspn(reader->at, " \t\r\n"); }

static bool take(struct reader *reader, const char *word) {
    size_t length = strlen(word);
    if (strncmp(reader->at, word, length) != 0) {
        return false;
    }
    reader->at += length;
    return true;
}

static bool read_escape(struct reader *reader, char **to) {
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    char letter = *reader->at;
    const char *found = letter == 0 ? NULL : strchr(from, letter);
    if (found != NULL) {
        reader->at++;
        *(*to)++ = into[found - from];
        return true;
    }
    unsigned unit;
    if (letter != 'u' || strspn(reader->at + 1, "0123456789abcdefABCDEF") < 4 ||
        sscanf(reader->at + 1, "%4x", &unit) != 1) {
        return false;
    }
    reader->at += 5;
    *to = put_character(*to, unit);  // halves of pairs stay halves: nobody here looks at them
    return true;
}

static char *read_string(struct reader *reader) {
    if (!take(reader, "\"")) {
        return NULL;
    }
    char *text = malloc(strlen(reader->at) + 1), *to = text;
    if (text == NULL) {
        abort();
    }
    while (*reader->at != '"') {
        bool fine = (unsigned char)*reader->at >= 0x20;
        if (fine && take(reader, "\\")) {
            fine = read_escape(reader, &to);
        } else if (fine) {
            *to++ = *reader->at++;
        }
        if (!fine) {
            free(text);
            return NULL;
        }
    }
    reader->at++;
    *to = 0;
    return text;
}

static bool add_item(struct json *value, char *key, struct json *item) {
    value->keys = realloc(value->keys, (value->count + 1) * sizeof *value->keys);
    value->items = realloc(value->items, (value->count + 1) * sizeof *value->items);
    if (value->keys == NULL || value->items == NULL) {
        abort();
    }
    bool twice = key != NULL && json_get(value, key) != NULL;
    value->keys[value->count] = key;
    value->items[value->count++] = item;
    return item != NULL && !twice;
}

static bool read_items(struct reader *reader, struct json *value, const char *end) {
    skip(reader);
    if (take(reader, end)) {
        return true;
    }
    do {
        char *key = NULL;
        skip(reader);
        if (value->type == OBJECT) {
            key = read_string(reader);
            skip(reader);
            if (key == NULL || !take(reader, ":")) {
                free(key);
                return false;
            }
        }
        if (!add_item(value, key, read_value(reader))) {
            return false;
        }
        skip(reader);
    } while (take(reader, ","));
    return take(reader, end);
}

static bool read_into(struct reader *reader, struct json *value) {
    if (take(reader, "{")) {
        value->type = OBJECT;
        return read_items(reader, value, "}");
    }
    if (take(reader, "[")) {
        value->type = ARRAY;
        return read_items(reader, value, "]");
    }
    if (*reader->at == '"') {
        value->type = STRING;
        value->text = read_string(reader);
        return value->text != NULL;
    }
    if (take(reader, "true") || take(reader, "false")) {
        value->type = TRUTH;
        value->number = reader->at[-2] == 'u';
        return true;
    }
    if (take(reader, "null")) {
        return true;
    }
    char *end;
    value->type = NUMBER;
    value->number = strtoll(reader->at, &end, 10);
    bool found = end != reader->at;
    reader->at = end + strspn(end, ".0123456789eE+-");
    return found;
}

static struct json *read_value(struct reader *reader) {
    struct json *value = calloc(1, sizeof *value);
    if (value == NULL) {
        abort();
    }
    skip(reader);
    if (++reader->depth > MAX_DEPTH || !read_into(reader, value)) {
        json_free(value);
        return NULL;
    }
    reader->depth--;
    return value;
}

struct json *json_parse(const char *text) {
    struct reader reader = {text == NULL ? "" : text, 0};
    struct json *value = read_value(&reader);
    skip(&reader);
    if (value != NULL && *reader.at != 0) {
        json_free(value);
        return NULL;
    }
    return value;
}

void json_free(struct json *value) {
    if (value == NULL) {
        return;
    }
    for (size_t at = 0; at < value->count; at++) {
        free(value->keys[at]);
        json_free(value->items[at]);
    }
    free(value->keys);
    free(value->items);
    free(value->text);
    free(value);
}

const struct json *json_get(const struct json *value, const char *key) {
    for (size_t at = 0; value != NULL && value->type == OBJECT && at < value->count; at++) {
        if (strcmp(value->keys[at], key) == 0) {
            return value->items[at];
        }
    }
    return NULL;
}

const char *json_text(const struct json *value) { return value == NULL ? NULL : value->text; }
bool json_truth(const struct json *value) { return value != NULL && value->type == TRUTH && value->number; }
size_t json_count(const struct json *value) { return value == NULL ? 0 : value->count; }
const struct json *json_item(const struct json *value, size_t index) { return value->items[index]; }
const char *json_key(const struct json *value, size_t index) { return value->keys[index]; }

bool json_number(const struct json *value, int64_t *number) {
    if (value == NULL || value->type != NUMBER) {
        return false;
    }
    *number = value->number;
    return true;
}
