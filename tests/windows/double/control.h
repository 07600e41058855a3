// How a test plays with the double. Texts are UTF-8, systems and slots are small numbers. cffi reads it.

typedef void (*dbl_interrupt)(void *context, uint64_t address, uint32_t data);

// Forgets everything but its threads; waits for callbacks and operations that still run.
void dbl_reset(void);

// Switches, counters and failures by name; double.h lists the names. Nonzero: no such name.
int32_t dbl_set(const char *name, int64_t value);
int64_t dbl_get(const char *name);
int64_t dbl_count(const char *name);
// The next calls of an export fail. "<export>.result": its operation does nothing and ends so. "<export>.answer": it
// is done, and said to have ended so. The document may be NULL.
int32_t dbl_fail_next(const char *name, HRESULT code, uint32_t times, const char *document);
// Each call of an export takes so much longer; ".result" begins, and ".answer" comes, so much later.
int32_t dbl_delay(const char *name, uint32_t milliseconds);
// The calling thread runs an event loop, which must not wait for the platform.
void dbl_loop_thread(void);

// Text lines; each returns how many bytes there are, and writes at most size of them, ending in NUL.
uint64_t dbl_report(char *text, uint64_t size);
uint64_t dbl_log(char *text, uint64_t size);

// Virtual machines that somebody else made; the number of the system, negative when that is impossible.
int32_t dbl_create_system(const char *id, const char *runtime_id, uint32_t memory_mb, int32_t running);
int32_t dbl_find_system(const char *id);
int32_t dbl_cold_slot(int32_t system, const char *instance_id, const char *class_id, const char *hosting);
HRESULT dbl_start(int32_t system);
HRESULT dbl_stop(int32_t system);
void dbl_kill(int32_t system);
void dbl_properties(int32_t system, const char *document);

// What the guest's vCPUs do; nonzero when nothing answers there.
int32_t dbl_slot(int32_t system, const char *instance_id);
int32_t dbl_config_read(int32_t system, int32_t slot, uint32_t offset, uint32_t size, uint32_t *value);
int32_t dbl_config_write(int32_t system, int32_t slot, uint32_t offset, uint32_t size, uint32_t value);
int32_t dbl_mmio_read(int32_t system, uint64_t address, uint32_t size, uint64_t *value);
int32_t dbl_mmio_write(int32_t system, uint64_t address, uint32_t size, uint64_t value);
int32_t dbl_bar(int32_t system, int32_t slot, int32_t bar, uint64_t *address, uint64_t *size);
uint64_t dbl_allocate_bar(int32_t system, uint64_t size);

// RAM as the guest has it, NULL where there is none. To look is to touch: the pages are backed from now on.
uint8_t *dbl_ram(int32_t system, uint64_t address, uint64_t size);
void dbl_ram_sizes(int32_t system, uint64_t *low, uint64_t *high);
int32_t dbl_backed(int32_t system, uint64_t address);

// Interrupts; the callback runs on the thread that delivers.
void dbl_allocate_msi(int32_t system, uint64_t *address, uint32_t *data);
void dbl_on_interrupt(int32_t system, dbl_interrupt callback, void *context);
// Those that devices delivered, the last few thousand: lines of microseconds, address, data.
uint64_t dbl_interrupts(int32_t system, char *text, uint64_t size);
