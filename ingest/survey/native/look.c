/* The native look: ingest/survey/reference.py in C. That module is the specification and says why
 * things are as they are; tests/ingest/survey holds the two together. One call looks at many
 * directories; the GIL is released while it asks the kernel. */

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef SYS_openat2
#define SYS_openat2 437 /* the same on every architecture */
#endif
#define NO_SYMLINKS 0x04 /* RESOLVE_NO_SYMLINKS of linux/openat2.h, which old headers lack */

#define BY_NAME (AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT)
#define NODE_BYTES 32
#define NAME_BYTES_MAX 255
#define SECOND 1000000000LL

/* ---- msgpack: what repo/format/node.py writes ------------------------------------------------ */

typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} Cursor;

typedef enum { ATOM, UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY } Type;

typedef struct {
    Type type;
    uint64_t number;      /* UNSIGNED; NEGATIVE in two's complement; items of an ARRAY */
    const uint8_t *octets; /* BYTES, TEXT */
    size_t length;
} Value;

/* Read a big-endian number of so many bytes. */
static int take_number(Cursor *cursor, int size, uint64_t *number)
{
    if (cursor->end - cursor->at < size)
        return 0;
    uint64_t value = 0;
    for (int i = 0; i < size; i++)
        value = value << 8 | *cursor->at++;
    *number = value;
    return 1;
}

static int take_octets(Cursor *cursor, Value *value, Type type, uint64_t length)
{
    if ((uint64_t)(cursor->end - cursor->at) < length)
        return 0;
    value->type = type;
    value->octets = cursor->at;
    value->length = (size_t)length;
    cursor->at += length;
    return 1;
}

static int take_signed(Cursor *cursor, int size, Value *value)
{
    if (!take_number(cursor, size, &value->number))
        return 0;
    const int unused = 64 - 8 * size;
    const int64_t number = (int64_t)(value->number << unused) >> unused;
    value->number = (uint64_t)number;
    value->type = number < 0 ? NEGATIVE : UNSIGNED;
    return 1;
}

/* Read a value; of an array its head only. 0 when it is cut short or nothing that a node has. */
static int take(Cursor *cursor, Value *value)
{
    uint64_t number = 0;
    if (cursor->at == cursor->end)
        return 0;
    const uint8_t head = *cursor->at++;
    value->type = ATOM;
    if (head <= 0x7f || head >= 0xe0) {
        value->type = head <= 0x7f ? UNSIGNED : NEGATIVE;
        value->number = (uint64_t)(int64_t)(int8_t)head;
        return 1;
    }
    if (head >= 0xa0 && head <= 0xbf)
        return take_octets(cursor, value, TEXT, head & 0x1f);
    if (head >= 0x90 && head <= 0x9f) {
        value->type = ARRAY;
        value->number = head & 0x0f;
        return 1;
    }
    switch (head) {
    case 0xc0: /* nil, false, true */
    case 0xc2:
    case 0xc3:
        return 1;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        return take_number(cursor, 1 << (head - 0xc4), &number)
            && take_octets(cursor, value, BYTES, number);
    case 0xd9:
    case 0xda:
    case 0xdb:
        return take_number(cursor, 1 << (head - 0xd9), &number)
            && take_octets(cursor, value, TEXT, number);
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        value->type = UNSIGNED;
        return take_number(cursor, 1 << (head - 0xcc), &value->number);
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        return take_signed(cursor, 1 << (head - 0xd0), value);
    case 0xdc:
    case 0xdd:
        value->type = ARRAY;
        return take_number(cursor, 2 << (head - 0xdc), &value->number);
    default:
        return 0;
    }
}

/* Pass over a value and all inside it. */
static int skip(Cursor *cursor)
{
    Value value;
    for (uint64_t left = 1; left > 0; left--) {
        if (!take(cursor, &value))
            return 0;
        if (value.type == ARRAY) {
            /* Every item takes a byte at least: so `left` cannot overflow. */
            if (value.number > (uint64_t)(cursor->end - cursor->at))
                return 0;
            left += value.number;
        }
    }
    return 1;
}

