/* How this process was started: what mpirun and srun set in the environment. */
#include "dist.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PORTS = 10000, FIRST_PORT = 20000 }; /* below those that systems give out themselves */

static const char *env(const char *name) {
  const char *s = getenv(name);
  return s && *s ? s : NULL;
}
static bool number(const char *name, int least, int *out) {
  const char *s = env(name);
  char *end;
  if (!s) return false;
  long n = strtol(s, &end, 10);
  if (*end || n < least || n > 1 << 24) return false;
  *out = (int)n;
  return true;
}

bool ij_first_host(const char *list, char *out, size_t n) {
  size_t length = 0;
  const char *s = list;
  for (; *s && *s != ',' && *s != '[' && length + 1 < n; s++) out[length++] = *s;
  if (*s == '[') { /* the first number of the brackets, and what follows them */
    for (s++; *s && !strchr(",-]", *s) && length + 1 < n; s++) out[length++] = *s;
    s = strchr(s, ']');
    if (!s) return false;
    for (s++; *s && *s != ',' && *s != '[' && length + 1 < n; s++) out[length++] = *s;
    if (*s == '[') return false; /* several brackets in a name: not supported */
  }
  out[length] = 0;
  return length > 0 && length + 1 < n;
}

static ij_status by_srun(ij_launch *p) {
  const char *nodes = env("SLURM_STEP_NODELIST");
  if (!nodes) nodes = env("SLURM_NODELIST");
  if (!number("SLURM_PROCID", 0, &p->rank) || p->rank >= p->size)
    return ij_fail(IJ_EINVAL, "processes: srun started %d of them, but SLURM_PROCID is '%s'", p->size,
                   env("SLURM_PROCID") ? env("SLURM_PROCID") : "");
  snprintf(p->transport, sizeof p->transport, "tcp");
  if (nodes && !ij_first_host(nodes, p->host, sizeof p->host))
    return ij_fail(IJ_EINVAL, "processes: SLURM's list of nodes '%s' could not be read: set IJEPA_MASTER_ADDR=HOST",
                   nodes);
  return IJ_OK;
}

/* A port and a token that all processes of a job compute alike, and hardly those of another. An mpirun in a
 * job has processes outside of SLURM's steps and inside of them: their numbers are srun's alone. */
static void meet(ij_launch *p, bool srun) {
  const char *names[] = {"SLURM_JOB_ID", srun ? "SLURM_STEP_ID" : "OMPI_MCA_ess_base_jobid", "PMIX_NAMESPACE"};
  int port;
  p->token = ij_hash(7, &p->size, sizeof p->size);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (env(names[i])) p->token = ij_hash(p->token, env(names[i]), strlen(env(names[i])));
  p->port = FIRST_PORT + (int)(p->token % PORTS);
  if (number("IJEPA_MASTER_PORT", 1, &port) && port < 65536) p->port = port;
  if (env("IJEPA_MASTER_ADDR")) snprintf(p->host, sizeof p->host, "%s", env("IJEPA_MASTER_ADDR"));
}

ij_status ij_launch_find(const char *transport, ij_launch *p) {
  *p = (ij_launch){.transport = "none", .size = 1};
  if (!transport || !*transport) transport = env("IJEPA_DIST");
  if (transport && strcmp(transport, "none") && strcmp(transport, "mpi") && strcmp(transport, "tcp"))
    return ij_fail(IJ_EINVAL, "processes: unknown transport '%s': expected none, mpi or tcp", transport);
  if (transport && !strcmp(transport, "none")) return IJ_OK;
  bool srun = false;
  int local;
  if (number("OMPI_COMM_WORLD_SIZE", 2, &p->size) && number("OMPI_COMM_WORLD_RANK", 0, &p->rank)) {
    p->by = "OMPI_COMM_WORLD_SIZE";
    snprintf(p->transport, sizeof p->transport, "mpi");
    if (number("OMPI_COMM_WORLD_LOCAL_SIZE", 1, &local) && local == p->size)
      snprintf(p->host, sizeof p->host, "127.0.0.1"); /* for tcp */
  } else if (number("PMI_SIZE", 2, &p->size) && number("PMI_RANK", 0, &p->rank)) {
    p->by = "PMI_SIZE";
    snprintf(p->transport, sizeof p->transport, "mpi");
  } else if (number("SLURM_STEP_NUM_TASKS", 2, &p->size)) { /* SLURM_NTASKS is also what a batch script itself sees */
    p->by = "SLURM_STEP_NUM_TASKS";
    srun = true;
    IJ_TRY(by_srun(p));
  } else {
    p->size = 1;
    p->rank = 0;
    if (transport)
      return ij_fail(IJ_EINVAL, "processes: IJEPA_DIST=%s, but neither mpirun nor srun started several", transport);
    return IJ_OK;
  }
  if (p->rank >= p->size)
    return ij_fail(IJ_EINVAL, "processes: process %d of %d: they are numbered from 0", p->rank, p->size);
  if (transport) snprintf(p->transport, sizeof p->transport, "%s", transport);
  p->asked = transport != NULL;
  meet(p, srun);
  if (!strcmp(p->transport, "tcp") && !p->host[0])
    return ij_fail(IJ_EINVAL, "processes: tcp needs the host of process 0: set IJEPA_MASTER_ADDR=HOST");
  return IJ_OK;
}
