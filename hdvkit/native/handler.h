/* What a device gives a lane: a function that answers the requests which are frequent, and leaves the rest to Python. */
#ifndef HDVKIT_HANDLER_H
#define HDVKIT_HANDLER_H

#include "ring.h"

typedef struct {
    /* Answer a request, and say how many bytes of answer it got. Or decline: then nothing was done and nothing was
     * written. Called on the lane's thread, for one request at a time, and never with a lock held. */
    bool (*answer)(void *context, const hdv_chain *chain, uint32_t *written);
    void *context;
} hdv_handler;

/* What a platform gives a lane whose kicks come as messages on a socket, among others. */
typedef struct {
    /* How many bytes at the front are whole messages that are kicks and that nobody waits for an answer to. What comes
     * behind them is Python's to read. The bytes are hostile. */
    size_t (*kicks)(void *context, const uint8_t *bytes, size_t size);
    void *context;
} hdv_listener;

#endif