/* ---- entries --------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *name, *node, *packed;
    size_t name_length, node_length, packed_length;
    uint64_t kind, mode, uid, gid, inode, size, volume, entries_below, directories_below;
    int64_t mtime_ns, ctime_ns;
    int absent;
} Entry;

enum { FILE_KIND = 1, DIRECTORY_KIND = 2, FIELDS_MIN = 10 };

/* The fields of repo.format.node.Entry by their place in the array. */
enum {
    NAME, KIND, MODE, UID, GID, MTIME, CTIME, BTIME, INODE, NLINK, SIZE,
    NODE = 17, ENTRIES_BELOW = 18, VOLUME = 20, ABSENT = 21, DIRECTORIES_BELOW = 22
};

static uint64_t *unsigned_field(Entry *entry, uint64_t field)
{
    switch (field) {
    case KIND: return &entry->kind;
    case MODE: return &entry->mode;
    case UID: return &entry->uid;
    case GID: return &entry->gid;
    case INODE: return &entry->inode;
    case SIZE: return &entry->size;
    case ENTRIES_BELOW: return &entry->entries_below;
    case VOLUME: return &entry->volume;
    case DIRECTORIES_BELOW: return &entry->directories_below;
    default: return NULL;
    }
}

static int take_field(Cursor *cursor, Entry *entry, uint64_t field)
{
    Value value;
    uint64_t *number = unsigned_field(entry, field);
    if (number != NULL) {
        if (!take(cursor, &value) || value.type != UNSIGNED)
            return 0;
        *number = value.number;
        return 1;
    }
    switch (field) {
    case MTIME:
    case CTIME:
        if (!take(cursor, &value) || (value.type != UNSIGNED && value.type != NEGATIVE)
            || (value.type == UNSIGNED && value.number > INT64_MAX))
            return 0;
        *(field == MTIME ? &entry->mtime_ns : &entry->ctime_ns) = (int64_t)value.number;
        return 1;
    case NAME:
        if (!take(cursor, &value) || value.type != BYTES)
            return 0;
        entry->name = value.octets;
        entry->name_length = value.length;
        return 1;
    case NODE:
        if (!take(cursor, &value) || value.type != BYTES)
            return 0;
        entry->node = value.octets;
        entry->node_length = value.length;
        return 1;
    case ABSENT:
        if (!take(cursor, &value) || value.type != TEXT)
            return 0;
        entry->absent = value.length != 0;
        return 1;
    default:
        return skip(cursor);
    }
}

static int take_entry(Cursor *cursor, Entry *entry)
{
    Value head;
    memset(entry, 0, sizeof *entry);
    entry->packed = cursor->at;
    if (!take(cursor, &head) || head.type != ARRAY || head.number < FIELDS_MIN)
        return 0;
    for (uint64_t field = 0; field < head.number; field++)
        if (!take_field(cursor, entry, field))
            return 0;
    entry->packed_length = (size_t)(cursor->at - entry->packed);
    return 1;
}

/* Copy the name of an entry as the kernel takes it; 0 when it is none. */
static int name_of(const Entry *entry, char name[NAME_BYTES_MAX + 1])
{
    const size_t length = entry->name_length;
    if (length == 0 || length > NAME_BYTES_MAX || memchr(entry->name, '/', length) != NULL
        || memchr(entry->name, '\0', length) != NULL)
        return 0;
    memcpy(name, entry->name, length);
    name[length] = '\0';
    return strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* ---- the kernel's word ----------------------------------------------------------------------- */

static uint64_t kind_of(uint16_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG: return 1;
    case S_IFDIR: return 2;
    case S_IFLNK: return 3;
    case S_IFIFO: return 4;
    case S_IFSOCK: return 5;
    case S_IFCHR: return 6;
    case S_IFBLK: return 7;
    default: return 0;
    }
}

/* Whether a time is just this one. One that 64 bits of nanoseconds do not hold is none. */
static int is_time(const struct statx_timestamp *time, int64_t nanoseconds)
{
    const int64_t seconds_max = INT64_MAX / SECOND;
    return time->tv_sec > -seconds_max && time->tv_sec < seconds_max
        && time->tv_sec * SECOND + time->tv_nsec == nanoseconds;
}

