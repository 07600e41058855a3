/* Loads and stores of memory that the driver shares. Everything here is little-endian, as modern virtio is. */
#ifndef HDVKIT_ATOMICS_H
#define HDVKIT_ATOMICS_H

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the rings of modern virtio are little-endian, and so must this machine be"
#endif

#if defined(__GNUC__) || defined(__clang__)

static inline uint16_t hdv_load16(const uint8_t *at) {
    return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_RELAXED);
}

static inline uint16_t hdv_load16_acquire(const uint8_t *at) {
    return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_ACQUIRE);
}

static inline uint64_t hdv_load64(const uint8_t *at) {
    return __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_RELAXED);
}

static inline void hdv_store16(uint8_t *at, uint16_t value) {
    __atomic_store_n((uint16_t *)(void *)at, value, __ATOMIC_RELAXED);
}

static inline void hdv_store16_release(uint8_t *at, uint16_t value) {
    __atomic_store_n((uint16_t *)(void *)at, value, __ATOMIC_RELEASE);
}

static inline void hdv_store32(uint8_t *at, uint32_t value) {
    __atomic_store_n((uint32_t *)(void *)at, value, __ATOMIC_RELAXED);
}

/* What was stored before is visible to the driver before what follows is loaded. */
static inline void hdv_fence(void) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* What was stored before is visible before what is stored behind. */
static inline void hdv_store_fence(void) {
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

/* Spinning: let the other half of the processor go first. */
static inline void hdv_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#else
#error "this compiler's atomics are not known here: use gcc, clang or mingw-w64"
#endif

#endif
