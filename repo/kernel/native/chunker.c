/* The native chunker: repo/kernel/reference.py in C. That module is the specification and says
 * why things are as they are; tests/kernel holds the two together. One call per buffer returns
 * all cut points; the GIL is released while it searches. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define GEAR_ENTRIES 256
#define WINDOW_BYTES 64

typedef struct {
    Py_ssize_t minimum;
    Py_ssize_t switch_length;
    Py_ssize_t maximum;
    uint64_t hard_limit;
    uint64_t easy_limit;
} Plan;

/* The table travels as little-endian bytes of any alignment. */
static void load_gear(uint64_t gear[GEAR_ENTRIES], const uint8_t *octets)
{
    for (int entry = 0; entry < GEAR_ENTRIES; entry++) {
        uint64_t value = 0;
        for (int octet = 7; octet >= 0; octet--)
            value = value << 8 | octets[8 * entry + octet];
        gear[entry] = value;
    }
}

/* Roll `*hash` over the bytes from `at` to `end`; return the place just behind the first byte
 * where it falls below `limit`, or NULL when it never does.
 *
 * A step of gear costs one cycle of latency. Taking two bytes at once halves the chain from one
 * hash to the next: h'' = 4h + (2 gear[a] + gear[b]), of which the bracket does not wait for h;
 * the hash between, 2h + gear[a], is off the chain and only compared. */
static const uint8_t *search(const uint64_t *gear, uint64_t *hash, const uint8_t *at,
                             const uint8_t *end, uint64_t limit)
{
    uint64_t h = *hash;

#define PAIR(i)                                                                                \
    do {                                                                                       \
        const uint64_t first = gear[at[i]];                                                    \
        const uint64_t both = (first << 1) + gear[at[(i) + 1]];                                \
        if (__builtin_expect((h << 1) + first < limit, 0))                                     \
            return at + (i) + 1;                                                               \
        h = (h << 2) + both;                                                                   \
        if (__builtin_expect(h < limit, 0))                                                    \
            return at + (i) + 2;                                                               \
    } while (0)

    for (; end - at >= 8; at += 8) {
        PAIR(0);
        PAIR(2);
        PAIR(4);
        PAIR(6);
    }
#undef PAIR
    for (; at < end; at++) {
        h = (h << 1) + gear[*at];
        if (h < limit)
            return at + 1;
    }
    *hash = h;
    return NULL;
}

/* The length of the chunk at `start`, or 0 when the data ends before the chunk does. */
static Py_ssize_t first_chunk(const uint64_t *gear, const Plan *plan, const uint8_t *start,
                              Py_ssize_t available)
{
    if (available < plan->minimum)
        return 0;
    /* `allowed` is the first byte after which the chunk may end; at `plan->maximum` it ends
     * whatever the hash says, so that byte is not searched. */
    const Py_ssize_t last = available < plan->maximum ? available : plan->maximum - 1;
    const Py_ssize_t easier = last < plan->switch_length ? last : plan->switch_length - 1;
    const uint8_t *allowed = start + plan->minimum - 1;
    uint64_t hash = 0;
    for (const uint8_t *at = allowed - (WINDOW_BYTES - 1); at < allowed; at++)
        hash = (hash << 1) + gear[*at];

    const uint8_t *found = search(gear, &hash, allowed, start + easier, plan->hard_limit);
    if (found == NULL)
        found = search(gear, &hash, start + easier, start + last, plan->easy_limit);
    if (found != NULL)
        return found - start;
    return available >= plan->maximum ? plan->maximum : 0;
}

/* Write the end offsets of all chunks to `offsets`, return how many. */
static Py_ssize_t all_chunks(const uint64_t *gear, const Plan *plan, const uint8_t *octets,
                             Py_ssize_t total, int final, Py_ssize_t *offsets)
{
    Py_ssize_t count = 0;
    Py_ssize_t start = 0;
    Py_ssize_t length;
    while ((length = first_chunk(gear, plan, octets + start, total - start)) > 0) {
        start += length;
        offsets[count++] = start;
    }
    if (final && start < total)
        offsets[count++] = total;
    return count;
}

static PyObject *list_of(const Py_ssize_t *offsets, Py_ssize_t count)
{
    PyObject *list = PyList_New(count);
    if (list == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *offset = PyLong_FromSsize_t(offsets[i]);
        if (offset == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, offset);
    }
    return list;
}

static PyObject *cut_buffers(const Py_buffer *table, const Py_buffer *data, const Plan *plan,
                             int final)
{
    /* These guard memory; what sizes make sense is for repo/kernel/cut.py to say. */
    if (table->len != GEAR_ENTRIES * 8) {
        PyErr_SetString(PyExc_ValueError, "the gear table must have 256 entries of 8 bytes");
        return NULL;
    }
    if (plan->minimum < WINDOW_BYTES || plan->switch_length < plan->minimum
        || plan->maximum < plan->switch_length) {
        PyErr_SetString(PyExc_ValueError, "need 64 <= minimum <= switch <= maximum");
        return NULL;
    }
    /* Every chunk but the last has at least the minimum length. */
    size_t most = (size_t)(data->len / plan->minimum) + 1;
    Py_ssize_t *offsets = malloc(most * sizeof *offsets);
    if (offsets == NULL)
        return PyErr_NoMemory();

    Py_ssize_t count;
    Py_BEGIN_ALLOW_THREADS
    uint64_t gear[GEAR_ENTRIES];
    load_gear(gear, table->buf);
    count = all_chunks(gear, plan, data->buf, data->len, final, offsets);
    Py_END_ALLOW_THREADS

    PyObject *list = list_of(offsets, count);
    free(offsets);
    return list;
}

PyDoc_STRVAR(cuts_doc,
    "cuts(table, data, minimum, switch, maximum, hard_limit, easy_limit, final, /)\n--\n\n"
    "Return the end offsets of the chunks in data; see repo/kernel/reference.py.");

static PyObject *cuts(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer table, data;
    Plan plan;
    unsigned long long hard_limit, easy_limit;
    int final;
    if (!PyArg_ParseTuple(arguments, "y*y*nnnKKp:cuts", &table, &data, &plan.minimum,
                          &plan.switch_length, &plan.maximum, &hard_limit, &easy_limit, &final))
        return NULL;
    plan.hard_limit = hard_limit;
    plan.easy_limit = easy_limit;
    PyObject *list = cut_buffers(&table, &data, &plan, final);
    PyBuffer_Release(&data);
    PyBuffer_Release(&table);
    return list;
}

static PyMethodDef methods[] = {
    {"cuts", cuts, METH_VARARGS, cuts_doc},
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
    .m_name = "repo.kernel._chunker",
    .m_doc = "Content-defined chunking in C; the specification is repo/kernel/reference.py.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__chunker(void)
{
    return PyModuleDef_Init(&definition);
}
