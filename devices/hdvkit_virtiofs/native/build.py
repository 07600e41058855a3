"""What is built of the C of this folder, as a table: ``hatch_build.py`` reads it at install, and builds."""

from pathlib import Path

HERE = Path(__file__).parent
MODULE = "_hot"
HEADER = '#include "share.h"\n#define vf_answer_at ((uintptr_t)vf_answer)'
PARTS = ("map", "table", "nodes", "files", "share", "requests", "using", "names", "opening", "data", "listing")
SOURCES = [
    *(HERE / f"{name}.c" for name in PARTS),
    HERE.parents[2] / "hdvkit/native/chain.c",
]
LIBRARIES = ("pthread",)

DECLARATIONS = """
typedef struct vf_share vf_share;
typedef struct {
    uint64_t opcodes;
    uint64_t entry_valid; uint64_t attr_valid;
    uint64_t device; uint64_t inode;
    uint32_t entry_valid_nsec; uint32_t attr_valid_nsec;
    uint32_t max_write; uint32_t open_flags; uint32_t host_flags;
    uint32_t nodes; uint32_t files;
    uint32_t capability; uint32_t gid;
    int mount; int mount_id; int numbers;
    bool read_only; bool anybody; bool root;
} vf_terms;
typedef struct { uint32_t bytes; int32_t type; uint8_t data[...]; } vf_handle;
typedef struct { uint64_t device; uint64_t inode; uint32_t type; int descriptor; vf_handle handle; } vf_who;
typedef struct { int descriptor; uint32_t flags; bool directory; ...; } vf_file;
vf_share *vf_share_new(void);
void vf_share_free(vf_share *);
void vf_share_agree(vf_share *, const vf_terms *);
uint32_t vf_share_clear(vf_share *, int *, uint32_t);
void vf_share_reopened(vf_share *, uint64_t, uint64_t, int, bool);
void vf_share_disown(vf_share *, uint64_t, uint64_t);
void vf_share_changing(vf_share *, uint64_t, uint64_t, bool);
void vf_share_locked(vf_share *, uint64_t, uint64_t);
uint64_t vf_share_drop_node(vf_share *, uint64_t);
uint64_t vf_share_take_lookups(vf_share *, uint64_t);
void vf_share_file(vf_share *, uint64_t, uint64_t, int, bool, bool);
void vf_share_drop_file(vf_share *, uint64_t);
bool vf_share_take_dirty(vf_share *, int);
bool vf_share_close(vf_share *, int);
uint64_t vf_share_enter(vf_share *, uint64_t, int, uint64_t, uint64_t, uint32_t, bool);
bool vf_share_adopt(vf_share *, uint64_t, vf_who *);
bool vf_share_adopt_file(vf_share *, uint64_t, uint64_t, vf_file *);
int vf_share_forget(vf_share *, uint64_t, uint64_t);
void vf_share_hold(vf_share *, int);
uint32_t vf_share_nodes(vf_share *);
uint32_t vf_share_held(vf_share *);
static const uintptr_t vf_answer_at;
"""
