/* A minimal loop of C_SignInit and C_Sign: the baseline with which `softhsm.py` compares keyvouch.

   pkcs11 MODULE TOKEN PIN LABEL MECHANISM DATA-LENGTH: for each line of standard input, a number N, it makes N
   signatures of DATA-LENGTH zero bytes with MECHANISM, a number, and prints the seconds that they took. For a negative
   N it looks the key up -N times, given only its label: it finds the private key by label, then the objects with the
   same id. */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long CK_ULONG;
typedef struct { CK_ULONG type; void *value; CK_ULONG length; } CK_ATTRIBUTE;
typedef struct { CK_ULONG mechanism; void *parameter; CK_ULONG length; } CK_MECHANISM;
typedef struct { void *mutexes[4]; CK_ULONG flags; void *reserved; } CK_C_INITIALIZE_ARGS;
typedef struct { char label[32], manufacturer[32], model[16], serial[16]; CK_ULONG counts[11]; char rest[20]; } CK_TOKEN_INFO;

static void *library;

static void *function(const char *name) {
    void *found = dlsym(library, name);
    if (!found) { fprintf(stderr, "the module does not export %s\n", name); exit(1); }
    return found;
}

static void must(const char *what, CK_ULONG rv) {
    if (rv) { fprintf(stderr, "%s: 0x%lx\n", what, rv); exit(1); }
}

int main(int count, char **arguments) {
    if (count != 7) return 2;
    const char *token = arguments[2], *pin = arguments[3], *label = arguments[4];
    library = dlopen(arguments[1], RTLD_NOW);
    if (!library) { fprintf(stderr, "%s\n", dlerror()); return 1; }

    CK_C_INITIALIZE_ARGS locking = {{0}, 2, NULL};
    must("C_Initialize", ((CK_ULONG (*)(void *))function("C_Initialize"))(&locking));
    CK_ULONG slots[32], number = 32, slot = 0, session, key, found;
    must("C_GetSlotList", ((CK_ULONG (*)(unsigned char, CK_ULONG *, CK_ULONG *))function("C_GetSlotList"))(1, slots, &number));
    CK_ULONG (*token_info)(CK_ULONG, CK_TOKEN_INFO *) = function("C_GetTokenInfo");
    for (CK_ULONG index = 0; index < number; index++) {
        CK_TOKEN_INFO info;
        must("C_GetTokenInfo", token_info(slots[index], &info));
        if (!strncmp(info.label, token, strlen(token))) slot = slots[index];
    }
    must("C_OpenSession", ((CK_ULONG (*)(CK_ULONG, CK_ULONG, void *, void *, CK_ULONG *))function("C_OpenSession"))(
        slot, 4, NULL, NULL, &session));
    must("C_Login", ((CK_ULONG (*)(CK_ULONG, CK_ULONG, const char *, CK_ULONG))function("C_Login"))(
        session, 1, pin, strlen(pin)));
    CK_ULONG private = 3;
    CK_ATTRIBUTE template[] = {{0, &private, sizeof private}, {3, (void *)label, strlen(label)}};
    must("C_FindObjectsInit", ((CK_ULONG (*)(CK_ULONG, CK_ATTRIBUTE *, CK_ULONG))function("C_FindObjectsInit"))(
        session, template, 2));
    must("C_FindObjects", ((CK_ULONG (*)(CK_ULONG, CK_ULONG *, CK_ULONG, CK_ULONG *))function("C_FindObjects"))(
        session, &key, 1, &found));
    must("C_FindObjectsFinal", ((CK_ULONG (*)(CK_ULONG))function("C_FindObjectsFinal"))(session));
    if (found != 1) { fprintf(stderr, "no key %s\n", label); return 1; }

    CK_ULONG (*sign_init)(CK_ULONG, CK_MECHANISM *, CK_ULONG) = function("C_SignInit");
    CK_ULONG (*sign)(CK_ULONG, unsigned char *, CK_ULONG, unsigned char *, CK_ULONG *) = function("C_Sign");
    CK_ULONG pss[] = {0x250, 2, 32};
    CK_MECHANISM mechanism = {strtoul(arguments[5], NULL, 0), NULL, 0};
    if (mechanism.mechanism == 0x0d) { mechanism.parameter = pss; mechanism.length = sizeof pss; }
    unsigned char data[64] = {0}, signature[1024];
    CK_ULONG size = strtoul(arguments[6], NULL, 0);
    CK_ULONG (*init)(CK_ULONG, CK_ATTRIBUTE *, CK_ULONG) = function("C_FindObjectsInit");
    CK_ULONG (*next)(CK_ULONG, CK_ULONG *, CK_ULONG, CK_ULONG *) = function("C_FindObjects");
    CK_ULONG (*final)(CK_ULONG) = function("C_FindObjectsFinal");
    CK_ULONG (*get)(CK_ULONG, CK_ULONG, CK_ATTRIBUTE *, CK_ULONG) = function("C_GetAttributeValue");
    for (long times; scanf("%ld", &times) == 1;) {
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (long done = 0; done < times; done++) {
            CK_ULONG length = sizeof signature;
            must("C_SignInit", sign_init(session, &mechanism, key));
            must("C_Sign", sign(session, data, size, signature, &length));
        }
        for (long done = 0; done < -times; done++) {
            CK_ULONG handles[64];
            unsigned char id[64];
            CK_ATTRIBUTE by_id = {0x102, id, sizeof id};
            must("C_FindObjectsInit", init(session, template, 2));
            must("C_FindObjects", next(session, handles, 64, &found));
            must("C_FindObjectsFinal", final(session));
            must("C_GetAttributeValue", get(session, handles[0], &by_id, 1));
            must("C_FindObjectsInit", init(session, &by_id, 1));
            must("C_FindObjects", next(session, handles, 64, &found));
            must("C_FindObjectsFinal", final(session));
            if (found < 3) { fprintf(stderr, "%lu objects have its id\n", found); return 1; }
        }
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("%.9f\n", (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec));
        fflush(stdout);
    }
    return 0;
}
