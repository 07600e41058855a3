/* A hash table with linear probing; removal moves what follows back, so there are no gravestones. */
#include "map.h"

#include <stdlib.h>
#include <string.h>

#define SMALLEST 64

/* Numbers of nodes and inodes are the host's or counted up here: the guest cannot choose who collides. */
static size_t place_of(const vf_map *map, uint64_t a, uint64_t b) {
    uint64_t mixed = (a ^ (b << 32 | b >> 32)) * UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(mixed ^ mixed >> 29) & (map->places - 1);
}

static size_t find(const vf_map *map, uint64_t a, uint64_t b) {
    size_t place = place_of(map, a, b);
    while (map->entries[place].value && (map->entries[place].a != a || map->entries[place].b != b))
        place = (place + 1) & (map->places - 1);
    return place;
}

void *vf_map_get(const vf_map *map, uint64_t a, uint64_t b) {
    return map->places ? map->entries[find(map, a, b)].value : NULL;
}

static bool grow(vf_map *map) {
    vf_map larger = {.places = map->places ? 2 * map->places : SMALLEST, .used = map->used};
    larger.entries = calloc(larger.places, sizeof *larger.entries);
    if (!larger.entries)
        return false;
    for (size_t place = 0; place < map->places; place++) {
        const vf_slot *entry = &map->entries[place];
        if (entry->value)
            larger.entries[find(&larger, entry->a, entry->b)] = *entry;
    }
    free(map->entries);
    *map = larger;
    return true;
}

bool vf_map_put(vf_map *map, uint64_t a, uint64_t b, void *value) {
    if (map->used * 4 >= map->places * 3 && !grow(map))
        return false;
    size_t place = find(map, a, b);
    if (!map->entries[place].value)
        map->used++;
    map->entries[place] = (vf_slot){a, b, value};
    return true;
}

void vf_map_remove(vf_map *map, uint64_t a, uint64_t b) {
    if (!map->places)
        return;
    size_t mask = map->places - 1, gap = find(map, a, b);
    if (!map->entries[gap].value)
        return;
    map->used--;
    for (size_t next = (gap + 1) & mask; map->entries[next].value; next = (next + 1) & mask) {
        size_t home = place_of(map, map->entries[next].a, map->entries[next].b);
        if (((next - home) & mask) < ((next - gap) & mask))
            continue; /* it would come to lie in front of its place */
        map->entries[gap] = map->entries[next];
        gap = next;
    }
    map->entries[gap].value = NULL;
}

void vf_map_free(vf_map *map) {
    free(map->entries);
    memset(map, 0, sizeof *map);
}
