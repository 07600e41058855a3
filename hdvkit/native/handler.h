/* What a device gives a lane: a function that answers the requests which are frequent, and leaves the rest to Python. */
#ifndef HDVKIT_HANDLER_H
#define HDVKIT_HANDLER_H

#include "ring.h"

typedef enum {
    HDV_DECLINED, /* nothing was done and nothing was written: Python's */
    HDV_ANSWERED,
    HDV_WAITS /* the same as declined, but a helper of the lane may do it */
} hdv_outcome;

#define HDV_CALLS 5 /* of a handler at a time, at most: by the lane's thread and by its helpers */

typedef struct {
    /* Answer a request, and say how many bytes of answer it got. The lane's thread asks for one request at a time and
     * without patience: what waits for a disk would hold up all that comes behind it. Its helpers ask with patience, for
     * several requests at a time. Never called with a lock held. */
    hdv_outcome (*answer)(void *context, bool patient, const hdv_chain *chain, uint32_t *written);
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
