/* NVIDIA's management library as far as the sensor uses it: signatures, structures and status codes of nvml.h.
   Two cards; NVML_STUB in the environment chooses what goes wrong, and may be changed at any time. */

#include <stdlib.h>
#include <string.h>

typedef enum nvmlReturn_enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_GPU_IS_LOST = 15
} nvmlReturn_t;

typedef struct nvmlDevice_st *nvmlDevice_t;

typedef struct nvmlMemory_st {
    unsigned long long total;
    unsigned long long free;
    unsigned long long used;
} nvmlMemory_t;

typedef struct nvmlUtilization_st {
    unsigned int gpu;
    unsigned int memory;
} nvmlUtilization_t;

struct nvmlDevice_st {
    const char *uuid;
    nvmlMemory_t memory;
    nvmlUtilization_t rates;
    unsigned int milliwatts;
};

static struct nvmlDevice_st cards[2] = {
    {"GPU-00000000-1111-2222-3333-444444444444", {80ULL << 30, 70ULL << 30, 10ULL << 30}, {35, 12}, 312500},
    {"GPU-55555555-6666-7777-8888-999999999999", {16ULL << 30, 15ULL << 30, 1ULL << 30}, {0, 0}, 18000},
};
static int initialised;

static int mood(const char *word) {
    const char *set = getenv("NVML_STUB");
    return set != NULL && strcmp(set, word) == 0;
}

static nvmlReturn_t check(nvmlDevice_t device) {
    if (!initialised) return NVML_ERROR_UNINITIALIZED;
    if (device != &cards[0] && device != &cards[1]) return NVML_ERROR_INVALID_ARGUMENT;
    if (mood("lost")) return NVML_ERROR_GPU_IS_LOST;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlInit_v2(void) {
    if (mood("unloaded")) return NVML_ERROR_DRIVER_NOT_LOADED;
    initialised = 1;
    return NVML_SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t result) {
    switch (result) {
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    default: return "Unknown Error";
    }
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    const char *is = "580.65.06";
    if (length <= strlen(is)) return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(version, is);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (!initialised) return NVML_ERROR_UNINITIALIZED;
    if (index >= 2) return NVML_ERROR_INVALID_ARGUMENT;
    *device = &cards[index];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    if (!initialised) return NVML_ERROR_UNINITIALIZED;
    for (int i = 0; i < 2; i++) {
        if (strcmp(cards[i].uuid, uuid) == 0) {
            *device = &cards[i];
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    nvmlReturn_t status = check(device);
    if (status == NVML_SUCCESS) *memory = device->memory;
    return status;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization) {
    nvmlReturn_t status = check(device);
    if (status == NVML_SUCCESS && mood("partitioned")) return NVML_ERROR_NOT_SUPPORTED;
    if (status == NVML_SUCCESS) *utilization = device->rates;
    return status;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power) {
    nvmlReturn_t status = check(device);
    if (status == NVML_SUCCESS) *power = device->milliwatts;
    return status;
}

#ifndef OLD_LIBRARY
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons) {
    nvmlReturn_t status = check(device);
    if (status == NVML_SUCCESS) *reasons = mood("hot") ? 0x40ULL : 0x4ULL; /* thermal by hardware; the power cap */
    return status;
}
#endif