static int same_attributes(const struct statx *found, const Entry *entry, int64_t limit_ns)
{
    return is_time(&found->stx_ctime, entry->ctime_ns) && entry->ctime_ns < limit_ns
        && is_time(&found->stx_mtime, entry->mtime_ns) && found->stx_ino == entry->inode
        && (found->stx_mode & 07777u) == entry->mode && found->stx_uid == entry->uid
        && found->stx_gid == entry->gid && kind_of(found->stx_mode) == entry->kind;
}

/* ---- a look at one directory ----------------------------------------------------------------- */

typedef struct {
    uint64_t device;
    int64_t limit_ns;
    const uint8_t *excluded; /* inodes, native u64, of any alignment */
    size_t excluded_count;
} Rules;

typedef struct {
    const char *path;
    Py_buffer *buffers; /* the directory's own entry, then the runs of its node */
    Py_ssize_t buffers_count;
    int same;
    uint64_t entries, bytes;
    Entry *children;
    size_t children_count, children_room;
} Look;

static int add_child(Look *look, const Entry *entry)
{
    if (look->children_count == look->children_room) {
        const size_t room = look->children_room ? 2 * look->children_room : 8;
        Entry *children = realloc(look->children, room * sizeof *children);
        if (children == NULL)
            return 0;
        look->children = children;
        look->children_room = room;
    }
    look->children[look->children_count++] = *entry;
    return 1;
}

/* Whether `fd` is the directory that its entry describes, and one to be entered. */
static int is_directory(int fd, const Entry *entry, const Rules *rules)
{
    struct statx found;
    if (statx(fd, "", BY_NAME | AT_EMPTY_PATH, STATX_BASIC_STATS, &found) != 0)
        return 0;
    if (makedev(found.stx_dev_major, found.stx_dev_minor) != rules->device)
        return 0;
    for (size_t i = 0; i < rules->excluded_count; i++) {
        uint64_t inode;
        memcpy(&inode, rules->excluded + i * sizeof inode, sizeof inode);
        if (inode == found.stx_ino)
            return 0;
    }
    return same_attributes(&found, entry, rules->limit_ns);
}

/* Compare what is no directory; collect what is. 0 when a run does not parse or memory is short. */
static int look_at_run(int fd, const Py_buffer *run, const Rules *rules, Look *look)
{
    Cursor cursor = {run->buf, (const uint8_t *)run->buf + run->len};
    Value head;
    if (!take(&cursor, &head) || head.type != ARRAY)
        return 0;
    for (uint64_t i = 0; i < head.number; i++) {
        Entry entry;
        char name[NAME_BYTES_MAX + 1];
        if (!take_entry(&cursor, &entry) || !name_of(&entry, name))
            return 0;
        if (entry.kind == DIRECTORY_KIND) {
            if (entry.absent || entry.volume != 0 || entry.node_length != NODE_BYTES)
                look->same = 0;
            else if (!add_child(look, &entry))
                return 0;
            continue;
        }
        struct statx found;
        look->same = look->same
            && statx(fd, name, BY_NAME, STATX_BASIC_STATS, &found) == 0
            && same_attributes(&found, &entry, rules->limit_ns)
            && (entry.kind != FILE_KIND || found.stx_size == entry.size);
        look->entries++;
        if (entry.kind == FILE_KIND)
            look->bytes += entry.size;
    }
    return cursor.at == cursor.end;
}

static void look_at(int root_fd, const Rules *rules, Look *look)
{
    struct {
        uint64_t flags, mode, resolve;
    } how = {O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0, NO_SYMLINKS};
    const int fd = (int)syscall(SYS_openat2, root_fd, look->path, &how, sizeof how);
    if (fd < 0)
        return;
    Entry own;
    Cursor cursor = {look->buffers->buf, (const uint8_t *)look->buffers->buf + look->buffers->len};
    int whole = take_entry(&cursor, &own) && cursor.at == cursor.end;
    look->same = whole && is_directory(fd, &own, rules);
    for (Py_ssize_t i = 1; whole && i < look->buffers_count; i++)
        whole = look_at_run(fd, look->buffers + i, rules, look);
    close(fd);
    if (!whole)
        look->children_count = 0;
    if (!whole || !look->same) {
        look->same = 0;
        look->entries = look->bytes = 0;
    }
}

/* ---- to Python and back ---------------------------------------------------------------------- */

