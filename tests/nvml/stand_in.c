/* Stands where NVIDIA's management library is: as much of its documented interface as this pack asks for.

   The file that NVML_STAND_IN names says what the machine has. It is read at every call, so that cards can change under
   a running process. A line is one of these; parts and places belong to the card above them:

       card UUID ANSWER LOAD USED NAME    ANSWER: 0, or what every call about it returns; LOAD in percent, -1: unknown
       part UUID ANSWER LOAD USED NAME    a part of a divided card (MIG)
       place                              where a divided card could have another part
       fail FUNCTION ANSWER               what that function returns
       hang FUNCTION                      it does not return while this line is there
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FINE = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, UNKNOWN = 999 };
enum { MOST = 32, LONGEST = 300 };

typedef struct { unsigned int gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { char kind[8], uuid[96], name[96]; int answer, load, card; unsigned long long used; } Unit;
typedef struct { Unit units[MOST]; int count, cards, answer, hangs; } Machine;

static void look(Machine *machine, const char *function) {
    memset(machine, 0, sizeof *machine);
    const char *path = getenv("NVML_STAND_IN");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[LONGEST], named[64];
    int answer;
    if (!file) machine->answer = UNKNOWN;
    while (file && fgets(line, sizeof line, file)) {
        Unit unit = {0};
        if (sscanf(line, "fail %63s %d", named, &answer) == 2) {
            if (!strcmp(named, function)) machine->answer = answer;
        } else if (sscanf(line, "hang %63s", named) == 1) {
            if (!strcmp(named, function)) machine->hangs = 1;
        } else if (machine->count < MOST && sscanf(line, "%7s %95s %d %d %llu %95[^\n]", unit.kind, unit.uuid,
                                                   &unit.answer, &unit.load, &unit.used, unit.name) >= 1) {
            if (!strcmp(unit.kind, "card")) machine->cards++;
            unit.card = machine->cards - 1;
            machine->units[machine->count++] = unit;
        }
    }
    if (file) fclose(file);
}

static int begin(Machine *machine, const char *function) {
    for (look(machine, function); machine->hangs; look(machine, function)) usleep(20000);
    return machine->answer;
}

static int is_card(const Unit *unit) { return !strcmp(unit->kind, "card"); }

/* A handle is the place in the file, counted from one. */
static int give(const Machine *machine, int place, void **handle) {
    *handle = (void *)(size_t)(place + 1);
    return machine->units[place].answer;
}

static int ask(Machine *machine, const char *function, void *handle, Unit **unit) {
    int answer = begin(machine, function), place = (int)(size_t)handle - 1;
    if (answer) return answer;
    if (place < 0 || place >= machine->count) return INVALID_ARGUMENT;
    *unit = &machine->units[place];
    return (*unit)->answer;
}

static int write_text(char *into, unsigned int length, const char *text) {
    return snprintf(into, length, "%s", text) < (int)length ? FINE : INVALID_ARGUMENT;
}

int nvmlInitWithFlags(unsigned int flags) {
    Machine machine;
    (void)flags;
    return begin(&machine, __func__);
}

int nvmlShutdown(void) {
    Machine machine;
    return begin(&machine, __func__);
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    Machine machine;
    int answer = begin(&machine, __func__);
    *count = (unsigned int)machine.cards;
    return answer;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    Machine machine;
    int answer = begin(&machine, __func__);
    for (int place = 0; !answer && place < machine.count; place++)
        if (is_card(&machine.units[place]) && machine.units[place].card == (int)index)
            return give(&machine, place, handle);
    return answer ? answer : INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    Machine machine;
    int answer = begin(&machine, __func__);
    for (int place = 0; !answer && place < machine.count; place++)
        if (!strcmp(machine.units[place].uuid, uuid)) return give(&machine, place, handle);
    return answer ? answer : NOT_FOUND;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned int length) {
    Machine machine;
    Unit *unit;
    int answer = ask(&machine, __func__, handle, &unit);
    return answer ? answer : write_text(uuid, length, unit->uuid);
}

int nvmlDeviceGetName(void *handle, char *name, unsigned int length) {
    Machine machine;
    Unit *unit;
    int answer = ask(&machine, __func__, handle, &unit);
    return answer ? answer : write_text(name, length, unit->name);
}

static unsigned int places(const Machine *machine, const Unit *card) {
    unsigned int count = 0;
    for (int place = 0; place < machine->count; place++)
        count += machine->units[place].card == card->card && !is_card(&machine->units[place]);
    return count;
}

int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending) {
    Machine machine;
    Unit *unit;
    int answer = ask(&machine, __func__, handle, &unit);
    if (!answer) *current = *pending = places(&machine, unit) > 0;
    return answer;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned int *count) {
    Machine machine;
    Unit *unit;
    int answer = ask(&machine, __func__, handle, &unit);
    if (!answer) *count = places(&machine, unit);
    return answer;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned int index, void **part) {
    Machine machine;
    Unit *unit;
    int answer = ask(&machine, __func__, handle, &unit), first = (int)(size_t)handle;
    if (answer) return answer;
    if (index >= places(&machine, unit)) return INVALID_ARGUMENT;
    if (!machine.units[first + (int)index].uuid[0]) return NOT_FOUND; /* a place */
    return give(&machine, first + (int)index, part);
}

int nvmlDeviceGetUtilizationRates(void *handle, Utilization *rates) {
    Machine machine;
    Unit *unit;
    int answer = ask(&machine, __func__, handle, &unit);
    if (answer) return answer;
    if (unit->load < 0) return NOT_SUPPORTED;
    rates->gpu = rates->memory = (unsigned int)unit->load;
    return FINE;
}

int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) {
    Machine machine;
    Unit *unit;
    int answer = ask(&machine, __func__, handle, &unit);
    if (answer) return answer;
    memory->total = 2 * unit->used;
    memory->free = memory->used = unit->used;
    return FINE;
}
