/* A driver library for tests: NVML's functions as nvidia-ml-py calls them, answered from the text file that the
 * variable FAKE_NVML names. The file is read anew on every call. Its lines, with tabs between the words:
 *
 *   driver VERSION
 *   cuda   NUMBER
 *   gpu    UUID NAME TOTAL_MIB USED_MIB UTILISATION TEMPERATURE ECC MIG MODE     (-1: not supported)
 *   proc   UUID PID USED_MIB KIND                                                (C, G or M; -1: not told)
 *   job    UUID PID USED_MIB            (written by a process itself: its memory comes back as soon as it is dead)
 *   fault  UUID FUNCTION CODE           (UUID - : of the library; FUNCTION * : all; CODE hang, crash or a number)
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, TOO_SMALL = 7, LOST = 15, UNKNOWN = 999 };
enum { MAX_WORDS = 12, LINE = 1024, MAX_GPUS = 256 };

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilisation_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_t;

static char known[MAX_GPUS][96]; /* a handle points to the UUID here, so it stays that GPU's when others vanish */
static int started;

/* The next line of one kind (and one GPU, if given), cut into words; 0 at the end. */
static int next(FILE *file, const char *kind, const char *uuid, char *line, char **words) {
    while (fgets(line, LINE, file)) {
        int n = 0;
        for (char *at = strtok(line, "\t\n"); at && n < MAX_WORDS; at = strtok(NULL, "\t\n")) words[n++] = at;
        if (n && !strcmp(words[0], kind) && (!uuid || (n > 1 && !strcmp(words[1], uuid)))) return n;
    }
    return 0;
}

/* Whether a process runs; a zombie has given back all that it had. */
static int lives(const char *pid) {
    char path[64], state = 'X';
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1) state = 'X';
    fclose(file);
    return state != 'Z' && state != 'X';
}

static FILE *state(void) {
    const char *path = getenv("FAKE_NVML");
    return path ? fopen(path, "r") : NULL;
}

/* What goes wrong with this call: 0, an NVML code, or no return at all. */
static int fault(const char *uuid, const char *function) {
    for (;;) {
        char line[LINE], *words[MAX_WORDS];
        int code = OK, hang = 0;
        FILE *file = state();
        if (!file) return UNKNOWN;
        while (next(file, "fault", uuid, line, words)) {
            if (strcmp(words[2], "*") && strcmp(words[2], function)) continue;
            if (!strcmp(words[3], "hang")) hang = 1;
            else if (!strcmp(words[3], "crash")) raise(SIGSEGV);
            else code = atoi(words[3]);
        }
        fclose(file);
        if (!hang) return code;
        usleep(20000);
    }
}

/* Words of a GPU's line; an NVML code if it is not there or broken. */
static int look(const char *uuid, const char *function, char *line, char **words) {
    int code = fault("-", function);
    if (!code && !started) code = UNINITIALIZED;
    if (!code) code = fault(uuid, function);
    if (code) return code;
    FILE *file = state();
    if (!file) return UNKNOWN;
    int n = next(file, "gpu", uuid, line, words);
    fclose(file);
    return n == 10 ? OK : LOST;
}

static int text(const char *kind, const char *function, char *out, unsigned size) {
    char line[LINE], *words[MAX_WORDS];
    int code = fault("-", function);
    if (code) return code;
    FILE *file = state();
    int n = file ? next(file, kind, NULL, line, words) : 0;
    if (file) fclose(file);
    if (n != 2) return UNKNOWN;
    snprintf(out, size, "%s", words[1]);
    return OK;
}

/* One word of a GPU's line as a number. */
static int number(const char *uuid, const char *function, int word, long long *out) {
    char line[LINE], *words[MAX_WORDS];
    int code = look(uuid, function, line, words);
    if (code) return code;
    *out = atoll(words[word]);
    return *out < 0 ? NOT_SUPPORTED : OK;
}

static int processes(const char *uuid, const char *function, char kind, unsigned *count, process_t *out) {
    char line[LINE], *words[MAX_WORDS];
    int code = look(uuid, function, line, words);
    if (code) return code;
    unsigned room = out ? *count : 0, n = 0;
    FILE *file = state();
    while (file && next(file, "proc", uuid, line, words)) {
        if (words[4][0] != kind) continue;
        if (n < room) {
            long long used = atoll(words[3]);
            out[n] = (process_t){(unsigned)atoll(words[2]), used < 0 ? ~0ULL : (unsigned long long)used << 20, ~0u, ~0u};
        }
        n++;
    }
    if (file) rewind(file);
    while (file && kind == 'C' && next(file, "job", uuid, line, words)) {
        if (!lives(words[2])) continue;
        if (n < room) out[n] = (process_t){(unsigned)atoll(words[2]), (unsigned long long)atoll(words[3]) << 20, ~0u, ~0u};
        n++;
    }
    if (file) fclose(file);
    *count = n;
    return n > room ? TOO_SMALL : OK;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int code = fault("-", "nvmlInit");
    if (!code) started = 1;
    return code;
}