static PyObject *child_tuple(const Entry *child)
{
    return Py_BuildValue("(y#y#y#KK)", child->name, (Py_ssize_t)child->name_length, child->packed,
                         (Py_ssize_t)child->packed_length, child->node,
                         (Py_ssize_t)child->node_length,
                         (unsigned long long)child->entries_below,
                         (unsigned long long)child->directories_below);
}

static PyObject *result_of(const Look *look)
{
    PyObject *children = PyList_New((Py_ssize_t)look->children_count);
    if (children == NULL)
        return NULL;
    for (size_t i = 0; i < look->children_count; i++) {
        PyObject *child = child_tuple(look->children + i);
        if (child == NULL) {
            Py_DECREF(children);
            return NULL;
        }
        PyList_SET_ITEM(children, (Py_ssize_t)i, child);
    }
    return Py_BuildValue("(NKKN)", PyBool_FromLong(look->same), (unsigned long long)look->entries,
                         (unsigned long long)look->bytes, children);
}

static PyObject *results_of(const Look *looks, Py_ssize_t count)
{
    PyObject *results = PyList_New(count);
    for (Py_ssize_t i = 0; results != NULL && i < count; i++) {
        PyObject *result = result_of(looks + i);
        if (result == NULL)
            Py_CLEAR(results);
        else
            PyList_SET_ITEM(results, i, result);
    }
    return results;
}

static void release(Look *looks, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        for (Py_ssize_t j = 0; j < looks[i].buffers_count; j++)
            PyBuffer_Release(looks[i].buffers + j);
        free(looks[i].buffers);
        free(looks[i].children);
    }
    free(looks);
}

/* Take an item, (path, entry, *runs), apart. -1 with an exception when it is none. */
static int look_from(PyObject *item, Look *look)
{
    if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) < 2) {
        PyErr_SetString(PyExc_TypeError, "an item is a tuple (path, entry, *runs)");
        return -1;
    }
    char *path;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(PyTuple_GET_ITEM(item, 0), &path, &length) < 0)
        return -1;
    if (memchr(path, '\0', (size_t)length) != NULL) {
        PyErr_SetString(PyExc_ValueError, "a path holds a NUL");
        return -1;
    }
    look->path = path;
    const Py_ssize_t buffers = PyTuple_GET_SIZE(item) - 1;
    look->buffers = calloc((size_t)buffers, sizeof *look->buffers);
    if (look->buffers == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (; look->buffers_count < buffers; look->buffers_count++) {
        PyObject *object = PyTuple_GET_ITEM(item, look->buffers_count + 1);
        if (PyObject_GetBuffer(object, look->buffers + look->buffers_count, PyBUF_SIMPLE) < 0)
            return -1;
    }
    return 0;
}

static PyObject *look_at_all(int root_fd, PyObject *items, const Rules *rules)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(items);
    Look *looks = calloc((size_t)count + 1, sizeof *looks);
    if (looks == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        if (look_from(PyTuple_GET_ITEM(items, i), looks + i) < 0) {
            release(looks, i + 1);
            return NULL;
        }
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < count; i++)
        look_at(root_fd, rules, looks + i);
    Py_END_ALLOW_THREADS
    PyObject *results = results_of(looks, count);
    release(looks, count);
    return results;
}

PyDoc_STRVAR(look_doc,
    "look(root_fd, items, limit_ns, device, excluded, /)\n--\n\n"
    "Look at directories; see ingest/survey/reference.py.");

static PyObject *look(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    int root_fd;
    PyObject *items;
    long long limit_ns;
    unsigned long long device;
    Py_buffer excluded;
    if (!PyArg_ParseTuple(arguments, "iO!LKy*:look", &root_fd, &PyTuple_Type, &items, &limit_ns,
                          &device, &excluded))
        return NULL;
    const Rules rules = {device, limit_ns, excluded.buf,
                         (size_t)excluded.len / sizeof(uint64_t)};
    PyObject *results = look_at_all(root_fd, items, &rules);
    PyBuffer_Release(&excluded);
    return results;
}

static PyMethodDef methods[] = {
    {"look", look, METH_VARARGS, look_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "ingest.survey._look",
    .m_doc = "A look at directories in C; the specification is ingest/survey/reference.py.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__look(void)
{
    return PyModuleDef_Init(&definition);
}
