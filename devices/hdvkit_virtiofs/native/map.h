/* A hash table from pairs of numbers to pointers: open addressing, each entry as near to its place as can be. */
#ifndef VIRTIOFS_MAP_H
#define VIRTIOFS_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t a;
    uint64_t b;
    void *value; /* NULL: nothing is here */
} vf_slot;

typedef struct {
    vf_slot *entries;
    size_t places; /* a power of two, or 0 */
    size_t used;
} vf_map;

void *vf_map_get(const vf_map *map, uint64_t a, uint64_t b);
/* False when there is no memory. What was there is replaced. */
bool vf_map_put(vf_map *map, uint64_t a, uint64_t b, void *value);
void vf_map_remove(vf_map *map, uint64_t a, uint64_t b);
void vf_map_free(vf_map *map);

#endif
