"""What is built of the C of this folder, as a table: ``hatch_build.py`` reads it at install, and builds."""

from pathlib import Path

HERE = Path(__file__).parent
MODULE = "_hot"
HEADER = '#include "share.h"\n#define vf_answer_at ((uintptr_t)vf_answer)'
SOURCES = [
    *(HERE / name for name in ("map.c", "table.c", "share.c", "requests.c")),
    HERE.parents[2] / "hdvkit/native/chain.c",
]
LIBRARIES = ("pthread",)

DECLARATIONS = """
typedef struct vf_share vf_share;
typedef struct {
    uint64_t opcodes;
    uint64_t entry_valid; uint64_t attr_valid;
    uint32_t entry_valid_nsec; uint32_t attr_valid_nsec;
    uint32_t max_write;
} vf_terms;
vf_share *vf_share_new(void);
void vf_share_free(vf_share *);
void vf_share_agree(vf_share *, vf_terms);
void vf_share_clear(vf_share *);
void vf_share_node(vf_share *, uint64_t, int, uint64_t, uint64_t, uint32_t, bool);
void vf_share_reopened(vf_share *, uint64_t, uint64_t, int, bool);
void vf_share_disown(vf_share *, uint64_t, uint64_t);
void vf_share_changing(vf_share *, uint64_t, uint64_t, bool);
uint64_t vf_share_drop_node(vf_share *, uint64_t);
uint64_t vf_share_take_lookups(vf_share *, uint64_t);
void vf_share_file(vf_share *, uint64_t, uint64_t, int, bool, bool);
void vf_share_drop_file(vf_share *, uint64_t);
bool vf_share_take_dirty(vf_share *, int);
bool vf_share_close(vf_share *, int);
static const uintptr_t vf_answer_at;
"""