int nvmlShutdown(void) { started = 0; return OK; }

const char *nvmlErrorString(int code) { (void)code; return "an error that this library does not know"; }

int nvmlSystemGetDriverVersion(char *out, unsigned size) { return text("driver", __func__, out, size); }

int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    char version[32];
    int code = text("cuda", __func__, version, sizeof version);
    if (!code) *out = atoi(version);
    return code;
}

int nvmlDeviceGetCount_v2(unsigned *out) {
    char line[LINE], *words[MAX_WORDS];
    int code = fault("-", "nvmlDeviceGetCount");
    if (code) return code;
    FILE *file = state();
    for (*out = 0; file && next(file, "gpu", NULL, line, words); ++*out) {}
    if (file) fclose(file);
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, const char **out) {
    char line[LINE], *words[MAX_WORDS], uuid[96] = "";
    FILE *file = state();
    for (unsigned n = 0; file && next(file, "gpu", NULL, line, words); n++)
        if (n == index) snprintf(uuid, sizeof uuid, "%s", words[1]);
    if (file) fclose(file);
    if (!*uuid) return INVALID;
    int code = look(uuid, "nvmlDeviceGetHandleByIndex", line, words);
    if (code) return code;
    for (int n = 0; n < MAX_GPUS; n++) {
        if (!*known[n]) snprintf(known[n], sizeof known[n], "%s", uuid);
        if (!strcmp(known[n], uuid)) return *out = known[n], OK;
    }
    return UNKNOWN;
}

int nvmlDeviceGetUUID(const char *gpu, char *out, unsigned size) {
    char line[LINE], *words[MAX_WORDS];
    int code = look(gpu, __func__, line, words);
    if (!code) snprintf(out, size, "%s", words[1]);
    return code;
}

int nvmlDeviceGetName(const char *gpu, char *out, unsigned size) {
    char line[LINE], *words[MAX_WORDS];
    int code = look(gpu, __func__, line, words);
    if (!code) snprintf(out, size, "%s", words[2]);
    return code;
}

int nvmlDeviceGetMemoryInfo(const char *gpu, memory_t *out) {
    long long total, used;
    int code = number(gpu, __func__, 3, &total);
    if (!code) code = number(gpu, __func__, 4, &used);
    char line[LINE], *words[MAX_WORDS];
    FILE *file = code ? NULL : state();
    while (file && next(file, "job", gpu, line, words))
        if (lives(words[2])) used += atoll(words[3]);
    if (file) fclose(file);
    if (!code) *out = (memory_t){(unsigned long long)total << 20, (unsigned long long)(total - used) << 20,
                                 (unsigned long long)used << 20};
    return code;
}

int nvmlDeviceGetUtilizationRates(const char *gpu, utilisation_t *out) {
    long long percent;
    int code = number(gpu, __func__, 5, &percent);
    if (!code) *out = (utilisation_t){(unsigned)percent, 0};
    return code;
}

int nvmlDeviceGetTemperature(const char *gpu, int sensor, unsigned *out) {
    (void)sensor;
    long long degrees;
    int code = number(gpu, __func__, 6, &degrees);
    if (!code) *out = (unsigned)degrees;
    return code;
}

int nvmlDeviceGetTotalEccErrors(const char *gpu, int kind, int counter, unsigned long long *out) {
    long long errors;
    int code = number(gpu, __func__, 7, &errors);
    /* Only uncorrected (1) errors since the driver was loaded (0) are counted here. */
    if (!code) *out = kind == 1 && counter == 0 ? (unsigned long long)errors : 0;
    return code;
}

int nvmlDeviceGetMigMode(const char *gpu, unsigned *current, unsigned *pending) {
    long long mode;
    int code = number(gpu, __func__, 8, &mode);
    if (!code) *current = *pending = (unsigned)mode;
    return code;
}

int nvmlDeviceGetComputeMode(const char *gpu, unsigned *out) {
    long long mode;
    int code = number(gpu, __func__, 9, &mode);
    if (!code) *out = (unsigned)mode;
    return code;
}

int nvmlDeviceGetComputeRunningProcesses_v3(const char *gpu, unsigned *count, process_t *out) {
    return processes(gpu, "nvmlDeviceGetComputeRunningProcesses", 'C', count, out);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(const char *gpu, unsigned *count, process_t *out) {
    return processes(gpu, "nvmlDeviceGetMPSComputeRunningProcesses", 'M', count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(const char *gpu, unsigned *count, process_t *out) {
    return processes(gpu, "nvmlDeviceGetGraphicsRunningProcesses", 'G', count, out);
}
