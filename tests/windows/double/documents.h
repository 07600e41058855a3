// Requests as the compute service's documents make them.
#ifndef DOCUMENTS_H
#define DOCUMENTS_H

#include "double.h"

struct request {
    struct system *system;
    struct slot *slot;
    GUID instance, class_id;
    enum hosting hosting;
    uint32_t string_count;
    char *strings[MAX_STRINGS];
};

struct request *new_request(struct system *system);
void free_request(struct request *request);
HRESULT read_modify(const struct json *root, struct request *request, bool *remove);
// Makes the system that a create document describes.
HRESULT create_from(const char *id, const struct json *root, struct system **system);

#endif
